"""Spectrograms of fixed windows, as pretrained models of windows take them, in NumPy; see each class for its source.

Suffixes: S samples, P windows, F spectrogram frames, M mel bands.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from voxshard.encoders.base import Features, Waveform
from voxshard.encoders.filterbanks import KaldiFbank
from voxshard.encoders.mel_filters import mel_filters

_FLOOR = 1e-10
"""Smallest mel energy before the logarithm (transformers, audio_utils.py and feature_extraction_whisper.py)."""


def _cut(waveform: Waveform, window_samples: int, min_samples: int = 1) -> Iterator[Waveform]:
    """Consecutive windows; a last one of fewer than `min_samples` is dropped."""
    for start in range(0, len(waveform), window_samples):
        window = waveform[start : start + window_samples]
        if len(window) >= min_samples:
            yield window


def _power_spectrum(waveform: Waveform, fft_samples: int, hop_samples: int) -> npt.NDArray[np.float64]:
    """float64 (F, K): centred frames with mirrored ends and a periodic Hann window; F = 1 + S // hop."""
    padded = np.pad(waveform, fft_samples // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, fft_samples)[::hop_samples]
    hann = np.hanning(fft_samples + 1)[:-1]
    spectrum = np.fft.rfft(frames * hann)
    return spectrum.real**2 + spectrum.imag**2


@functools.cache
def _mel_filters(
    sample_rate: int, fft_samples: int, num_mels: int, low_hz: float, high_hz: float, *, slaney: bool
) -> npt.NDArray[np.float64]:
    """(K, M) triangles on Slaney's mel scale with Slaney's norm, or on the HTK scale without one."""
    filters_MK = mel_filters(sample_rate, fft_samples, num_mels, low_hz, high_hz, slaney=slaney, dtype=np.float64)
    return np.ascontiguousarray(filters_MK.T)


@dataclass(frozen=True)
class WhisperFeatures:
    """What transformers' WhisperFeatureExtractor gives for consecutive windows of 30 s, the last padded with zeros.

    A last row names which spectrogram frames cover audio (1) and which only padding (0).

    References
    ----------
    transformers, models/whisper/feature_extraction_whisper.py
    """

    sample_rate: int = 16000
    num_mel_bins: int = 80
    window_samples: int = 480_000
    fft_samples: int = 400
    hop_samples: int = 160
    samples_per_frame: int = 320
    """Samples for each frame of the model's output; a frame that covers one sample of audio counts as valid."""

    def __call__(self, waveform: Waveform) -> Features:
        """Convert float32 (S,) to float32 (P, M + 1, F), F = window_samples // hop_samples."""
        filters_KM = _mel_filters(self.sample_rate, self.fft_samples, self.num_mel_bins, 0.0, 8000.0, slaney=True)
        num_windows = -(-len(waveform) // self.window_samples)
        num_frames = self.window_samples // self.hop_samples
        features = np.zeros((num_windows, self.num_mel_bins + 1, num_frames), np.float32)
        for row, window in zip(features, _cut(waveform, self.window_samples), strict=True):
            padded = np.pad(window, (0, self.window_samples - len(window)))
            power_FK = _power_spectrum(padded, self.fft_samples, self.hop_samples)[:num_frames]
            log_mel_FM = np.log10(np.maximum(power_FK @ filters_KM, _FLOOR))
            row[:-1] = (np.maximum(log_mel_FM, log_mel_FM.max() - 8.0).T + 4.0) / 4.0
            num_valid = -(-len(window) // self.samples_per_frame)
            row[-1, : num_valid * self.samples_per_frame // self.hop_samples] = 1.0
        return features


@dataclass(frozen=True)
class AstFeatures:
    """What transformers' ASTFeatureExtractor gives for consecutive windows of `num_rows` x 10 ms.

    References
    ----------
    transformers, models/audio_spectrogram_transformer/feature_extraction_audio_spectrogram_transformer.py
    """

    sample_rate: int = 16000
    num_mel_bins: int = 128
    num_rows: int = 1024
    mean: float = -4.2677393
    std: float = 4.5689974
    do_normalize: bool = True

    @property
    def fbank(self) -> KaldiFbank:
        """Return the filter bank, on samples in [-1, 1] as the extractor has it."""
        return KaldiFbank(self.num_mel_bins, self.sample_rate, "hanning")

    @property
    def window_samples(self) -> int:
        """Return the number of samples of one window."""
        return self.num_rows * self.fbank.hop_samples

    def __call__(self, waveform: Waveform) -> Features:
        """float32 (S,) to float32 (P, num_rows, M); a last window without a complete frame is dropped."""
        rows = []
        for window in _cut(waveform, self.window_samples, self.fbank.frame_samples):
            found_FM = self.fbank(window)
            padded_FM = np.zeros((self.num_rows, self.num_mel_bins), np.float32)
            padded_FM[: len(found_FM)] = found_FM
            rows.append((padded_FM - self.mean) / (2 * self.std) if self.do_normalize else padded_FM)
        return np.stack(rows).astype(np.float32)


@dataclass(frozen=True)
class ClapFeatures:
    """What transformers' ClapFeatureExtractor gives for consecutive windows of 10 s, each called by itself.

    Nothing is ever longer than a window, so nothing is cropped at random.

    References
    ----------
    transformers, models/clap/feature_extraction_clap.py
    """

    sample_rate: int
    num_mel_bins: int
    window_samples: int
    fft_samples: int
    hop_samples: int
    low_hz: float
    high_hz: float
    padding: Literal["repeatpad", "repeat", "pad"]
    slaney: bool
    """Slaney's filters; models with fusion take those of the HTK scale."""

    def __call__(self, waveform: Waveform) -> Features:
        """Convert float32 (S,) to float32 (P, F, M), F = 1 + window_samples // hop_samples."""
        filters_KM = _mel_filters(
            self.sample_rate, self.fft_samples, self.num_mel_bins, self.low_hz, self.high_hz, slaney=self.slaney
        )
        rows = []
        for window in _cut(waveform, self.window_samples):
            power_FK = _power_spectrum(self._filled(window), self.fft_samples, self.hop_samples)
            rows.append(10.0 * np.log10(np.maximum(power_FK @ filters_KM, _FLOOR)))
        return np.stack(rows).astype(np.float32)

    def _filled(self, window: Waveform) -> Waveform:
        repeats = self.window_samples // len(window)
        if self.padding == "repeat":
            return np.tile(window, repeats + 1)[: self.window_samples]
        if self.padding == "repeatpad":
            window = np.tile(window, repeats)
        return np.pad(window, (0, self.window_samples - len(window)))
