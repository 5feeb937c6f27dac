"""`ge2e`: Resemblyzer's speaker encoder, 256 numbers of length 1, in NumPy.

Suffixes: S samples, P windows, T frames, M mel bands, H hidden size, D embedding size.

References
----------
Wan et al., Generalized end-to-end loss for speaker verification, ICASSP 2018; Resemblyzer 0.1.4, voice_encoder.py,
audio.py and hparams.py (Apache-2.0).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from voxshard.cpus import available_cpus
from voxshard.encoders.acoustic.spectra import hann, mel_basis, power_spectrogram
from voxshard.encoders.base import Encoder, EncoderSettings, Features, KnownHashes, Output, Waveform, describe
from voxshard.encoders.ge2e_weights import CONVERTED, HIDDEN, NUM_LAYERS, NUM_MELS, Weights, read_converted
from voxshard.encoders.weight_files import hash_files, locate
from voxshard.encoders.window_threads import WindowThreads

_CODE_VERSION = 1
SAMPLE_RATE = 16_000
HOP_SAMPLES = 160
FRAME_SAMPLES = 400
WINDOW_FRAMES = 160
"""Frames of one window, 1.6 s."""
WINDOW_SAMPLES = WINDOW_FRAMES * HOP_SAMPLES
STEP_FRAMES = round(SAMPLE_RATE / 1.3 / HOP_SAMPLES)
"""Frames from one window to the next: 1.3 windows a second."""
MIN_COVERAGE = 0.75
"""A last window of which less is audio is dropped, unless it is the only one."""
_LARGEST_BATCH = 32
"""Windows computed at once by one thread: 2.5 times less work for each than of five; their activations take 25 MB."""
_WINDOW_COST_S = 0.25
"""Of one window on one CPU: the default budget of a batch, 8 s, then holds a largest batch for each thread."""
_Array = npt.NDArray[np.float32]


class Ge2eSettings(EncoderSettings):
    """Settings of `ge2e`."""

    weights: str | None = None
    """Folder with ge2e.npz, made by `voxshard weights fetch ge2e`; null: `$VOXSHARD_WEIGHTS/ge2e`."""
    precision: Literal["float32"] = "float32"
    """NumPy computes in no other one."""

    @classmethod
    def weight_files(cls, folder: Path) -> list[str]:
        return [CONVERTED]


def window_starts(num_samples: int) -> list[int]:
    """Return the first frame of every window of a clip."""
    num_frames = -(-(num_samples + 1) // HOP_SAMPLES)
    starts = list(range(0, max(1, num_frames - WINDOW_FRAMES + STEP_FRAMES + 1), STEP_FRAMES))
    coverage = (num_samples - starts[-1] * HOP_SAMPLES) / WINDOW_SAMPLES
    if coverage < MIN_COVERAGE and len(starts) > 1:
        starts.pop()
    return starts


@dataclass(frozen=True)
class MelWindows:
    """Power mel spectrogram (no logarithm) in windows of 1.6 s that overlap."""

    def __call__(self, waveform: Waveform) -> Features:
        """Convert float32 (S,) to float32 (P, 160, 40)."""
        starts = window_starts(len(waveform))
        missing = starts[-1] * HOP_SAMPLES + WINDOW_SAMPLES - len(waveform)
        padded = np.pad(waveform, (0, max(0, missing)))
        power_KT = power_spectrogram(
            padded, hann(FRAME_SAMPLES, FRAME_SAMPLES), hop_length=HOP_SAMPLES, padding="constant"
        )
        frames_TM = (mel_basis(SAMPLE_RATE, FRAME_SAMPLES, NUM_MELS, 0.0, None) @ power_KT).T
        return np.stack([frames_TM[start : start + WINDOW_FRAMES] for start in starts])


class Ge2eEncoder(Encoder):
    """Windows of all utterances share batches; the mean of an utterance's windows, normalised, is its embedding."""

    settings_model = Ge2eSettings
    preparer = MelWindows()

    def __init__(self, name: str, settings: Ge2eSettings, known_hashes: KnownHashes) -> None:
        self._folder = locate(name, settings.weights, required=(CONVERTED,))
        self._network: Ge2eNetwork | None = None
        self.info = describe(
            name=name,
            settings=settings,
            code_version=_CODE_VERSION,
            libraries=("librosa", "soxr"),
            weights_folder=self._folder,
            weight_files=hash_files(self._folder, settings.weight_files(self._folder), known_hashes),
            sample_rate=SAMPLE_RATE,
            dim=HIDDEN,
            granularity="utterance",
            batch_policy="windows",
        )

    def load(self, device: str) -> None:
        """Read the weights.

        Raises
        ------
        MissingWeightsError, CorruptFileError : the file is missing, damaged, or another model's.
        """
        self._network = Ge2eNetwork(read_converted(self._folder / CONVERTED))
        self._threads = WindowThreads()

    def encode(self, features: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> list[Output]:
        assert self._network is not None, "load() comes before encode()"
        parts = [features[start : start + _LARGEST_BATCH] for start in range(0, len(features), _LARGEST_BATCH)]
        windows_PD = np.concatenate(self._threads.map(self._network, parts))
        means = [part.mean(axis=0) for part in np.split(windows_PD, np.cumsum(lengths)[:-1])]
        return [{"embedding": mean / np.linalg.norm(mean)} for mean in means]

    def cost(self, length: int) -> float:
        return length * _WINDOW_COST_S / available_cpus()


class Ge2eNetwork:
    """An LSTM of three layers, a linear layer and a ReLU, in float32."""

    def __init__(self, weights: Weights) -> None:
        def transposed(name: str) -> _Array:
            return np.ascontiguousarray(weights[name].T)

        self._layers = [
            (
                transposed(f"lstm.weight_ih_l{n}"),
                transposed(f"lstm.weight_hh_l{n}"),
                weights[f"lstm.bias_ih_l{n}"] + weights[f"lstm.bias_hh_l{n}"],
            )
            for n in range(NUM_LAYERS)
        ]
        self._linear, self._bias = transposed("linear.weight"), weights["linear.bias"]

    def __call__(self, windows: _Array) -> _Array:
        """Convert float32 (P, T, M) to float32 (P, D), each of length 1."""
        hidden_TPH = np.ascontiguousarray(windows.transpose(1, 0, 2), np.float32)
        for layer in self._layers:
            hidden_TPH = _lstm(hidden_TPH, *layer)
        embedding_PD = np.maximum(hidden_TPH[-1] @ self._linear + self._bias, 0)
        return np.asarray(embedding_PD / np.linalg.norm(embedding_PD, axis=1, keepdims=True))


def _lstm(inputs_TPX: _Array, from_input: _Array, from_hidden: _Array, bias: _Array) -> _Array:
    """Hidden states of one layer, (T, P, H); gates in PyTorch's order: input, forget, cell, output."""
    gates_TPG = inputs_TPX @ from_input + bias
    num_frames, num_windows, _ = gates_TPG.shape
    hidden_PH = np.zeros((num_windows, HIDDEN), np.float32)
    cell_PH = np.zeros_like(hidden_PH)
    outputs_TPH = np.empty((num_frames, num_windows, HIDDEN), np.float32)
    for gates_PG, output_PH in zip(gates_TPG, outputs_TPH, strict=True):
        gates_PG += hidden_PH @ from_hidden
        into, keep, new, out = np.split(gates_PG, 4, axis=1)
        cell_PH = _sigmoid(keep) * cell_PH + _sigmoid(into) * np.tanh(new)
        hidden_PH = _sigmoid(out) * np.tanh(cell_PH)
        output_PH[:] = hidden_PH
    return outputs_TPH


def _sigmoid(values: _Array) -> _Array:
    return np.asarray(0.5 * np.tanh(0.5 * values) + 0.5, np.float32)
