"""Settings of the `checkpoint` encoder; no framework is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from voxshard.encoders.base import EncoderSettings


class CheckpointSettings(EncoderSettings):
    """Settings of `checkpoint`."""

    weights: str = Field(min_length=1)
    """RUN of a network that `voxshard train` wrote, or its folder `model`."""
    embedding: Literal["pt", "wt", "st", "ft"] = "pt"
    """`pt`: the backbone's embedding; `wt`: its learned weighting of layers; `st`: the shared dense layer (see `st`);
    `ft`: the first dense layer of the heads, before norm and activation."""
    heads: Literal["mean", "sum"] = "mean"
    """How the first dense layers of several heads become one vector, for `ft`."""
    st: Literal["relu", "linear"] = "relu"
    """For `st`: what the heads are given, after the activation, or the layer's output before it."""
    chunk_seconds: float | None = Field(60.0, ge=1.0)
    """Longer clips are embedded in pieces of this many seconds and the pieces' embeddings averaged, weighted by length.
    Null: never cut."""

    @classmethod
    def weight_files(cls, folder: Path) -> list[str]:
        return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
