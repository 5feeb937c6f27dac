"""The folders and files that a stage uses, so that they can be bound to an image."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from voxshard.audio import is_url, resolve
from voxshard.audio.members import file_of
from voxshard.errors import EnvironmentProblemError
from voxshard.files import expanded, with_retries
from voxshard.runtime import image_command
from voxshard.runtime.image_command import is_bound, names_of

_SAMPLE = 64
"""Recordings of a manifest that are looked at for links."""
_MAX_WEIGHT_FILES = 10_000
_LINK_DEPTH = 3
_MAX_ENTRIES = 1_000_000
"""A corpus without a manifest is looked at for linked folders so deep, and so far."""
_MAX_LINKED_FILES = 64
"""Protocols and tables; where there are more, they are recordings."""


@dataclass(frozen=True)
class RequiredPath:
    """A folder or file that a stage uses."""

    path: Path
    what: str
    """The setting or variable that names it, for messages."""


def needed(path: str | os.PathLike[str], what: str) -> list[RequiredPath]:
    """Return a given path as required; nothing for a URL."""
    text = os.fspath(path)
    return [] if is_url(text) else [RequiredPath(expanded(text).absolute(), what)]


def folders(needs: Iterable[RequiredPath]) -> list[Path]:
    """Return the paths to bind; see `image_command.folders`.

    Raises
    ------
    EnvironmentProblemError : a path does not exist or would hide files of the image.
    """
    try:
        return image_command.folders((need.path, need.what) for need in needs)
    except image_command.BindError as exc:
        raise EnvironmentProblemError(str(exc)) from exc


def corpus(root: str, what: str) -> list[RequiredPath]:
    """Return the folders of a corpus without a manifest: its root, and the targets of links in it."""
    found = needed(root, what)
    if not found or not found[0].path.is_dir():
        return found
    linked_files = [entry.path for entry in os.scandir(found[0].path) if entry.is_symlink() and not entry.is_dir()]
    if len(linked_files) <= _MAX_LINKED_FILES:
        found += [
            need for path in linked_files if Path(path).exists() for need in needed(path, f"{what}: a link in it")
        ]
    folders_here, num_seen = [found[0].path], 0
    for _ in range(_LINK_DEPTH):
        below = []
        for folder in folders_here:
            for entry in os.scandir(folder):
                num_seen += 1
                if num_seen > _MAX_ENTRIES:
                    return found
                if entry.is_symlink():
                    found += needed(entry.path, f"{what}: a link in it") if entry.is_dir() else []
                elif entry.is_dir():
                    below.append(Path(entry.path))
        folders_here = below
    return found


def weights(place: Path, what: str) -> Iterator[RequiredPath]:
    """Yield a folder (or file) of weights, and the targets of links in it (as in a cache of a hub)."""
    yield RequiredPath(place, what)
    real = place.resolve()
    inside = [real] if real.is_file() else real.rglob("*")
    for count, path in enumerate(inside):
        if count > _MAX_WEIGHT_FILES:
            return
        if path.is_symlink() and path.exists() and not path.resolve().is_relative_to(real):
            yield RequiredPath(path, f"{what}: a link in it")


def audio(manifest: Path, already_bound: Sequence[RequiredPath]) -> list[RequiredPath]:
    """Return the root of a manifest's audio, and folders in it that are links to elsewhere.

    Parameters
    ----------
    already_bound : paths that are bound anyway.

    Raises
    ------
    EnvironmentProblemError : recordings are in folders that are not bound: links file by file, or absolute paths.
    """
    table = with_retries(manifest, lambda: pq.ParquetFile(manifest))
    root = json.loads((table.schema_arrow.metadata or {}).get(b"voxshard", b"{}")).get("root", "")
    found = needed(root, f"the audio of {manifest}") if root else []
    shown = folders([*found, *already_bound])
    paths = table.read(columns=["path"])["path"]
    for position in range(0, len(paths), max(1, len(paths) // _SAMPLE)):
        recording = file_of(resolve(root, paths[position].as_py()))
        if is_url(recording):
            continue
        path = Path(os.fsdecode(recording)).absolute()
        real = path.resolve()
        if not real.exists() or all(is_bound(name, shown) for name in names_of(path)):
            continue
        link = _linked_folder(path, Path(root).absolute())
        if link is None:
            raise EnvironmentProblemError(
                f"{path} is in {real.parent}, which the image is not shown; "
                "--set site.container.binds=[FOLDER], or write it into the site's file"
            )
        found.append(RequiredPath(link, f"the audio of {manifest}"))
        shown = folders([*found, *already_bound])
    return found


def _linked_folder(path: Path, root: Path) -> Path | None:
    """Return the outermost folder below the root, on the way to a file, that is a link."""
    between = [place for place in path.parents if place != root and place.is_relative_to(root)]
    return next((place for place in reversed(between) if place.is_symlink()), None)
