"""Mel filters as librosa has them, and decibels, without librosa: its import and first use compile for many seconds.

Suffixes: K frequency bins, M mel bands.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_LINEAR_HZ = 200.0 / 3
"""Hz in one of Slaney's mels, below `_BREAK_HZ`; above, frequencies grow by a factor of 6.4 in 27 of them."""
_BREAK_HZ = 1000.0
_LOG_STEP = np.log(6.4) / 27.0

Floats = npt.NDArray[np.float64]


def mel_filters(
    sample_rate: int,
    n_fft: int,
    n_mels: int,
    fmin: float = 0.0,
    fmax: float | None = None,
    *,
    slaney: bool = True,
    dtype: npt.DTypeLike = np.float32,
) -> npt.NDArray[np.floating]:
    """Triangles between points equally spaced in mels, to the last bit those of `librosa.filters.mel`.

    Parameters
    ----------
    fmax : Hz; None: half the sample rate.
    slaney : on Slaney's mel scale, each scaled to the same area; false: on the HTK scale, each 1 at its highest.

    Returns
    -------
    (M, K), K = n_fft // 2 + 1.
    """
    limits = np.array([fmin, sample_rate / 2 if fmax is None else fmax])
    low, high = _slaney_mels(limits) if slaney else 2595.0 * np.log10(1.0 + limits / 700.0)
    mels = np.linspace(low, high, n_mels + 2)
    edges = _slaney_hertz(mels) if slaney else 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    bins_K = np.fft.rfftfreq(n_fft, 1.0 / sample_rate)
    widths = np.diff(edges)[:, None]
    rising_MK = (bins_K - edges[:-2, None]) / widths[:-1]
    falling_MK = (edges[2:, None] - bins_K) / widths[1:]
    filters_MK = np.maximum(0, np.minimum(rising_MK, falling_MK)).astype(dtype)
    if slaney:
        filters_MK *= (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return filters_MK


def _slaney_mels(hertz: Floats) -> Floats:
    above = _BREAK_HZ / _LINEAR_HZ + np.log(np.maximum(hertz, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return np.where(hertz >= _BREAK_HZ, above, hertz / _LINEAR_HZ)


def _slaney_hertz(mels: Floats) -> Floats:
    break_mel = _BREAK_HZ / _LINEAR_HZ
    return np.where(mels >= break_mel, _BREAK_HZ * np.exp(_LOG_STEP * (mels - break_mel)), _LINEAR_HZ * mels)


def decibels(power: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Decibels relative to 1, at most 80 below the highest: `librosa.power_to_db` with its defaults."""
    found = 10.0 * np.log10(np.maximum(1e-10, power))
    return np.asarray(np.maximum(found, found.max() - 80.0), np.float32)
