"""musicnn's two networks in NumPy, one window at a time, so that nothing depends on the batch.

Suffixes: T frames, M mel bands, C channels, O channels of a layer's output.

References
----------
Pons and Serra, musicnn: pre-trained convolutional neural networks for music audio tagging, ISMIR 2019 (late-breaking);
musicnn 0.1.0, models.py (ISC).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from voxshard.encoders.musicnn_weights import Weights

Array: TypeAlias = npt.NDArray[np.float32]
_EPSILON = 1e-3
"""Of batch normalisation, TensorFlow's default."""


def musicnn(window_TM: Array, weights: Weights) -> dict[str, Array]:
    """Compute the musically motivated network.

    Parameters
    ----------
    window_TM : float32 (187, 96), log-mel.

    Returns
    -------
    Outputs by their names in musicnn: taggram (50,), mean_pool and max_pool (753,), penultimate (200,); timbral
    (187, 408), temporal (187, 153), cnn1, cnn2 and cnn3 (187, 64).
    """
    image = _norm(window_TM[:, :, None], weights, 0)
    timbral = np.concatenate([_over_bands(_padded(image, 3, 3), weights, number) for number in (0, 1)], axis=1)
    temporal = np.concatenate([_over_bands(_padded(image, *pad), weights, 2 + n) for n, pad in _SAME], axis=1)
    front = np.concatenate([timbral, temporal], axis=1)
    cnn1 = _over_bands(_padded(front[:, :, None], 3, 3), weights, 5)
    cnn2 = _over_bands(_padded(cnn1[:, :, None], 3, 3), weights, 6) + cnn1
    cnn3 = _over_bands(_padded(cnn2[:, :, None], 3, 3), weights, 7) + cnn2
    features = np.concatenate([front, cnn1, cnn2, cnn3], axis=1)
    max_pool, mean_pool = features.max(axis=0), features.mean(axis=0)
    pooled = _norm(np.stack([max_pool, mean_pool], axis=1).reshape(-1), weights, 9)
    penultimate = _norm(np.maximum(_dense(pooled, weights, "dense"), 0), weights, 10)
    return {
        "taggram": _sigmoid(_dense(penultimate, weights, "dense_1")),
        "mean_pool": mean_pool,
        "max_pool": max_pool,
        "penultimate": penultimate,
        "timbral": timbral,
        "temporal": temporal,
        "cnn1": cnn1,
        "cnn2": cnn2,
        "cnn3": cnn3,
    }


def vgg(window_TM: Array, weights: Weights) -> dict[str, Array]:
    """Compute the network of 3 x 3 convolutions.

    Parameters
    ----------
    window_TM : float32 (187, 96), log-mel.

    Returns
    -------
    taggram (50,), and pool5 (256,): musicnn's (2, 128), one after the other.
    """
    image = _norm(window_TM[:, :, None], weights, 0)
    for number, (size, step) in enumerate(_POOLING, 1):
        padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
        convolved = _norm(_convolved(padded, weights, f"{number}CNN"), weights, number)
        image = np.lib.stride_tricks.sliding_window_view(convolved, size, axis=(0, 1))[::step, ::step].max(
            axis=(-2, -1)
        )
    pool5 = image.reshape(-1)
    return {"taggram": _sigmoid(_dense(pool5, weights, "dense")), "pool5": pool5}


_SAME = ((0, (63, 64)), (1, (31, 32)), (2, (15, 16)))
"""Frames before and after that keep the length under kernels of 128, 64 and 32, as TensorFlow distributes them."""
_POOLING = (((4, 1), 2), ((2, 2), 2), ((2, 2), 2), ((2, 2), 2), ((4, 4), 4))
"""Size and step of the maximum after each convolution."""


def _over_bands(image: Array, weights: Weights, number: int) -> Array:
    """A convolution, normalised, and its maximum over the bands: (T, M, 1) to (T', O)."""
    name = f"conv2d_{number}" if number else "conv2d"
    return np.asarray(_norm(_convolved(image, weights, name), weights, 1 + number).max(axis=1))


def _padded(image: Array, before: int, after: int) -> Array:
    return np.pad(image, ((before, after), (0, 0), (0, 0)))


def _convolved(image: Array, weights: Weights, name: str) -> Array:
    """Convolution without padding and a ReLU: (T, M, C) to (T', M', O), as one matrix product."""
    kernel = weights[f"{name}/kernel"]
    patches = np.lib.stride_tricks.sliding_window_view(image, kernel.shape[:2], axis=(0, 1)).transpose(0, 1, 3, 4, 2)
    flat = patches.reshape(-1, kernel[..., 0].size) @ kernel.reshape(-1, kernel.shape[-1])
    flat += weights[f"{name}/bias"]
    np.maximum(flat, 0, out=flat)
    return np.asarray(flat.reshape(*patches.shape[:2], -1))


def _norm(values: Array, weights: Weights, number: int) -> Array:
    """Apply batch normalisation to the last axis with the means and variances of training."""
    name = f"batch_normalization_{number}" if number else "batch_normalization"
    scale = weights[f"{name}/gamma"] / np.sqrt(weights[f"{name}/moving_variance"] + np.float32(_EPSILON))
    return np.asarray(values * scale + (weights[f"{name}/beta"] - weights[f"{name}/moving_mean"] * scale))


def _dense(values: Array, weights: Weights, name: str) -> Array:
    return np.asarray(values @ weights[f"{name}/kernel"] + weights[f"{name}/bias"])


def _sigmoid(values: Array) -> Array:
    return np.asarray(0.5 * np.tanh(0.5 * values) + 0.5, np.float32)
