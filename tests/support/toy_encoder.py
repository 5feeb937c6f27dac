"""Encoders without weights that use every batch policy, for tests of the extraction."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from voxshard.encoders.base import (
    BatchPolicy,
    Encoder,
    EncoderSettings,
    Features,
    KnownHashes,
    Output,
    Waveform,
    describe,
)
from voxshard.errors import DeviceMemoryError

HOP = 160
WARM_UP_SAMPLES = 16000


class ToySettings(EncoderSettings):
    """Settings of the toy encoder."""

    policy: BatchPolicy = "padded"
    """How it batches."""
    granularity: str = "utterance"
    """utterance or frames."""
    leak: float = 0.0
    """Adds this much of the batch's padding to every row: an encoder that is not exact."""
    chunk_seconds: float | None = None
    """Chunks of long clips."""
    max_batch_samples: int | None = None
    """Padded samples from which on a batch does not fit in memory."""
    sleep_s: float = 0.0
    """Seconds of sleep per batch."""
    crash_on: str | None = None
    """Folder with files named after sample counts; preparing a clip of such a length kills the process."""
    prepare_s: float = 0.0
    """Seconds of sleep per utterance, in the worker."""
    log: str | None = None
    """File that gets a line per utterance prepared: its number of samples."""
    numerics: int = 1
    """Its version."""


@dataclass(frozen=True)
class ToyPreparer:
    """Slow, talkative, or deadly."""

    crash_on: str | None = None
    sleep_s: float = 0.0
    log: str | None = None

    def __call__(self, waveform: Waveform) -> Features:
        if self.crash_on and Path(self.crash_on, str(len(waveform))).exists():
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.sleep_s)
        if self.log and len(waveform) != WARM_UP_SAMPLES:
            with open(self.log, "a") as stream:
                stream.write(f"{len(waveform)}\n")
        return waveform


class ToyEncoder(Encoder):
    """Mean and energy per utterance, or per hop."""

    settings_model: ClassVar[type[EncoderSettings]] = ToySettings

    def __init__(self, name: str, settings: ToySettings, known_hashes: KnownHashes) -> None:
        self.settings = settings
        self.batch_sizes: list[int] = []
        chunk = settings.chunk_seconds
        self.info = describe(
            name=name,
            settings=settings.model_copy(update={"log": None, "prepare_s": 0.0}),
            code_version=settings.numerics,
            libraries=["numpy"],
            sample_rate=16000,
            dim=2,
            granularity=settings.granularity,
            batch_policy=settings.policy,
            min_samples=HOP,
            chunk_samples=None if chunk is None else int(chunk * 16000),
            frame_rate_hz=None if settings.granularity == "utterance" else 100.0,
        )
        if settings.crash_on or settings.prepare_s or settings.log:
            self.preparer = ToyPreparer(settings.crash_on, settings.prepare_s, settings.log)

    def encode(self, features: np.ndarray, lengths: np.ndarray) -> list[Output]:
        with np.errstate(over="ignore"):
            return self._encode(features, lengths)

    def _encode(self, features: np.ndarray, lengths: np.ndarray) -> list[Output]:
        limit = self.settings.max_batch_samples
        if limit is not None and features.size > limit:
            raise DeviceMemoryError(f"{features.size} samples do not fit")
        self.batch_sizes.append(len(lengths))
        time.sleep(self.settings.sleep_s)
        rows = np.split(features, np.cumsum(lengths)[:-1]) if self.settings.policy == "windows" else features
        outputs: list[Output] = []
        for row, length in zip(rows, lengths, strict=True):
            valid = row[:length].astype(np.float64)
            padding = self.settings.leak * (len(row) - length)
            if self.settings.granularity == "utterance":
                outputs.append({"embedding": np.float32([valid.mean() + padding, np.square(valid).mean()])})
            else:
                frames = valid[: len(valid) // HOP * HOP].reshape(-1, HOP)
                both = np.stack([frames.mean(1) + padding, np.square(frames).mean(1)], axis=1)
                outputs.append({"frames": both.astype(np.float32)})
        return outputs


def install(monkeypatch: Any) -> None:
    """Register the encoder as `toy` for one test."""
    from voxshard.encoders import registry

    spec = registry.EncoderSpec("toy", "support.toy_encoder:ToyEncoder", "support.toy_encoder:ToySettings", "for tests")
    monkeypatch.setitem(registry.SPECS, "toy", spec)
