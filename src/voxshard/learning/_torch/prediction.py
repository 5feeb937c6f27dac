"""Scores from a trained network. Suffixes: N recordings, B of one batch, C outputs, K score columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from voxshard.encoders._torch.device import memory_errors
from voxshard.encoders._torch.network import Network
from voxshard.encoders._torch.precision import arithmetic
from voxshard.encoders.base import Precision
from voxshard.learning._torch.data import Batch, Examples, Ints, Unusable, evaluation_batches, loader
from voxshard.learning.model import Target
from voxshard.networks.settings import NetworkSpec

Floats = npt.NDArray[np.float64]
_BUDGET_S = {"cpu": 30.0, "cuda": 320.0}
"""Seconds of audio per batch, as in extraction."""


@dataclass(frozen=True)
class Outputs:
    """What a network makes of recordings."""

    rows: Ints
    """(N,) rows of the manifest, rising; those that cannot be used are missing."""
    outputs_NC: Floats
    unusable: list[Unusable]


def outputs_of(
    network: Network, examples: Examples, rows: Ints, *, precision: Precision, workers: int,
    on_batch: Callable[[Batch], None],
) -> Outputs:  # fmt: skip
    """Run a network over utterances, in evaluation mode; afterwards it is in the mode it was in.

    Parameters
    ----------
    on_batch : called after every batch; may raise to stop.
    """
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    found: dict[int, npt.NDArray[np.float32]] = {}
    unusable: list[Unusable] = []
    batches = evaluation_batches(examples, rows, _BUDGET_S[device.type])
    try:
        with memory_errors(device), torch.no_grad(), arithmetic(precision, device):
            for batch in loader(examples, batches, network.backbone.batch_policy, workers if len(batches) > 1 else 0):
                unusable += batch.unusable
                if len(batch.rows):
                    outputs = network(batch.features.to(device), batch.lengths_B).float().cpu().numpy()
                    found |= dict(zip(batch.rows.tolist(), outputs, strict=True))
                on_batch(batch)
    finally:
        network.train(was_training)
    usable = np.array(sorted(found), np.int64)
    stacked = np.array([found[row] for row in usable.tolist()], np.float64)
    return Outputs(usable, stacked.reshape(len(usable), network.spec.num_outputs), unusable)


def decide(outputs_NC: Floats, target: Target, spec: NetworkSpec, scale: float) -> tuple[Floats, Ints]:
    """Scores and decisions.

    Classes that exclude each other are scored by their probability (cross-entropy, aam, prototypes: softmax; bce: each
    one's own; mse: the output), a detection by the difference of the positive and the negative output, and each of
    several labels by its probability, which decides from 0.5 on.

    Parameters
    ----------
    scale : that cosines are multiplied by before a softmax (aam).

    Returns
    -------
    scores (N, K), one column per `target.score_names`; class numbers (N,), or (N, C) of 0 and 1.
    """
    if spec.loss == "aam":
        outputs_NC = scale * outputs_NC
    if target.kind == "detection":
        assert target.positive is not None
        difference = outputs_NC[:, target.positive] - outputs_NC[:, 1 - target.positive]
        return difference[:, None], outputs_NC.argmax(axis=1)
    if spec.loss == "mse":
        probabilities = outputs_NC
    elif spec.loss == "bce":
        probabilities = 1 / (1 + np.exp(-np.clip(outputs_NC, -60, 60)))
    else:
        sizes = [len(group.labels) for group in spec.groups]
        parts = np.split(outputs_NC, np.cumsum(sizes)[:-1], axis=1)
        probabilities = np.concatenate([_softmax(part) for part in parts], axis=1)
    if target.kind == "multilabel":
        return probabilities, (probabilities >= 0.5).astype(np.int64)
    return probabilities, probabilities.argmax(axis=1)


def _softmax(outputs: Floats) -> Floats:
    powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
