"""Input features of the networks that voxshard trains, in NumPy, so that decode workers need no framework.

Suffixes: S samples, F frames, P patches, K frequency bins, M mel bands, N cepstral coefficients.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft

from voxshard.encoders.acoustic.logmel import LogMelSettings, log_mel, mel_power_spectrogram
from voxshard.encoders.base import Waveform
from voxshard.encoders.filterbanks import KaldiFbank

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TorchaudioMfcc:
    """NumPy version of torchaudio.transforms.MFCC: Hann window, centred by reflection, power, HTK mel triangles without
    norm, dB with 80 dB of range below the recording's maximum, orthonormal DCT-II.

    References
    ----------
    torchaudio/transforms/_transforms.py (MFCC, MelSpectrogram, AmplitudeToDB); torchaudio/functional (melscale_fbanks,
    amplitude_to_DB, create_dct). Not librosa's MFCC: Slaney's mel scale and other defaults there, see `mfcc`.
    """

    sample_rate: int
    num_mfcc: int
    num_mels: int
    n_fft: int
    hop_length: int
    remove_mean: bool = False

    @property
    def min_samples(self) -> int:
        """Minimum length in samples; reflection needs more samples than it adds."""
        return self.n_fft // 2 + 1

    def __call__(self, waveform: Waveform) -> Array:
        """Map float32 (S,) to float32 (F, N), F = 1 + S // hop_length."""
        if self.remove_mean:
            waveform = waveform - waveform.mean()
        mel_FM = mel_power(waveform, self.sample_rate, self.n_fft, self.hop_length, self.num_mels)
        decibel_FM = 10 * np.log10(np.maximum(mel_FM, 1e-10))
        decibel_FM = np.maximum(decibel_FM, decibel_FM.max() - 80.0)
        return np.asarray(scipy.fft.dct(decibel_FM, type=2, norm="ortho", axis=1)[:, : self.num_mfcc], np.float32)


@dataclass(frozen=True)
class CentredKaldiFbank:
    """Kaldi's filter bank of a waveform minus its mean, the input of audio spectrogram transformers."""

    fbank: KaldiFbank
    num_frames: int | None
    """Number of frames to which features are cropped or padded with zeros; None: unchanged."""

    def __call__(self, waveform: Waveform) -> Array:
        """Map float32 (S,) to float32 (F, M)."""
        frames_FM = self.fbank(waveform - waveform.mean())
        if self.num_frames is None:
            return frames_FM
        frames_FM = frames_FM[: self.num_frames]
        return np.pad(frames_FM, ((0, self.num_frames - len(frames_FM)), (0, 0)))


@dataclass(frozen=True)
class MelPatches:
    """Mel power spectrogram divided into patches; the last patch is completed by repeating the recording.

    A recording shorter than a patch is repeated as a whole, one a little longer than n patches has n + 1 of them.
    """

    sample_rate: int
    num_mels: int
    n_fft: int
    hop_length: int
    patch_frames: int
    logarithm: bool
    """true: log(10000 x + 1) of the power x (Pons et al., arXiv 1810.10274); false: the power itself."""

    @property
    def min_samples(self) -> int:
        """Minimum length in samples; reflection needs more samples than it adds."""
        return self.n_fft // 2 + 1

    def __call__(self, waveform: Waveform) -> Array:
        """Map float32 (S,) to float32 (P, patch_frames, M)."""
        mel_FM = mel_power(waveform, self.sample_rate, self.n_fft, self.hop_length, self.num_mels)
        patches = into_patches(mel_FM, self.patch_frames)
        return np.log1p(10000 * patches) if self.logarithm else patches


@dataclass(frozen=True)
class LogMelPatches:
    """Frames of the encoder `logmel`, divided into patches as in `MelPatches`."""

    settings: LogMelSettings
    patch_frames: int
    min_samples: int = 1

    def __call__(self, waveform: Waveform) -> Array:
        """Map float32 (S,) to float32 (P, patch_frames, M), in decibels."""
        return into_patches(log_mel(waveform, self.settings).T, self.patch_frames)


@dataclass(frozen=True)
class Log10MelPatches:
    """log10(x + 2.2e-16) of the power x in Slaney's mel bands, divided into patches as in `MelPatches`.

    References
    ----------
    `preprocess.py` (mel) and `pre_processing` (logEPS) of https://github.com/jordipons/neural-classifiers-with-few-audio.
    """

    settings: LogMelSettings
    patch_frames: int
    logarithm: bool
    """Whether to take the logarithm; false: the power itself."""
    min_samples: int = 1

    def __call__(self, waveform: Waveform) -> Array:
        """Map float32 (S,) to float32 (P, patch_frames, M)."""
        patches = into_patches(mel_power_spectrogram(waveform, self.settings).T, self.patch_frames)
        return np.log10(patches + np.float32(np.finfo(float).eps)) if self.logarithm else patches


def into_patches(frames_FM: Array, patch_frames: int) -> Array:
    """Divide (F, M) into (P, patch_frames, M); the last patch is completed with the first frames."""
    num_patches = -(-len(frames_FM) // patch_frames)
    rows = np.arange(num_patches * patch_frames) % len(frames_FM)
    return np.asarray(frames_FM[rows], np.float32).reshape(num_patches, patch_frames, -1)


def mel_power(waveform: Waveform, sample_rate: int, n_fft: int, hop_length: int, num_mels: int) -> Array:
    """Return the power in mel bands: (S,) to float32 (F, M), F = 1 + S // hop_length. At both ends, n_fft // 2 samples
    are added by reflection."""
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)  # periodic
    padded = np.pad(waveform, n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop_length]
    spectrum_FK = scipy.fft.rfft(frames * window)
    power_FK = spectrum_FK.real**2 + spectrum_FK.imag**2
    return np.asarray(power_FK @ _htk_triangles(sample_rate, n_fft, num_mels), np.float32)


@functools.cache
def _htk_triangles(sample_rate: int, n_fft: int, num_mels: int) -> Array:
    """Return (K, M) triangles, linear in Hz between points equally spaced on the HTK mel scale, from 0 Hz to half the
    rate."""
    top = 2595.0 * np.log10(1.0 + sample_rate / 2 / 700.0)
    edges = 700.0 * (10.0 ** (np.linspace(0.0, top, num_mels + 2) / 2595.0) - 1.0)
    bins = np.linspace(0, sample_rate // 2, n_fft // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins) / np.diff(edges)[1:]
    return np.asarray(np.maximum(0.0, np.minimum(rising, falling)), np.float32)
