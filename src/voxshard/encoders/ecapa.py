"""Settings and files of the `ecapa` encoder; no framework is imported here."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from voxshard.encoders.base import EncoderSettings

CHECKPOINT = "embedding_model.ckpt"


class EcapaSettings(EncoderSettings):
    """Settings of `ecapa`."""

    weights: str | None = None
    """Folder in the layout of speechbrain/spkrec-ecapa-voxceleb; default $VOXSHARD_WEIGHTS/ecapa. Only
    embedding_model.ckpt is opened; YAML next to it is never executed."""
    chunk_seconds: float | None = Field(300.0, ge=1.0)
    """Longer clips are embedded in pieces of this many seconds and the pieces' embeddings averaged, weighted by
    length; five minutes take about 4 GB with the published model. Null: never cut."""

    @classmethod
    def weight_files(cls, folder: Path) -> list[str]:
        return [CHECKPOINT]
