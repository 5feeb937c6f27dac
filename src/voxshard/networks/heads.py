"""Classification heads. Suffixes: R rows (utterances, or patches), D size of an input, H hidden size, C outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from voxshard.networks.settings import HeadSettings

_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


class Head(nn.Module):  # type: ignore[misc]  # torch is Any where it is not installed
    """Classification head: dense layer, optional layer norm, activation, dropout, linear layer.

    Parameters
    ----------
    cosine : the outputs are cosines between what comes in and a direction per class, for the angular margin loss.
    """

    def __init__(self, dim: int, num_outputs: int, settings: HeadSettings, *, cosine: bool = False) -> None:
        super().__init__()
        self.hidden_size = settings.hidden or dim
        self.dense = nn.Linear(dim, self.hidden_size)
        self.rest = nn.Sequential(
            nn.LayerNorm(self.hidden_size) if settings.layer_norm else nn.Identity(),
            _ACTIVATIONS[settings.activation](),
            nn.Dropout(settings.dropout),
        )
        self.output = Cosines(self.hidden_size, num_outputs) if cosine else nn.Linear(self.hidden_size, num_outputs)

    def hidden(self, x_RD: torch.Tensor) -> torch.Tensor:
        """Return the output of the first dense layer, before norm and activation, (R, H); this is the embedding
        `ft`."""
        return self.dense(x_RD)

    def forward(self, x_RD: torch.Tensor) -> torch.Tensor:
        """Map (R, D) to (R, C)."""
        return self.output(self.rest(self.hidden(x_RD)))


class Cosines(nn.Module):  # type: ignore[misc]
    """Layer whose outputs are cosines of the angles between the input and a learned direction per class."""

    def __init__(self, dim: int, num_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_outputs, dim))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x_RD: torch.Tensor) -> torch.Tensor:
        """Map (R, D) to (R, C), in [-1, 1]."""
        return nn.functional.linear(nn.functional.normalize(x_RD), nn.functional.normalize(self.weight))


class Heads(nn.Module):  # type: ignore[misc]
    """One head per group of labels; the outputs are concatenated in the order of the groups."""

    def __init__(self, dim: int, sizes: Sequence[int], settings: HeadSettings, *, cosine: bool = False) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head(dim, size, settings, cosine=cosine) for size in sizes)

    @property
    def hidden_size(self) -> int:
        return int(self.heads[0].hidden_size)

    def hidden(self, x_RD: torch.Tensor) -> torch.Tensor:
        """Return the outputs of the first dense layers, (R, number of heads, H)."""
        return torch.stack([head.hidden(x_RD) for head in self.heads], dim=1)

    def forward(self, x_RD: torch.Tensor) -> torch.Tensor:
        """Map (R, D) to (R, C)."""
        return torch.cat([head(x_RD) for head in self.heads], dim=1)


class PrototypeHead(nn.Module):  # type: ignore[misc]
    """Head with one point per class; outputs are negative squared Euclidean distances (Snell et al., arXiv
    1703.05175)."""

    def __init__(self, dim: int, num_outputs: int) -> None:
        super().__init__()
        self.register_buffer("points_CD", torch.zeros(num_outputs, dim))

    def forward(self, x_RD: torch.Tensor) -> torch.Tensor:
        """Map (R, D) to (R, C)."""
        return -squared_distances(x_RD, self.points_CD)


def squared_distances(x_RD: torch.Tensor, points_CD: torch.Tensor) -> torch.Tensor:
    """Return squared Euclidean distances, (R, C)."""
    return (x_RD[:, None] - points_CD[None]).square().sum(dim=-1)
