"""Small corpora and configs for tests that train networks: tones whose pitch is their class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from voxshard.learning.network_config import NetworkConfig
from voxshard.manifest import Manifest
from voxshard.stages import extract, merge
from voxshard.stages.base import Task
from voxshard.stages.extract import ExtractConfig
from voxshard.stages.merge import MergeConfig

RATE = 8000
PITCHES = {"low": 300.0, "middle": 900.0, "high": 2500.0}
SPEAKERS = ("ann", "bob")


def tone_corpus(folder: Path, *, per_class: int = 8, seconds: tuple[float, ...] = (0.3, 0.4, 0.25)) -> Path:
    """Noisy tones of three pitches by two `speakers` (one is loud), two thirds of them for training; their manifest."""
    rng = np.random.default_rng(3)
    rows: list[dict[str, Any]] = []
    (folder / "audio").mkdir(parents=True)
    for name, pitch in PITCHES.items():
        for number in range(per_class):
            duration = seconds[number % len(seconds)]
            time = np.arange(int(duration * RATE)) / RATE
            loud = number % 2
            wave = (0.1 + 0.4 * loud) * np.sin(2 * np.pi * pitch * (1 + 0.05 * rng.random()) * time)
            wave += 0.01 * rng.standard_normal(len(time))
            path = f"{name}-{number}.wav"
            soundfile.write(folder / "audio" / path, wave, RATE)
            rows.append(
                {
                    "utterance_id": path,
                    "path": path,
                    "duration_s": duration,
                    "sample_rate": RATE,
                    "split": "test" if number >= 2 * per_class // 3 else "train",
                    "speaker": SPEAKERS[loud],
                    "pitch": name,
                    "loud": loud if number != 1 else None,
                    "high": int(name == "high"),
                    "fold": str(number % 3),
                }
            )
    path = folder / "manifest.parquet"
    Manifest.from_rows(rows, root=folder / "audio", corpus="table").write(path)
    return path


ECAPA = {
    "sample_rate": RATE, "width": 16, "embedding_size": 12, "attention_channels": 8, "num_mfcc": 20, "num_mels": 24,
    "n_fft": 256, "hop_length": 80, "heads": {"hidden": 10, "dropout": 0.0},
}  # fmt: skip
SPECTROGRAM = {
    "sample_rate": RATE, "patch_frames": 32, "num_mels": 32, "n_fft": 256, "hop_length": 80, "channels": 4,
    "embedding_size": 8, "dropout": 0.0, "heads": {"hidden": 8, "dropout": 0.0},
}  # fmt: skip


def network_config(manifest: Path, out: Path, **changes: Any) -> NetworkConfig:
    """A training of a tiny ECAPA on the tones' pitch, without worker processes."""
    values: dict[str, Any] = {
        "manifest": manifest,
        "label": "pitch",
        "network": "ecapa",
        "out": out,
        "device": "cpu",
        "workers": 0,
        "replicates": 0,
        "settings": ECAPA if changes.get("network", "ecapa") == "ecapa" else SPECTROGRAM,
        "training": {"epochs": 3, "batch_size": 5, "lr": 0.01},
    }
    return NetworkConfig.model_validate({**values, **changes})


LOGMEL = {"sample_rate": RATE, "n_mels": 32, "n_fft": 256, "hop_length": 80}
"""Of the encoder `logmel`: what `SPECTROGRAM` takes with `features: logmel`."""


def logmel_set(manifest: Path, out: Path, **changes: Any) -> Path:
    """A merged set of log-mel frames of a corpus."""
    config = ExtractConfig(manifest=manifest, encoder="logmel", out=out, workers=1, settings={**LOGMEL, **changes})
    extract.run(config, Task())
    merge.run(MergeConfig(features=out), Task())
    return out
