"""Settings of the `checkpoint` encoder; no framework is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from voxshard.encoders.base import EncoderSettings
from voxshard.networks.settings import HiddenLayer, PooledBy


class CheckpointSettings(EncoderSettings):
    """Settings of the encoder `checkpoint`."""

    weights: str = Field(min_length=1)
    """Run directory of a network that `voxshard train` wrote, or its folder `model`."""
    embedding: Literal["pt", "wt", "st", "ft"] = "pt"
    """`pt`: the backbone's embedding; `wt`: its learned weighting of layers; `st`: the shared dense layer (see the
    setting `st`); `ft`: the first dense layer of the heads, before norm and activation."""
    heads: Literal["mean", "sum"] = "mean"
    """With `ft`, how the first dense layers of several heads are combined into one vector."""
    st: Literal["relu", "linear"] = "relu"
    """With `st`, the output to take: `relu` is the input of the heads, after the activation; `linear` is the layer's
    output before it."""
    layer: HiddenLayer | None = None
    """For `pt` of a wav2vec2 network, the hidden layer to pool: 0 to the highest layer of the network, or `last`. Null:
    the layer of the training."""
    pooling: PooledBy | None = None
    """For `pt` of a wav2vec2 network, how its frames are pooled. Null: as in the training."""
    chunk_seconds: float | None = Field(60.0, ge=1.0)
    """Longer clips are embedded in pieces of this many seconds, and the embeddings averaged, weighted by length. Null:
    clips are never divided."""

    @model_validator(mode="after")
    def _check_choice(self) -> Self:
        for name in ("layer", "pooling"):
            if getattr(self, name) is not None and self.embedding != "pt":
                raise ValueError(
                    f"{name}: no effect on embedding={self.embedding}, which is as it was trained; omit it"
                )
        return self

    @classmethod
    def weight_files(cls, folder: Path) -> list[str]:
        return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
