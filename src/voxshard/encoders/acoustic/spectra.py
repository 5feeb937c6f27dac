"""Power spectrograms as librosa computes them, without what it computes again for every clip.

Suffixes: S samples, T frames, K frequency bins, M mel bands.
"""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np
import numpy.typing as npt

from voxshard.encoders.mel_filters import mel_filters

_BLOCK_FRAMES = 32  # windowed frames in double precision, 2048 samples each, then fit into a core's cache


def power_spectrogram(
    waveform: npt.NDArray[np.float32],
    window: npt.NDArray[np.floating],
    *,
    hop_length: int,
    padding: Literal["constant", "reflect"],
) -> npt.NDArray[np.float32]:
    """Return the squared magnitudes of a centred short-time Fourier transform.

    Parameters
    ----------
    waveform : float32 (S,); padded at both ends by half a window, so that frame t is centred at t * hop_length.
    window : (n_fft,); its type is the precision of the transform.

    Returns
    -------
    float32 (K, T), K = n_fft // 2 + 1, T = 1 + S // hop_length. To the last bit what
    ``abs(librosa.stft(waveform, n_fft=..., hop_length=..., pad_mode=...)) ** 2`` gives with a float64 window, without
    its complaint that a clip is shorter than a window.
    """
    from scipy.fft import rfft  # not where only an encoder's settings are read

    size = len(window)
    padded = np.pad(waveform, size // 2, mode=padding)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop_length]
    power_TK = np.empty((len(frames), size // 2 + 1), np.float32)
    for first in range(0, len(frames), _BLOCK_FRAMES):
        block = slice(first, first + _BLOCK_FRAMES)
        spectrum = rfft(frames[block] * window, axis=1, overwrite_x=True)
        np.abs(spectrum.astype(np.complex64, copy=False), out=power_TK[block])
    return np.square(power_TK, out=power_TK).T


@functools.cache
def hann(win_length: int, n_fft: int) -> npt.NDArray[np.float64]:
    """Return a periodic Hann window of `win_length`, with zeros around it up to `n_fft`."""
    from scipy.signal import get_window

    before = (n_fft - win_length) // 2
    return np.pad(get_window("hann", win_length, fftbins=True), (before, n_fft - win_length - before))


@functools.cache
def mel_basis(sample_rate: int, n_fft: int, n_mels: int, fmin: float, fmax: float | None) -> npt.NDArray[np.float32]:
    """Return librosa's mel filters (Slaney), float32 (M, K), cached: they took most of the time of a short clip."""
    return np.asarray(mel_filters(sample_rate, n_fft, n_mels, fmin, fmax), np.float32)
