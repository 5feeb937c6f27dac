"""The `checkpoint` encoder: embeddings from networks that voxshard trained. Suffixes: B utterances, D embedding
size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from voxshard.encoders._torch.base import TorchEncoder
from voxshard.encoders.base import KnownHashes, Output, describe
from voxshard.encoders.pooling import join_pooled
from voxshard.encoders.weight_files import hash_files
from voxshard.locations import local_copy, parse
from voxshard.networks.checkpoint import CheckpointSettings
from voxshard.networks.network_files import Checkpoint

_CODE_VERSION = 1


class CheckpointEncoder(TorchEncoder):
    """Encoder that returns one vector per utterance from a trained network."""

    settings_model = CheckpointSettings
    settings: CheckpointSettings

    def __init__(self, name: str, settings: CheckpointSettings, known_hashes: KnownHashes) -> None:
        self.settings = settings
        self.checkpoint = Checkpoint.read(local_copy(parse(settings.weights)))
        with torch.device("meta"):  # shapes alone: the weights are read by `load`
            network = self.checkpoint.build()
        backbone = network.backbone
        backbone.choose_plain(settings.layer, settings.pooling)
        self.preparer = backbone.preparer
        self.seconds = backbone.seconds
        seconds = settings.chunk_seconds
        self.info = describe(
            name=name,
            settings=settings,
            code_version=_CODE_VERSION,
            libraries=("torch", "transformers", "speechbrain"),
            # Sets of `st` from before there was a choice are of the linear output.
            derived={"st": settings.st} if settings.embedding == "st" else None,
            weight_files=hash_files(self.checkpoint.folder, self.checkpoint.file_names, known_hashes),
            weights_folder=self.checkpoint.folder,
            requires=("torch",),
            needs_gpu=True,
            sample_rate=backbone.sample_rate,
            dim=network.embedding_size(settings.embedding),
            granularity="utterance",
            batch_policy=backbone.batch_policy,
            min_samples=backbone.min_samples,
            chunk_samples=None if seconds is None else round(seconds * backbone.sample_rate),
        )

    def build(self) -> nn.Module:
        """Return the network with its weights."""
        network = self.checkpoint.load()
        network.backbone.choose_plain(self.settings.layer, self.settings.pooling)
        return network

    def forward(self, features: torch.Tensor, lengths_B: npt.NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """Return "embedding" (B, D)."""
        settings = self.settings
        return {"embedding": self.model.embed(features, lengths_B, settings.embedding, settings.heads, settings.st)}

    def join(self, parts: Sequence[Output], lengths: Sequence[int]) -> Output:
        """Combine pieces as if they had been pooled together, if the pooling was set; otherwise average them."""
        if self.settings.pooling is None:
            return super().join(parts, lengths)
        return {"embedding": join_pooled([part["embedding"] for part in parts], lengths, self.settings.pooling)}

    def cost(self, length: int) -> float:
        """Return the duration of features of this length, in seconds of audio."""
        return self.seconds(length)
