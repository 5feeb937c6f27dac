"""VGGish's log-mel patches, in NumPy, so that decode workers need no framework.

Suffixes: S samples, P patches (windows), T frames of a patch, M mel bands.

Sources: tensorflow/models, research/audioset/vggish: vggish_params.py, mel_features.py, vggish_input.py.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from voxshard.encoders.base import Features, Waveform
from voxshard.errors import TooShortError

SAMPLE_RATE = 16_000
FRAME_SAMPLES = 400
HOP_SAMPLES = 160
FFT_SIZE = 512
NUM_MEL_BANDS = 64
LOWEST_HZ, HIGHEST_HZ = 125.0, 7500.0
LOG_OFFSET = 0.01
"""Added to the magnitudes before the logarithm (vggish_params.py)."""
PATCH_FRAMES = 96
PATCH_S = 0.96
"""96 frames, 10 ms apart; patches do not overlap."""
PATCH_SAMPLES = FRAME_SAMPLES + (PATCH_FRAMES - 1) * HOP_SAMPLES
"""15,600: the samples that 96 frames cover."""

_PATCHES_AT_ONCE = 64  # bounds the memory of long recordings: 25 MB of windowed frames


def log_mel_patches(waveform: Waveform) -> Features:
    """The network's input: patches of 96 log-mel frames, one after the other; a trailing part of one is dropped.

    Parameters
    ----------
    waveform : float32 (S,) at 16 kHz in [-1, 1].

    Returns
    -------
    float32 (P, T, M) = (P, 96, 64), P = (1 + (S - 400) // 160) // 96 >= 1.

    Raises
    ------
    TooShortError : fewer than 15,600 samples make no patch.
    """
    if len(waveform) < PATCH_SAMPLES:
        raise TooShortError(
            f"{len(waveform)} samples at 16 kHz; VGGish needs {PATCH_SAMPLES} (0.975 s) for one window:"
            " `min_seconds=1` with `pad=repeat` or `pad=zero` fills short recordings up"
        )
    frames = np.lib.stride_tricks.sliding_window_view(waveform, FRAME_SAMPLES)[::HOP_SAMPLES]
    num_patches = len(frames) // PATCH_FRAMES
    # Periodic, as in mel_features.py; NumPy's own Hann window is symmetric.
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME_SAMPLES) / FRAME_SAMPLES)
    mel = mel_matrix()
    patches = np.empty((num_patches * PATCH_FRAMES, NUM_MEL_BANDS), np.float32)
    step = _PATCHES_AT_ONCE * PATCH_FRAMES
    for start in range(0, len(patches), step):
        stop = min(start + step, len(patches))
        magnitudes = np.abs(np.fft.rfft(frames[start:stop] * hann, FFT_SIZE))
        patches[start:stop] = np.log(magnitudes @ mel + LOG_OFFSET)
    return patches.reshape(num_patches, PATCH_FRAMES, NUM_MEL_BANDS)


@functools.cache
def mel_matrix() -> npt.NDArray[np.float64]:
    """(257, 64) triangles, straight on the HTK mel scale; the bin at 0 Hz counts for nothing (mel_features.py)."""
    edges = np.linspace(_mel(LOWEST_HZ), _mel(HIGHEST_HZ), NUM_MEL_BANDS + 2)
    bins = _mel(np.linspace(0.0, SAMPLE_RATE / 2, FFT_SIZE // 2 + 1))[:, None]
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.minimum((bins - lower) / (centre - lower), (upper - bins) / (upper - centre))
    matrix: npt.NDArray[np.float64] = np.maximum(0.0, triangles)
    matrix[0] = 0.0
    return matrix


def _mel(hertz: Any) -> Any:
    return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)
