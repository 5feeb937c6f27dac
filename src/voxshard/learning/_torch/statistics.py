"""Measurement of the mean and standard deviation of a network's input. Suffix M: bands."""

from __future__ import annotations

import numpy as np
import torch

from voxshard.learning._torch.data import EVALUATION, AudioDataset, Ints, Item
from voxshard.networks.backbone import Backbone
from voxshard.networks.backbones import Standardize

_AT_MOST = 500
"""Recordings; more change them little."""


def standardize(backbone: Backbone, examples: AudioDataset, rows: Ints, seed: int) -> None:
    """Measure the backbone's input statistics on recordings drawn from `rows`, if the backbone needs them."""
    found = getattr(backbone, "standardize", None)
    if not isinstance(found, Standardize) or not found.wants_statistics:
        return
    chosen = np.random.default_rng([seed, 1]).permutation(rows)[:_AT_MOST]
    compress = getattr(backbone, "compress", torch.nn.Identity())
    count, total, squares = 0, 0.0, 0.0
    for row in chosen.tolist():
        item = examples[EVALUATION, row]
        if not isinstance(item, Item):
            continue
        with torch.no_grad():
            features = compress(torch.from_numpy(item.features)).double().numpy()
        features = features.reshape(-1, features.shape[-1])
        count += len(features)
        total, squares = total + features.sum(axis=0), squares + np.square(features).sum(axis=0)
    if not count:  # the training will give the reason
        return
    mean_M = total / count
    deviation_M = np.sqrt(np.maximum(squares / count - np.square(mean_M), 1e-10))
    found.mean_M.copy_(torch.from_numpy(np.asarray(mean_M)))
    found.std_M.copy_(torch.from_numpy(np.maximum(deviation_M, 1e-3)))
