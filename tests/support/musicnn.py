"""Random weights in musicnn's shapes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from voxshard.encoders.musicnn_weights import shapes_of


def random_weights(model: str) -> dict[str, npt.NDArray[np.float32]]:
    """Variables of one model, of sizes that keep values near 1 from layer to layer; variances are positive."""
    rng = np.random.default_rng(0)
    weights = {}
    for name, shape in shapes_of(model).items():
        values = rng.standard_normal(shape)
        if name.endswith("kernel"):
            values /= np.sqrt(np.prod(shape[:-1]))
        elif name.endswith(("gamma", "variance")):
            values = 0.5 + rng.random(shape)
        weights[name] = values.astype(np.float32)
    return weights
