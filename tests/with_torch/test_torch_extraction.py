"""Complete extractions with PyTorch encoders: the same numbers in one batch, in shards, by several tasks, after a
kill."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

import voxshard
from conftest import MakeCorpus
from voxshard.encoders.base import Output
from voxshard.errors import DeviceMemoryError, IdentityError
from voxshard.extraction.encode import TOLERANCE_RMS
from voxshard.manifest import Manifest
from voxshard.progress import Silent
from voxshard.stages import extract
from voxshard.stages.base import Task
from voxshard.stages.extract import ExtractConfig
from voxshard.stages.merge import MergeConfig
from voxshard.stages.merge import run as merge
from voxshard.store.features import FeatureSet
from voxshard.store.shard import read_shard

REFERENCE = Path(__file__).parents[2] / "../shared/reference"
SECONDS = [0.3 + 0.13 * (n * 7 % 20) for n in range(24)]
MakeFolder = Callable[..., Path]


def config_of(manifest: Path, out: Path, encoder: str = "hf", **values: object) -> ExtractConfig:
    return ExtractConfig(**{"manifest": manifest, "encoder": encoder, "out": out, "workers": 1, **values})


def extracted(config: ExtractConfig) -> FeatureSet:
    assert extract.run(config).missing == []
    merge(MergeConfig(features=config.out))
    return voxshard.open_features(config.out)


def check_equal(found: FeatureSet, expected: FeatureSet) -> None:
    assert list(found.ids) == list(expected.ids)
    for name in expected.ids:
        if expected.granularity == "utterance":
            pairs = [(found[name], expected[name])]
        else:
            pairs = [(found.frames(name), expected.frames(name))]
        for one, other in pairs:
            atol = TOLERANCE_RMS["float32"] * float(np.sqrt(np.mean(np.square(other, dtype=np.float64))))
            np.testing.assert_allclose(one, other, rtol=0, atol=atol)


@pytest.mark.parametrize("pooling", ["none", "mean", "sum", "max", "mean+std"])
@pytest.mark.parametrize("kind", ["wav2vec2-group", "w2v-bert"])
def test_one_big_batch_seven_shards_and_one_by_one_give_the_same(
    make_corpus: MakeCorpus, make_model: MakeFolder, tmp_path: Path, kind: str, pooling: str
) -> None:
    manifest = make_corpus(SECONDS)
    settings = {"weights": str(make_model(kind)), "pooling": pooling, "layer": [1, 2]}
    alone = extracted(config_of(manifest, tmp_path / "alone", settings=settings, batch_seconds=0.01, shards=1))
    together = extracted(config_of(manifest, tmp_path / "together", settings=settings, batch_seconds=1000, shards=1))
    sharded = extracted(config_of(manifest, tmp_path / "sharded", settings=settings, batch_seconds=3, shards=7))
    check_equal(together, alone)
    check_equal(sharded, alone)
    header = read_shard(next((tmp_path / "together" / "shards").iterdir())).header
    assert header.self_check is not None
    assert 0 <= header.self_check < TOLERANCE_RMS["float32"]


@pytest.mark.parametrize("encoder", ["metis8d", "ecapa"])
def test_metis_and_ecapa_do_not_depend_on_the_batch(
    make_corpus: MakeCorpus, make_metis: MakeFolder, make_ecapa: MakeFolder, tmp_path: Path, encoder: str
) -> None:
    manifest = make_corpus(SECONDS)
    settings: dict[str, object] = {"weights": str(make_metis() if encoder == "metis8d" else make_ecapa())}
    settings |= {"layer": 2, "codes": True} if encoder == "metis8d" else {}
    alone = extracted(config_of(manifest, tmp_path / "alone", encoder, settings=settings, batch_seconds=0.01))
    together = extracted(config_of(manifest, tmp_path / "together", encoder, settings=settings, batch_seconds=1000))
    check_equal(together, alone)
    if encoder == "metis8d":
        for name in alone.ids:
            np.testing.assert_array_equal(together.codes(name), alone.codes(name))


@pytest.mark.parametrize("count", [1, 3, 7])
def test_tasks_killed_in_the_middle_and_run_again_lose_nothing(
    make_corpus: MakeCorpus, make_model: MakeFolder, tmp_path: Path, count: int
) -> None:
    manifest = make_corpus(SECONDS)
    weights = make_model("wav2vec2-layer")
    settings = {"weights": str(weights)}
    expected = extracted(config_of(manifest, tmp_path / "undisturbed", settings=settings, shards=12))
    folder = tmp_path / "set"
    command = [sys.executable, "-m", "voxshard", "extract", str(manifest), "--encoder", "hf", "--workers", "1"]
    command += ["--set", f"weights={weights}", "--shards", "12", "--out", str(folder), "--tasks", str(count)]
    first = subprocess.Popen([*command, "--task", "0"], stderr=subprocess.DEVNULL)
    while len(list(folder.glob("shards/*.h5"))) < 2 and first.poll() is None:
        time.sleep(0.01)
    first.kill()
    first.wait()
    assert 2 <= len(list(folder.glob("shards/*.h5"))) <= 12
    tasks = [
        threading.Thread(target=extract.run, args=(config_of(manifest, folder, settings=settings), Task(index, count)))
        for index in range(count)
    ]
    for task in tasks:
        task.start()
    for task in tasks:
        task.join()
    check_equal(extracted(config_of(manifest, folder, settings=settings)), expected)


def test_the_identity_follows_what_changes_numbers_and_nothing_else(
    make_corpus: MakeCorpus, make_model: MakeFolder, tmp_path: Path
) -> None:
    manifest = make_corpus([0.5, 0.7])
    settings = {"weights": str(make_model("wav2vec2-layer"))}
    first = extract.run(config_of(manifest, tmp_path / "set", settings=settings), plan_only=True).identity
    again = config_of(manifest, tmp_path / "set", settings=settings, workers=2, batch_seconds=7.0, device="cpu")
    assert extract.run(again, plan_only=True).identity == first
    changes = {
        "layer": {"layer": 1},
        "pooling": {"pooling": "sum"},
        "precision": {"precision": "bf16"},
        "weights": {"weights": str(make_model("wav2vec2-layer", seed=1))},
    }
    for key, change in changes.items():
        with pytest.raises(IdentityError, match=rf"different: .*{key}"):
            extract.run(config_of(manifest, tmp_path / "set", settings={**settings, **change}), plan_only=True)


def test_odd_recordings_in_a_batch_do_not_touch_the_good_ones(
    make_corpus: MakeCorpus, make_model: MakeFolder, tmp_path: Path
) -> None:
    manifest = make_corpus([1.0, 1.4, 2.0, 0.8])
    settings = {"weights": str(make_model("wav2vec2-group"))}
    clean = extracted(config_of(manifest, tmp_path / "clean", settings=settings))
    table = Manifest.read(manifest)
    root = Path(table.root)
    rng = np.random.default_rng(0)
    odd = {"stereo": rng.standard_normal((16000, 2)) * 0.1, "tiny": rng.standard_normal(100) * 0.1}
    odd |= {"silence": np.zeros(16000), "long": rng.standard_normal(16000 * 90) * 0.1}
    for name, samples in odd.items():
        soundfile.write(root / f"{name}.wav", samples, 16000)
    soundfile.write(root / "48k.wav", rng.standard_normal(48000) * 0.1, 48000)
    rows = [{"utterance_id": name, "path": name, "duration_s": 1.0} for name in sorted(p.name for p in root.iterdir())]
    Manifest.from_rows(rows, root=root, corpus="folder").write(tmp_path / "odd.parquet")
    mixed = extracted(config_of(tmp_path / "odd.parquet", tmp_path / "odd", settings=settings))
    assert set(mixed.ids) == {row["utterance_id"] for row in rows} - {"tiny.wav"}
    failures = (tmp_path / "odd" / "failures.csv").read_text()
    assert "TooShortError,100 samples at 16000 Hz" in failures.replace('"', "")
    for name in clean.ids:
        np.testing.assert_allclose(mixed[f"{name}.wav"], clean[name], atol=1e-5)


def test_out_of_memory_is_survived_with_the_same_numbers(
    make_corpus: MakeCorpus, make_model: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from voxshard.encoders._torch.hf import HfEncoder

    manifest = make_corpus(SECONDS)
    settings = {"weights": str(make_model("wav2vec2-layer"))}
    expected = extracted(config_of(manifest, tmp_path / "roomy", settings=settings))
    start, refused, notes = HfEncoder.start, [], []

    def tight(self: HfEncoder, features: np.ndarray, lengths: np.ndarray) -> Callable[[], list[Output]]:
        if features.size > 4 * 16000:
            refused.append(features.size)
            raise DeviceMemoryError("injected")
        return start(self, features, lengths)

    class Notes(Silent):
        def note(self, message: str) -> None:
            notes.append(message)

    monkeypatch.setattr(HfEncoder, "start", tight)
    config = config_of(manifest, tmp_path / "tight", settings=settings)
    extract.run(config, Task(progress=Notes()))
    assert refused
    assert any("out of device memory: batches are now at most" in note for note in notes)
    check_equal(extracted(config), expected)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference vectors at {REFERENCE}")
@pytest.mark.parametrize("shards", [1, 7])
def test_merged_sets_hold_the_reference_vectors(tmp_path: Path, shards: int) -> None:
    wavs = sorted((REFERENCE / "wav").glob("*.wav"))
    rows = [
        {"utterance_id": path.name, "path": path.name, "duration_s": soundfile.info(path).duration} for path in wavs
    ]
    manifest = tmp_path / "manifest.parquet"
    Manifest.from_rows(rows, root=REFERENCE / "wav", corpus="folder").write(manifest)
    metis = {"weights": str(REFERENCE / "metis_tiny"), "codes": True}
    latents = extracted(config_of(manifest, tmp_path / "metis", "metis8d", settings=metis, shards=shards))
    expected = np.load(REFERENCE / "metis_tiny_ref.npz")
    for key in expected.files:
        name, _, what = key.rpartition(".")
        if what == "latents":
            np.testing.assert_allclose(latents.frames(f"{name}.wav"), expected[key], rtol=0, atol=1e-4)
        elif what == "codes":
            np.testing.assert_array_equal(latents.codes(f"{name}.wav"), expected[key])
    speakers = {"weights": str(REFERENCE / "spkrec-ecapa-fake")}
    found = extracted(config_of(manifest, tmp_path / "ecapa", "ecapa", settings=speakers, shards=shards))
    expected = np.load(REFERENCE / "ecapa_ref.npz")
    for name in expected.files:
        scale = float(np.abs(expected[name]).max())
        np.testing.assert_allclose(found[f"{name}.wav"], expected[name], rtol=0, atol=1e-4 * scale)
