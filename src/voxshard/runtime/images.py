"""An Apptainer image on disk, a .sif file or an unpacked folder, and what identifies it."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

from voxshard import files
from voxshard.errors import BackendUnavailableError

_SIF_MAGIC = b"SIF_MAGIC"
_HEADER = struct.Struct("<112x2q")
"""Of a SIF file: at its end where the data begin, and how many bytes they are (sylabs/sif, pkg/sif: `type header`)."""
_SIDECAR_LINE = re.compile(r"([0-9a-f]{64})\s")
_LABELS = Path(".singularity.d") / "labels.json"


def check(image: Path) -> None:
    """Raise BackendUnavailableError unless this is an image; says what was found instead."""
    mend = "build it (`make image-pytorch`, `make image-tensorflow`), or copy it here (docs/images.md)"
    try:
        if image.is_dir():
            if not (image / _LABELS.parent).is_dir():
                raise BackendUnavailableError(f"image {image}: a folder, but no unpacked image; {mend}")
            return
        with open(image, "rb") as stream:
            head = stream.read(_HEADER.size)
            num_bytes = stream.seek(0, os.SEEK_END)
    except FileNotFoundError as exc:
        raise BackendUnavailableError(f"image {image}: no such file; {mend}") from exc
    except OSError as exc:
        raise BackendUnavailableError(f"image {image}: cannot be read: {exc.strerror}; {mend}") from exc
    if len(head) < _HEADER.size or _SIF_MAGIC not in head:
        raise BackendUnavailableError(f"image {image}: not a SIF file; {mend}")
    if num_bytes < (wanted := sum(_HEADER.unpack(head))):
        raise BackendUnavailableError(f"image {image}: {num_bytes:,} of {wanted:,} bytes, half a copy; {mend}")


def digest(image: Path, notes: Path | None = None) -> str:
    """`sha256:...` of a SIF file, or of an unpacked folder's labels (they say when it was built).

    Hashing some gigabytes takes a while, so it is done once: `IMAGE.sha256` holds the sum, as sha256sum writes it.

    Parameters
    ----------
    notes : folder for that note where none can be written beside the image.
    """
    if image.is_dir():
        labels = image / _LABELS
        return f"sha256:{files.sha256_of(labels)}" if labels.exists() else "sha256:unknown"
    noted = _noted(image, notes)
    if noted is None:
        noted = files.sha256_of(image)
        _note(image, noted, notes)
    return f"sha256:{noted}"


def _sidecars(image: Path, notes: Path | None) -> list[Path]:
    name = f"{image.name}.sha256"
    return [image.with_name(name), *([notes / name] if notes is not None else [])]


def _noted(image: Path, notes: Path | None) -> str | None:
    """The sum in a note that is not older than the image."""
    for path in _sidecars(image, notes):
        try:
            if path.stat().st_mtime_ns >= image.stat().st_mtime_ns and (match := _SIDECAR_LINE.match(path.read_text())):
                return match[1]
        except (OSError, UnicodeDecodeError):
            continue
    return None


def _note(image: Path, found: str, notes: Path | None) -> None:
    for path in _sidecars(image, notes):
        try:
            files.publish_bytes(path, f"{found}  {image.name}\n".encode())
        except OSError:
            continue
        return
