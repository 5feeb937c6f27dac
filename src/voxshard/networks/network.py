"""A trained network: backbone, optional shared dense layer and heads; and the embeddings it offers.

Suffixes: B utterances, R rows (utterances, or patches), D, S, H sizes of embeddings, C outputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import nn

from voxshard.errors import ConfigError
from voxshard.networks.backbone import Lengths
from voxshard.networks.backbones import build_backbone
from voxshard.networks.heads import Heads, PrototypeHead
from voxshard.networks.settings import NetworkSpec

Embedding: TypeAlias = Literal["pt", "wt", "st", "ft"]


class Network(nn.Module):  # type: ignore[misc]  # torch is Any where it is not installed
    """Network from the features of a batch to outputs, one row per utterance.

    Parameters
    ----------
    assets : None to start a training; the checkpoint's folder `backbone` to load one.
    """

    def __init__(self, spec: NetworkSpec, assets: Path | None) -> None:
        super().__init__()
        settings = spec.network_settings()
        self.spec, self.min_batch = spec, settings.min_batch
        self.backbone = build_backbone(spec.family, settings, assets)
        dim = self.backbone.dim
        self.shared: nn.Module | None = None
        if settings.shared_dim is not None:
            self.shared = nn.Linear(dim, settings.shared_dim)
            dim = settings.shared_dim
        self.heads: nn.Module
        if spec.prototypes:
            self.heads = PrototypeHead(dim, spec.num_outputs)
        else:
            sizes = [len(group.labels) for group in spec.groups]
            self.heads = Heads(dim, sizes, settings.heads, cosine=spec.loss == "aam")
        self.row_dim = dim
        for parameter in self.backbone.untrained():
            parameter.requires_grad_(False)

    def rows(self, features: torch.Tensor, lengths_B: Lengths) -> torch.Tensor:
        """Return the input of the heads: (B, D), or (P, D) for patches."""
        x_RD = self.backbone(features, lengths_B)
        return x_RD if self.shared is None else torch.relu(self.shared(x_RD))

    def joined_rows(self, features: torch.Tensor, lengths_B: Lengths) -> torch.Tensor:
        """Return `rows` averaged over the patches of each recording, (B, D); prototypes are means of these."""
        return self.joined(self.rows(features, lengths_B), lengths_B)

    def forward(self, features: torch.Tensor, lengths_B: Lengths) -> torch.Tensor:
        """Return the outputs (B, C): logits, cosines or negative distances, averaged over the patches of each
        recording."""
        return self.joined(self.heads(self.rows(features, lengths_B)), lengths_B)

    def embed(
        self,
        features: torch.Tensor,
        lengths_B: Lengths,
        kind: Embedding,
        heads: Literal["mean", "sum"],
        shared: Literal["relu", "linear"],
    ) -> torch.Tensor:
        """Return embeddings, (B, size of the embedding), averaged over patches; see `embedding_size`."""
        if kind == "pt":
            x_RD = self.backbone.plain(features, lengths_B)
        elif kind == "wt":
            x_RD = self.backbone(features, lengths_B)
        elif kind == "st":
            assert self.shared is not None
            x_RD = self.shared(self.backbone(features, lengths_B))
            x_RD = torch.relu(x_RD) if shared == "relu" else x_RD
        else:
            hidden_RNH = self.heads.hidden(self.rows(features, lengths_B))
            x_RD = hidden_RNH.mean(dim=1) if heads == "mean" else hidden_RNH.sum(dim=1)
        return self.joined(x_RD, lengths_B)

    def embedding_size(self, kind: Embedding) -> int:
        """Return the size of an embedding.

        `pt`: the backbone's own; `wt`: its learned weighting of layers; `st`: the shared dense layer, after its
        activation or before it; `ft`: the first dense layer of the heads, before norm and activation.

        Raises
        ------
        ConfigError : the network has no such part.
        """
        if kind == "wt" and not self.backbone.has_layer_weights:
            raise ConfigError(
                "embedding=wt: this network was not trained with weighted=true, it has no weighting of layers; "
                "choose pt or ft"
            )
        if kind == "st" and self.shared is None:
            raise ConfigError(
                "embedding=st: this network was trained without shared_dim, it has no shared layer; choose pt or ft"
            )
        if kind == "ft" and not isinstance(self.heads, Heads):
            raise ConfigError("embedding=ft: a prototypical network has no heads; choose pt")
        if kind in ("pt", "wt"):
            return self.backbone.dim
        return self.row_dim if kind == "st" else int(self.heads.hidden_size)

    def joined(self, x_RD: torch.Tensor, lengths_B: Lengths) -> torch.Tensor:
        """Return the mean over each utterance's patches; rows that are utterances are returned unchanged."""
        if self.backbone.batch_policy != "windows":
            return x_RD
        parts = torch.split(x_RD, lengths_B.tolist())
        return torch.stack([part.mean(dim=0) for part in parts])
