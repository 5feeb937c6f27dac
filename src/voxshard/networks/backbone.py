"""What a trained network's lower part is: features in, one row per utterance (or per patch) out, exact in any batch.

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
    """What is below the heads.

    Built either to be trained, `assets` None, with whatever pretrained weights its settings name; or from a checkpoint,
    `assets` the folder with the small files that `describe_to` wrote there, its weights to be loaded afterwards.
    """

    preparer: Callable[[Waveform], Features] | None
    """Waveform to features; runs in workers."""
    batch_policy: ClassVar[BatchPolicy] = "padded"
    sample_rate: int
    min_samples: int
    dim: int
    has_layer_weights: bool = False

    @abstractmethod
    def forward(self, features: torch.Tensor, lengths_B: Lengths) -> torch.Tensor:
        """(B, D), or (P, D) where the batch policy is `windows`; see `Encoder.encode` for what comes in."""

    def plain(self, features: torch.Tensor, lengths_B: Lengths) -> torch.Tensor:
        """Return what `forward` returns, before layers are weighted: the embedding `pt`."""
        return self(features, lengths_B)

    def choose_plain(self, layer: int | str | None, pooling: PooledBy | None) -> None:
        """Let `plain` pool another hidden layer, or pool in another way; None keeps what the training had.

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
        """Write what building needs in addition to settings and weights."""

    def untrained(self) -> list[nn.Parameter]:
        """Parameters that keep their values."""
        return []

    def seconds(self, length: int) -> float:
        """Approximate number of seconds of audio in features of this length."""
        return length / self.sample_rate
