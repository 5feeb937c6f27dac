"""Settings and files of the `metis8d` encoder; no framework is imported here."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from voxshard.encoders import hf
from voxshard.encoders.base import EncoderSettings

BACKBONE = "w2v-bert-2.0"
"""Folder of facebook/w2v-bert-2.0 inside the weights folder."""
CODEC = "MaskGCT/semantic_codec/model.safetensors"
STATISTICS = "wav2vec2bert_stats.pt"


class Metis8dSettings(EncoderSettings):
    """Settings of `metis8d`."""

    weights: str | None = None
    """Folder with w2v-bert-2.0/, MaskGCT/semantic_codec/model.safetensors and wav2vec2bert_stats.pt; default
    $VOXSHARD_WEIGHTS/metis8d."""
    layer: int = Field(17, ge=1)
    """Layer of w2v-BERT 2.0 that feeds the codec; MaskGCT and Metis were trained on 17."""
    codes: bool = False
    """Also give the semantic token of each frame (0 to 8191) as `codes`."""
    chunk_seconds: float | None = Field(60.0, ge=1.0)
    """Longer clips are embedded in pieces of this many seconds: attention costs the square of the length. Null:
    never cut."""

    @classmethod
    def weight_files(cls, folder: Path) -> list[str]:
        return [*(f"{BACKBONE}/{name}" for name in hf.model_files(folder / BACKBONE)), CODEC, STATISTICS]
