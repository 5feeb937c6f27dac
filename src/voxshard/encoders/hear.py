"""Settings of the `hear` encoder; the HEAR API: https://hearbenchmark.com/hear-api.html"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Literal

from voxshard.encoders.base import EncoderSettings


class HearSettings(EncoderSettings):
    """Settings of `hear`."""

    module: str | None = None
    """Name of the Python module with load_model, get_scene_embeddings and get_timestamp_embeddings."""
    weights: str | None = None
    """File or folder that is passed to the module's load_model; null: its default."""
    embedding: Literal["scene", "timestamps"] = "scene"
    """`scene`: one vector per recording; `timestamps`: the vectors at regular times, as frames."""
    batch: Literal["single", "equal_length"] = "single"
    """`equal_length` lets recordings of one length share a call; the extraction then measures what that changes."""
    precision: Literal["float32"] = "float32"
    """The module decides how it computes."""

    @classmethod
    def weight_files(cls, folder: Path) -> list[str]:
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def distribution_of(module: str) -> list[str]:
    """Return the names of the installed distributions that contain a module; none for a module only on the path."""
    top_level = module.partition(".")[0]
    return sorted(set(importlib.metadata.packages_distributions().get(top_level, ())))
