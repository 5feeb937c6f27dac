"""Loss and metrics of a validation split after every epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from voxshard.errors import ConfigError
from voxshard.learning import results
from voxshard.learning._torch.data import Ints
from voxshard.learning._torch.losses import NetworkLoss
from voxshard.learning._torch.prediction import Outputs, Predictor, trials_of
from voxshard.learning.labels import Labels
from voxshard.learning.network_config import EarlyStopping
from voxshard.manifest import Manifest
from voxshard.networks.heads import PrototypeHead
from voxshard.networks.network import Network
from voxshard.networks.settings import NetworkSpec


@dataclass(frozen=True)
class Validation:
    """Computes loss and metrics of a validation split.

    Raises
    ------
    ConfigError : what early stopping is to judge by cannot be measured on this split.
    """

    predictor: Predictor
    loss: NetworkLoss
    spec: NetworkSpec
    manifest: Manifest
    labels: Labels
    split: str
    rows: Ints
    """Rows of the split that have labels."""
    trained_on: Ints
    """Utterances from which prototypes are computed."""
    early: EarlyStopping | None

    def __post_init__(self) -> None:
        if self.early is None:
            return
        nothing = Outputs(self.rows, np.zeros((len(self.rows), self.spec.num_outputs)), [])
        there = ["loss", *self._metrics(nothing)]
        if self.early.metric not in there:
            raise ConfigError(
                f"training.early_stopping.metric={self.early.metric}: not measured on split {self.split}; choose "
                f"{', '.join(there)}"
            )

    def __call__(self, network: Network) -> dict[str, float]:
        """Return metrics by name; of those per class or label, only the one that early stopping uses."""
        if isinstance(network.heads, PrototypeHead):
            self.predictor.place_prototypes(network, self.trained_on)
        found = self.predictor.outputs(network, self.rows)
        targets = torch.from_numpy(self.predictor.examples.targets_UC[found.rows])
        device = next(network.parameters()).device
        values = {"loss": float(self.loss.to("cpu")(torch.from_numpy(found.values).float(), targets))}
        self.loss.to(device)
        if all(map(math.isfinite, values.values())):  # else the training describes what is wrong
            values |= self._metrics(found)
        kept = self.early.metric if self.early else None
        return {name: value for name, value in values.items() if "." not in name or name == kept}

    def _metrics(self, found: Outputs) -> dict[str, float]:
        trials = trials_of(found, self.spec, self.manifest, self.labels, self.split)
        measured = results.metrics(trials, self.labels.target, replicates=0, seed=0)
        return {name: item.value for name, item in measured.items() if item.value is not None}
