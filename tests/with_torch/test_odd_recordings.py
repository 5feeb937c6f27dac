"""Recordings that break scripts, in one extraction with good ones that must not notice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from voxshard.encoders.registry import create
from voxshard.manifest import Manifest
from voxshard.stages import extract
from voxshard.store.shard import read_shard
from voxshard.testing import encode_together

MakeFolder = Callable[..., Path]
LONG_S = 1800


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("odd")
    rng = np.random.default_rng(0)
    stereo = 0.2 * rng.standard_normal((24000, 2))
    recordings = {
        "good": (0.1 * rng.standard_normal(20000), 16000),
        "hundred-samples": (0.1 * rng.standard_normal(100), 16000),
        "silence": (np.zeros(16000), 16000),
        "stereo": (stereo, 16000),
        "stereo-mixed": (stereo.mean(axis=1), 16000),
        "48-khz": (0.1 * rng.standard_normal(72000), 48000),
        "thirty-minutes": (np.tile(0.1 * rng.standard_normal(16000 * 60), LONG_S // 60), 16000),
    }
    rows = []
    for name, (samples, rate) in recordings.items():
        subtype = "PCM_16" if name == "thirty-minutes" else "DOUBLE"
        soundfile.write(root / f"{name}.wav", samples, rate, subtype=subtype)
        size = (root / f"{name}.wav").stat().st_size
        rows.append({"utterance_id": name, "path": f"{name}.wav", "duration_s": len(samples) / rate, "num_bytes": size})
    Manifest.from_rows(rows, root=root, corpus="folder").write(root / "manifest.parquet")
    return root / "manifest.parquet"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hf", "metis8d", "ecapa"])
def test_each_ends_as_an_embedding_or_as_a_failure_with_a_reason(
    name: str,
    corpus: Path,
    tmp_path: Path,
    make_model: MakeFolder,
    make_metis: MakeFolder,
    make_ecapa: MakeFolder,
) -> None:
    settings: dict[str, Any] = {
        "hf": lambda: {"weights": str(make_model("wav2vec2-group")), "chunk_seconds": 20},
        "metis8d": lambda: {"weights": str(make_metis()), "layer": 1, "chunk_seconds": 20},
        "ecapa": lambda: {"weights": str(make_ecapa())},
    }[name]()
    config = extract.ExtractConfig(
        manifest=corpus, encoder=name, settings=settings, out=tmp_path / "set", shards=1, workers=1, device="cpu"
    )
    extract.run(config)
    (path,) = (tmp_path / "set/shards").glob("*.h5")
    shard = read_shard(path)
    outputs = {key: output["frames" if name == "metis8d" else "embedding"] for key, output in shard.outputs()}

    encoder = create(name, settings)
    reason = f"100 samples at 16000 Hz (0.0063 s); this encoder needs at least {encoder.info.min_samples}: `--set min_s"
    assert [tuple(failure)[:2] for failure in shard.failures] == [("hundred-samples", "TooShortError")]
    assert shard.failures[0][2].startswith(reason)
    assert set(outputs) == {"good", "silence", "stereo", "stereo-mixed", "48-khz", "thirty-minutes"}
    assert all(np.isfinite(output).all() for output in outputs.values())
    np.testing.assert_allclose(outputs["stereo"], outputs["stereo-mixed"], rtol=0, atol=1e-4 * outputs["stereo"].std())
    if name == "metis8d":
        assert len(outputs["thirty-minutes"]) == pytest.approx(LONG_S * 50, abs=2 * LONG_S / 20)

    encoder.load("cpu")
    samples = soundfile.read(corpus.parent / "good.wav", dtype="float32")[0]
    (alone,) = encode_together(encoder, [samples])
    (values,) = (value for key, value in alone.items() if key != "codes")
    np.testing.assert_allclose(outputs["good"], values, rtol=0, atol=1e-4 * values.std())
