"""Scores from a trained network. Suffixes: N recordings, B of one batch, C outputs, D rows below heads, K scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from voxshard.encoders._torch.device import memory_errors
from voxshard.encoders._torch.precision import arithmetic
from voxshard.encoders.base import Precision
from voxshard.learning import results
from voxshard.learning._torch.data import AudioBatch, AudioDataset, Ints, Unusable, evaluation_batches, loader
from voxshard.learning.labels import Labels
from voxshard.learning.model import Target
from voxshard.manifest import Manifest
from voxshard.networks.backbone import Lengths
from voxshard.networks.network import Network
from voxshard.networks.settings import NetworkSpec

Floats = npt.NDArray[np.float64]
T = TypeVar("T")
_BUDGET_S = {"cpu": 30.0, "cuda": 320.0}
"""Seconds of audio per batch, as in extraction."""


@dataclass(frozen=True)
class Outputs:
    """Outputs of a network for several recordings."""

    rows: Ints
    """(N,) rows of the manifest, ascending; unusable recordings are omitted."""
    values: Floats
    """(N, C), or (N, D) if taken below the heads."""
    unusable: list[Unusable]


@dataclass(frozen=True)
class Predictor:
    """Runs networks over utterances in evaluation mode, and restores their previous mode."""

    examples: AudioDataset
    precision: Precision
    workers: int
    check: Callable[[], None]
    """Called after every batch; may raise to stop."""

    def outputs(self, network: Network, rows: Ints) -> Outputs:
        """Compute the outputs of the heads, (N, C)."""
        return self._run(network, network, rows)

    def place_prototypes(self, network: Network, rows: Ints) -> None:
        """Set the prototype of every class to the mean of the given recordings of that class."""
        found = self._run(network, network.joined_rows, rows)
        classes_N = self.examples.targets_UC[found.rows].argmax(axis=1)
        points_CD = network.heads.points_CD
        for number in np.unique(classes_N):
            points_CD[number] = torch.from_numpy(found.values[classes_N == number].mean(axis=0))

    def _run(self, network: Network, forward: Callable[[torch.Tensor, Lengths], torch.Tensor], rows: Ints) -> Outputs:
        device = next(network.parameters()).device
        was_training = network.training
        network.eval()
        found: dict[int, npt.NDArray[np.float32]] = {}
        unusable: list[Unusable] = []
        batches = evaluation_batches(self.examples, rows, _BUDGET_S[device.type])
        num_workers = self.workers if len(batches) > 1 else 0
        fed = loader(self.examples, batches, network.backbone.batch_policy, num_workers, device)
        try:
            with memory_errors(device), torch.no_grad(), arithmetic(self.precision, device):
                for rows_B, values in _one_behind(self._computed(forward, fed, unusable, device)):
                    found |= dict(zip(rows_B.tolist(), values.cpu().numpy(), strict=True))
                    self.check()
        finally:
            network.train(was_training)
        usable = np.array(sorted(found), np.int64)
        stacked = np.array([found[row] for row in usable.tolist()], np.float64)
        return Outputs(usable, stacked.reshape(len(usable), -1 if found else network.spec.num_outputs), unusable)

    def _computed(
        self,
        forward: Callable[[torch.Tensor, Lengths], torch.Tensor],
        fed: Iterable[AudioBatch],
        unusable: list[Unusable],
        device: torch.device,
    ) -> Iterator[tuple[Ints, torch.Tensor]]:
        """Yield the rows of each batch and the network's outputs for them, on its device."""
        for batch in fed:
            unusable += batch.unusable
            if len(batch.rows):
                features = batch.features.to(device, non_blocking=True)
                yield batch.rows, forward(features, batch.lengths_B).float()


def _one_behind(items: Iterable[T]) -> Iterator[T]:
    """Yield each item after the next one has started, so that a GPU computes while the host reads the previous one."""
    waiting: list[T] = []
    for item in items:
        waiting.append(item)
        if len(waiting) == 2:
            yield waiting.pop(0)
    yield from waiting


def decide(outputs_NC: Floats, target: Target, spec: NetworkSpec) -> tuple[Floats, Ints]:
    """Return the scores and the decisions for a network's outputs.

    Classes that exclude each other are scored by their probability (cross-entropy, aam, prototypes: softmax; bce: each
    one's own; mse: the output), a detection by the difference of the positive and the negative output, and each of
    several labels by its probability, which decides from 0.5 on.

    Returns
    -------
    scores (N, K), one column per `target.score_names`; class numbers (N,), or (N, C) of 0 and 1.
    """
    if spec.loss == "aam":
        outputs_NC = spec.scale * outputs_NC
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


def trials_of(found: Outputs, spec: NetworkSpec, manifest: Manifest, labels: Labels, split: str) -> pa.Table:
    """Return rows for trials.parquet, made from a network's outputs."""
    scores, predicted = decide(found.values, labels.target, spec)
    return results.trials_table(manifest.table.take(found.rows), labels.of(found.rows), split, scores, predicted)


def failures_of(found: Outputs, manifest: Manifest) -> dict[str, tuple[str, str]]:
    """Return error and message of each unusable recording, by utterance_id."""
    names = manifest.table["utterance_id"]
    return {names[item.row].as_py(): (item.error, item.message) for item in found.unusable}
