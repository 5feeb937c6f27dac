"""Base class of the lower part of trained networks: it maps features to one row per utterance or patch, independent of
the batch.

Suffixes: B utterances, L padded feature length, P patches, D size of a row.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from voxshard.encoders.base import BatchPolicy, Features, Waveform
from voxshard.errors import ConfigError
from voxshard.networks.settings import PooledBy

Lengths: TypeAlias = npt.NDArray[np.int64]


class Backbone(nn.Module):  # type: ignore[misc]  # torch is Any where it is not installed
    """The part of a network below the heads.

    Built either to be trained, `assets` None, with whatever pretrained weights its settings name; or from a checkpoint,
    `assets` the folder with the small files that `describe_to` wrote there, its weights to be loaded afterwards.
    """

    preparer: Callable[[Waveform], Features] | None
    """Function from waveform to features, which runs in worker processes."""
    batch_policy: ClassVar[BatchPolicy] = "padded"
    sample_rate: int
    min_samples: int
    dim: int
    has_layer_weights: bool = False

    @abstractmethod
    def forward(self, features: torch.Tensor, lengths_B: Lengths) -> torch.Tensor:
        """Return (B, D), or (P, D) if the batch policy is `windows`; the input is described at `Encoder.encode`."""

    def plain(self, features: torch.Tensor, lengths_B: Lengths) -> torch.Tensor:
        """Return the output of `forward` without weighting of layers: the embedding `pt`."""
        return self(features, lengths_B)

    def choose_plain(self, layer: int | str | None, pooling: PooledBy | None) -> None:
        """Make `plain` pool another hidden layer, or pool in another way; None keeps the setting of the training.

        Raises
        ------
        ConfigError : the network has no hidden layers to choose from.
        """
        if layer is not None or pooling is not None:
            raise ConfigError(
                f"{'pooling' if layer is None else 'layer'}: only networks of the family wav2vec2 have hidden layers "
                "to choose from; omit it"
            )

    def describe_to(self, folder: Path) -> None:
        """Write the small files that building needs in addition to settings and weights."""

    def untrained(self) -> list[nn.Parameter]:
        """Return the parameters that training does not change."""
        return []

    def seconds(self, length: int) -> float:
        """Return the approximate duration, in seconds, of features of this length."""
        return length / self.sample_rate
