"""An Apptainer image on disk, a .sif file or an unpacked folder, and what identifies it."""

from __future__ import annotations

from pathlib import Path

from voxshard.errors import BackendUnavailableError
from voxshard.runtime import image_command
from voxshard.runtime.image_command import digest

__all__ = ["check", "digest"]


def check(image: Path) -> None:
    """Raise BackendUnavailableError, with what was found instead, unless this is a complete image."""
    try:
        image_command.check(image)
    except image_command.ImageError as exc:
        raise BackendUnavailableError(str(exc)) from exc
