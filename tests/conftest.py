"""Small corpora that tests share."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voxshard.manifest import Manifest

MakeCorpus = Callable[..., Path]
RATE = 16000
if importlib.util.find_spec("hypothesis"):  # a busy machine is slow at drawing examples, too
    import hypothesis

    hypothesis.settings.register_profile(
        "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("patient")


@pytest.fixture
def make_corpus(tmp_path: Path) -> MakeCorpus:
    """Write tones of the given lengths and return the path of their manifest."""

    def make(seconds: Sequence[float], *, splits: Sequence[str] | None = None, name: str = "corpus") -> Path:
        root = tmp_path / name
        root.mkdir()
        rng = np.random.default_rng(len(seconds))
        rows = []
        for number, length_s in enumerate(seconds):
            samples = 0.3 * rng.standard_normal(int(length_s * RATE)).astype(np.float32)
            soundfile.write(root / f"u{number:04d}.wav", samples, RATE, subtype="FLOAT")
            rows.append(
                {
                    "utterance_id": f"u{number:04d}",
                    "path": f"u{number:04d}.wav",
                    "duration_s": length_s,
                    "num_bytes": len(samples) * 4,
                    "split": splits[number] if splits else None,
                }
            )
        manifest = tmp_path / f"{name}.parquet"
        Manifest.from_rows(rows, root=root, corpus="folder").write(manifest)
        return manifest

    return make
