"""VGGish a second time, in plain NumPy and float64: what both frameworks are compared with."""

from __future__ import annotations

import numpy as np

from voxshard.encoders.vggish_weights import CONVOLUTIONS, DENSE, POOLED, Weights, bias_name, kernel_name

FULL_WIDTHS = (64, 128, 256, 256, 512, 512, 4096, 4096)
"""Of the published network, layer by layer up to the embedding."""
NARROW_WIDTHS = (4, 6, 8, 8, 10, 10, 24, 20)


def random_weights(seed: int, widths: tuple[int, ...] = NARROW_WIDTHS) -> dict[str, np.ndarray]:
    """Variables by name: normal, scaled by fan-in, so that values neither die out nor grow."""
    rng = np.random.default_rng(seed)
    weights, num_inputs = {}, 1
    for layer, width in zip((*CONVOLUTIONS, *DENSE), (*widths, 128), strict=True):
        if layer == DENSE[0]:
            num_inputs *= 6 * 4  # 96 x 64 halved four times
        shape = (3, 3, num_inputs, width) if layer in CONVOLUTIONS else (num_inputs, width)
        scale = np.float32((2 / np.prod(shape[:-1])) ** 0.5)
        weights[kernel_name(layer)] = rng.standard_normal(shape, dtype=np.float32) * scale
        weights[bias_name(layer)] = rng.standard_normal(width, dtype=np.float32) * np.float32(0.05)
        num_inputs = width
    return weights


def pca_parameters(seed: int) -> dict[str, np.ndarray]:
    """What vggish_pca_params.npz holds: a scaled rotation and means."""
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.standard_normal((128, 128)))
    return {
        "pca_eigen_vectors": (rotation * rng.uniform(0.2, 1.5, (128, 1))).astype(np.float32),
        "pca_means": rng.standard_normal((128, 1)).astype(np.float32) * 0.3,
    }


def forward(weights: Weights, patches: np.ndarray) -> np.ndarray:
    """(P, 96, 64) patches to (P, 128) embeddings before any activation, float64."""
    hidden = np.asarray(patches, np.float64)[..., None]
    for layer in CONVOLUTIONS:
        kernel = weights[kernel_name(layer)].astype(np.float64)
        padded = np.pad(hidden, ((0, 0), (1, 1), (1, 1), (0, 0)))
        height, width = hidden.shape[1:3]
        total = np.zeros((*hidden.shape[:3], kernel.shape[-1])) + weights[bias_name(layer)]
        for row in range(3):
            for column in range(3):
                total += padded[:, row : row + height, column : column + width] @ kernel[row, column]
        hidden = np.maximum(total, 0)
        if layer in POOLED:
            hidden = hidden.reshape(len(hidden), height // 2, 2, width // 2, 2, -1).max(axis=(2, 4))
    hidden = hidden.reshape(len(hidden), -1)
    for layer in DENSE:
        hidden = hidden @ weights[kernel_name(layer)].astype(np.float64) + weights[bias_name(layer)]
        if layer != DENSE[-1]:
            hidden = np.maximum(hidden, 0)
    return hidden
