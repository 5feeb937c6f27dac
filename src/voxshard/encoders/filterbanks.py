"""Log-mel filter banks that pretrained models were trained on, in NumPy, so that decode workers need no framework.

Suffixes: S samples, F spectrogram frames, L rows handed to the model, M mel bands.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from voxshard.encoders.base import Waveform

FRAME_SAMPLES = 400
HOP_SAMPLES = 160
"""25 ms every 10 ms at 16 kHz, in both filter banks below."""
_BLOCK_FRAMES = 4096  # bounds the memory of long recordings: 13 MB of float64 frames at a time

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SeamlessFeatures:
    """The input of w2v-BERT 2.0: what transformers' SeamlessM4TFeatureExtractor gives, one utterance at a time.

    Kaldi's filter bank on 16-bit sample values, normalised per mel band over the utterance, `stride` frames stacked
    into one row. A last column names which rows the model may attend to (1) and which it may not (0), so that rows of
    padding, which are zero, exclude themselves.

    References
    ----------
    transformers, models/seamless_m4t/feature_extraction_seamless_m4t.py; Kaldi, feat/feature-fbank.cc
    """

    sample_rate: int = 16000
    num_mel_bins: int = 80
    stride: int = 2
    padding_value: float = 1.0
    keep_incomplete: bool = True
    """Keep a last row that is part padding. The model does not attend to it but still gives a frame for it."""

    @property
    def min_samples(self) -> int:
        """Return the number of samples of one complete row."""
        return FRAME_SAMPLES + HOP_SAMPLES * (self.stride - 1)

    def __call__(self, waveform: Waveform) -> Array:
        """float32 (S,) in [-1, 1] to float32 (L, stride * M + 1); L = ceil(F / stride), or its floor."""
        log_mel_MF = self._log_mel(waveform)
        mean_M1 = log_mel_MF.mean(axis=1, keepdims=True)
        variance_M1 = log_mel_MF.var(axis=1, ddof=1, keepdims=True)  # ddof and epsilon as in the original
        frames_FM = ((log_mel_MF - mean_M1) / np.sqrt(variance_M1 + 1e-7)).T
        num_frames = len(frames_FM)
        num_complete = num_frames // self.stride
        num_rows = -(-num_frames // self.stride) if self.keep_incomplete else num_complete
        rows = np.full((num_rows * self.stride, self.num_mel_bins), self.padding_value, np.float32)
        num_kept = min(num_frames, len(rows))
        rows[:num_kept] = frames_FM[:num_kept]
        features = np.ones((num_rows, self.stride * self.num_mel_bins + 1), np.float32)
        features[:, :-1] = rows.reshape(num_rows, -1)
        features[num_complete:, -1] = 0.0
        return features

    def _log_mel(self, waveform: Waveform) -> Array:
        samples = waveform * np.float32(2**15)  # Kaldi works on 16-bit sample values
        return _kaldi_log_mel(samples, "povey", self.num_mel_bins, FRAME_SAMPLES, HOP_SAMPLES, self.sample_rate)


Window: TypeAlias = Literal["povey", "hamming", "hanning"]


@dataclass(frozen=True)
class KaldiFbank:
    """Kaldi's log-mel filter bank, frames of 25 ms every 10 ms: what torchaudio.compliance.kaldi.fbank gives with
    `dither=0` and its other defaults.

    References
    ----------
    Kaldi, feat/feature-fbank.cc and feat/mel-computations.cc; torchaudio, compliance/kaldi.py
    """

    num_mel_bins: int = 80
    sample_rate: int = 16000
    window: Window = "povey"
    scale: float = 1.0
    """The waveform in [-1, 1] is multiplied by it; 32768 for models trained on 16-bit sample values."""
    mean_norm: bool = False
    """Subtract each band's mean over the utterance."""

    @property
    def frame_samples(self) -> int:
        """Return the samples of one frame, which are also the minimum of a clip."""
        return self.sample_rate * 25 // 1000

    @property
    def hop_samples(self) -> int:
        """Return the number of samples from one frame to the next."""
        return self.sample_rate // 100

    def __call__(self, waveform: Waveform) -> Array:
        """float32 (S,), S >= frame_samples, to float32 (F, M), F = 1 + (S - frame_samples) // hop_samples."""
        samples = waveform * np.float32(self.scale)
        log_mel_MF = _kaldi_log_mel(
            samples, self.window, self.num_mel_bins, self.frame_samples, self.hop_samples, self.sample_rate
        )
        if self.mean_norm:
            log_mel_MF -= log_mel_MF.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
        return np.ascontiguousarray(log_mel_MF.T)


