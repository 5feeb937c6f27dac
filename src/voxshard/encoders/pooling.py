"""Ways to turn the frames of an utterance into one embedding, and to pool what was pooled in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Pooling: TypeAlias = Literal["none", "mean", "sum", "max", "mean+std"]


def pooled_size(dim: int, pooling: Pooling) -> int:
    """Return the size of the embedding that frames of size `dim` are pooled to."""
    return 2 * dim if pooling == "mean+std" else dim


def join_pooled(
    parts: Sequence[npt.NDArray[Any]], num_frames: Sequence[int], pooling: Pooling
) -> npt.NDArray[np.float32]:
    """Pool over a complete utterance, given what each of its pieces was pooled to.

    Parameters
    ----------
    parts : float32 (..., D) each, pooled with `pooling`; mean+std is (..., 2 D): means, then standard deviations.
    num_frames : valid frames of each piece.

    Returns
    -------
    float32 (..., D): what pooling all the frames at once gives, to float32 rounding.
    """
    stacked = np.stack(parts).astype(np.float64)
    weights = np.asarray(num_frames, np.float64)
    if pooling == "sum":
        joined = stacked.sum(axis=0)
    elif pooling == "max":
        joined = stacked.max(axis=0)
    elif pooling == "mean":
        joined = np.average(stacked, axis=0, weights=weights)
    elif pooling == "mean+std":
        means, deviations = np.split(stacked, 2, axis=-1)
        mean = np.average(means, axis=0, weights=weights)
        # law of total variance: within the pieces, and between them
        variance = np.average(deviations**2 + (means - mean) ** 2, axis=0, weights=weights)
        joined = np.concatenate([mean, np.sqrt(variance)], axis=-1)
    else:
        raise AssertionError(f"frames are not pooled with {pooling!r}")
    return np.asarray(joined, np.float32)
