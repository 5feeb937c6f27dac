"""`musicnn`: music tags and the features behind them, for windows of 3 s, in NumPy.

Suffixes: S samples, P windows, T frames, M mel bands.

References
----------
musicnn 0.1.0, extractor.py and configuration.py (ISC).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import librosa
import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from voxshard.cpus import available_cpus
from voxshard.encoders import musicnn_network
from voxshard.encoders.base import Encoder, EncoderSettings, Features, KnownHashes, Output, Waveform, describe
from voxshard.encoders.musicnn_weights import (
    CONVERTED,
    DENSE,
    MIDDLE,
    NUM_MELS,
    NUM_TAGS,
    POOLED,
    TEMPORAL,
    TIMBRAL,
    VGG,
    Weights,
    read_converted,
)
from voxshard.encoders.weight_files import hash_files, locate
from voxshard.encoders.window_threads import WindowThreads

_CODE_VERSION = 1
SAMPLE_RATE = 16_000
FFT_SAMPLES = 512
HOP_SAMPLES = 256
WINDOW_FRAMES = 187
"""Frames of one window, 3 s."""
_WINDOW_COST_S = 2.0
"""Of one window on one CPU: the default budget of a batch, 8 s, then holds four windows for each thread."""
_FRAME_S = HOP_SAMPLES / SAMPLE_RATE
_WINDOW_SIZES = {
    "taggram": NUM_TAGS,
    "mean_pool": POOLED,
    "max_pool": POOLED,
    "penultimate": DENSE,
    "pool5": 2 * VGG,
}
_FRAME_SIZES = {"timbral": 2 * TIMBRAL, "temporal": 3 * TEMPORAL, **dict.fromkeys(("cnn1", "cnn2", "cnn3"), MIDDLE)}


class MusicnnSettings(EncoderSettings):
    """Settings of `musicnn`."""

    weights: str | None = None
    """Folder with musicnn.npz, made by `voxshard weights fetch musicnn`; null: `$VOXSHARD_WEIGHTS/musicnn`."""
    model: Literal["MSD_musicnn", "MTT_musicnn", "MSD_vgg", "MTT_vgg"] = "MSD_musicnn"
    """Network, and the data it was trained on: the Million Song Dataset or MagnaTagATune."""
    output: Literal[
        "taggram", "mean_pool", "max_pool", "penultimate", "pool5", "timbral", "temporal", "cnn1", "cnn2", "cnn3"
    ] = "max_pool"
    """What is stored: one vector per window (of vgg models: taggram or pool5), or one every 16 ms (timbral, temporal,
    cnn1, cnn2, cnn3)."""
    input_overlap: float | None = Field(None, ge=0.032)
    """Seconds from the start of one window to the next, under musicnn's own name for it; null: 3 s, so that windows do
    not overlap."""
    precision: Literal["float32"] = "float32"
    """NumPy computes in no other one."""

    @model_validator(mode="after")
    def _check_output(self) -> Self:
        is_vgg = self.model.endswith("_vgg")
        if is_vgg and self.output not in ("taggram", "pool5"):
            raise ValueError(f"output {self.output} does not exist in {self.model}; choose taggram or pool5")
        if not is_vgg and self.output == "pool5":
            raise ValueError(f"output pool5 is that of the vgg models; {self.model} has max_pool and others")
        if self.output in _FRAME_SIZES and self.input_overlap is not None:
            raise ValueError(
                f"output {self.output} has frames, which windows that overlap would repeat; leave out input_overlap"
            )
        return self

    @classmethod
    def weight_files(cls, folder: Path) -> list[str]:
        return [CONVERTED]


@dataclass(frozen=True)
class LogMelWindows:
    """Log-mel spectrogram in windows of 187 frames; what is left at the end, shorter than a window, is dropped."""

    step_frames: int = WINDOW_FRAMES
    """Frames from the start of one window to the next."""

    def __call__(self, waveform: Waveform) -> Features:
        """Convert float32 (S,), S >= 47616, to float32 (P, 187, 96)."""
        mel_MT = librosa.feature.melspectrogram(
            y=waveform, sr=SAMPLE_RATE, n_fft=FFT_SAMPLES, hop_length=HOP_SAMPLES, n_mels=NUM_MELS
        )
        log_TM = log_compressed(mel_MT.T)
        return np.stack(
            [
                log_TM[start : start + WINDOW_FRAMES]
                for start in range(0, len(log_TM) - WINDOW_FRAMES + 1, self.step_frames)
            ]
        )


def log_compressed(mel: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return log10(10000 x + 1), in float16 as musicnn does; in float32 where that overflows, above x = 6.5.

    musicnn itself gives infinite numbers there.
    """
    with np.errstate(over="ignore"):
        half = np.log10(np.float16(10_000) * mel.astype(np.float16) + np.float16(1)).astype(np.float32)
    return np.where(np.isfinite(half), half, np.log10(10_000 * mel + 1)).astype(np.float32)


class MusicnnEncoder(Encoder):
    """Each window is computed by itself, on all CPUs at once; windows of all utterances share batches."""

    settings_model = MusicnnSettings

    def __init__(self, name: str, settings: MusicnnSettings, known_hashes: KnownHashes) -> None:
        self._settings = settings
        self._folder = locate(name, settings.weights, required=(CONVERTED,))
        self._weights: Weights | None = None
        step_frames = WINDOW_FRAMES
        if settings.input_overlap is not None:
            step_frames = int(
                librosa.time_to_frames(
                    settings.input_overlap, sr=SAMPLE_RATE, hop_length=HOP_SAMPLES, n_fft=FFT_SAMPLES
                )
            )
        self.preparer = LogMelWindows(step_frames)
        self._gives_frames = settings.output in _FRAME_SIZES
        shape: dict[str, Any] = {
            "granularity": "windows",
            "window_s": WINDOW_FRAMES * _FRAME_S,
            "hop_s": step_frames * _FRAME_S,
        }
        if self._gives_frames:
            shape = {"granularity": "frames", "frame_rate_hz": 1 / _FRAME_S}
        self.info = describe(
            name=name,
            settings=settings,
            code_version=_CODE_VERSION,
            libraries=("librosa", "soxr"),
            weights_folder=self._folder,
            weight_files=hash_files(self._folder, settings.weight_files(self._folder), known_hashes),
            sample_rate=SAMPLE_RATE,
            dim=(_WINDOW_SIZES | _FRAME_SIZES)[settings.output],
            batch_policy="windows",
            min_samples=(WINDOW_FRAMES - 1) * HOP_SAMPLES,
            **shape,
        )

    def load(self, device: str) -> None:
        """Read the weights.

        Raises
        ------
        MissingWeightsError, CorruptFileError : the file is missing, damaged, or another model's.
        """
        self._weights = read_converted(self._folder / CONVERTED, self._settings.model)
        self._threads = WindowThreads()

    def encode(self, features: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> list[Output]:
        assert self._weights is not None, "load() comes before encode()"
        found = self._threads.map(self._of_window, features)
        rows = np.concatenate(found) if self._gives_frames else np.stack(found)
        counts = lengths * WINDOW_FRAMES if self._gives_frames else lengths
        return [{"frames": part.copy()} for part in np.split(rows, np.cumsum(counts)[:-1])]

    def _of_window(self, window_TM: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        assert self._weights is not None
        network = musicnn_network.vgg if self._settings.model.endswith("_vgg") else musicnn_network.musicnn
        return network(window_TM, self._weights)[self._settings.output]

    def cost(self, length: int) -> float:
        return length * _WINDOW_COST_S / available_cpus()