def _kaldi_log_mel(
    samples: Array, window: Window, num_mel_bins: int, frame_samples: int, hop_samples: int, sample_rate: int
) -> Array:
    """Convert float32 (S,) to float32 (M, F)."""
    shape = np.hamming(frame_samples) if window == "hamming" else np.hanning(frame_samples)
    if window == "povey":
        shape = shape**0.85
    fft_samples = 1 << (frame_samples - 1).bit_length()
    filters_MK = _kaldi_filters(num_mel_bins, sample_rate, fft_samples)
    frames = np.lib.stride_tricks.sliding_window_view(samples, frame_samples)[::hop_samples]
    log_mel_MF = np.empty((num_mel_bins, len(frames)), np.float32)
    for start in range(0, len(frames), _BLOCK_FRAMES):
        block = frames[start : start + _BLOCK_FRAMES].astype(np.float64)
        block -= block.mean(axis=1, keepdims=True)
        block[:, 1:] -= 0.97 * block[:, :-1]  # the right side is evaluated before anything is overwritten
        block[:, 0] *= 1 - 0.97
        spectrum = np.fft.rfft(block * shape, n=fft_samples).astype(np.complex64)  # the originals keep complex64 too
        power_KF = (np.abs(spectrum, dtype=np.float64) ** 2).T
        # 2^-23 is Kaldi's floor (machine epsilon of float32)
        log_mel_MF[:, start : start + _BLOCK_FRAMES] = np.log(np.maximum(2.0**-23, filters_MK @ power_KF))
    return log_mel_MF


@functools.cache
def _kaldi_filters(num_mel_bins: int, sample_rate: int, fft_samples: int) -> npt.NDArray[np.float64]:
    """(M, K) triangles, equally spaced and straight on Kaldi's mel scale, 20 Hz to half the sample rate."""

    def mel(hertz: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return 1127.0 * np.log1p(np.asarray(hertz, np.float64) / 700.0)

    edges = np.linspace(mel(20.0), mel(sample_rate // 2), num_mel_bins + 2)
    bins = mel(np.arange(fft_samples // 2 + 1) * sample_rate / fft_samples)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.asarray(np.maximum(0.0, np.minimum(rising, falling)))


@dataclass(frozen=True)
class SpeechBrainFbank:
    """The input of SpeechBrain's speaker models: Fbank in dB, then each band's mean over the utterance taken off.

    STFT of 400 samples every 160, Hamming window, centred with zeros; triangles on the HTK mel scale in float32 as
    there; 10 log10 with a floor of 1e-10, at most 80 dB below the utterance's maximum.

    References
    ----------
    speechbrain/lobes/features.py (Fbank), speechbrain/processing/features.py (STFT, Filterbank, InputNormalization
    with norm_type "sentence" and std_norm False).
    """

    num_mels: int = 80
    sample_rate: int = 16000

    def __call__(self, waveform: Waveform) -> Array:
        """Convert float32 (S,) to float32 (F, M), F = 1 + S // 160."""
        window = (0.54 - 0.46 * np.cos(2 * np.pi * np.arange(FRAME_SAMPLES) / FRAME_SAMPLES)).astype(np.float32)
        filters_KM = _speechbrain_filters(self.num_mels, self.sample_rate)
        padded = np.pad(waveform, FRAME_SAMPLES // 2)
        frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME_SAMPLES)[::HOP_SAMPLES]
        decibel_FM = np.empty((len(frames), self.num_mels), np.float32)
        for start in range(0, len(frames), _BLOCK_FRAMES):
            spectrum = np.fft.rfft(frames[start : start + _BLOCK_FRAMES] * window)
            power_FK = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
            decibel_FM[start : start + _BLOCK_FRAMES] = 10 * np.log10(np.maximum(power_FK @ filters_KM, 1e-10))
        np.maximum(decibel_FM, decibel_FM.max() - np.float32(80.0), out=decibel_FM)
        return np.asarray(decibel_FM - decibel_FM.mean(axis=0, dtype=np.float64).astype(np.float32))


@functools.cache
def _speechbrain_filters(num_mels: int, sample_rate: int) -> Array:
    """Return (201, M) triangles, each as wide on its right as on its left."""
    top_mel = 2595 * np.log10(1 + (sample_rate // 2) / 700)
    edges = (700 * (10 ** (np.linspace(0, top_mel, num_mels + 2) / 2595) - 1)).astype(np.float32)
    centre, width = edges[1:-1], np.diff(edges)[:-1]
    frequencies = np.linspace(0, sample_rate // 2, FRAME_SAMPLES // 2 + 1, dtype=np.float32)
    slope_KM = (frequencies[:, None] - centre) / width
    return np.asarray(np.maximum(0, np.minimum(slope_KM + 1, 1 - slope_KM)), np.float32)
