"""Where relative paths in the files of other toolkits start: the folder their recipes run in, which no file names."""

from __future__ import annotations

import os
from collections.abc import Sequence

from voxshard.audio import is_url
from voxshard.corpora.remote_folder import exists

_LEVELS = 3
"""Folders above a data directory that are tried: recipes run two levels above data/train."""
_TRIED, _TRIED_IN_BUCKET = 20, 3


def start_of(folder: str, paths: Sequence[str], chosen: str | None) -> tuple[str, list[str]]:
    """Return the folder that relative paths start from, and a note that names it.

    Parameters
    ----------
    folder : of the file that has the paths.
    chosen : by the user.

    Returns
    -------
    `chosen`, else `folder` or the nearest one above in which most of the first recordings exist.
    """
    tried = _TRIED_IN_BUCKET if is_url(folder) else _TRIED
    relative = [path for path in paths if not (is_url(path) or path.startswith("/"))][:tried]
    if chosen is not None:
        return (chosen if is_url(chosen) else os.path.abspath(chosen)), []  # noqa: PTH100
    if not relative:
        return folder, []
    best, most, place = folder, 0, folder
    for _ in range(_LEVELS + 1):
        count = sum(_exists(place, path) for path in relative)
        if count > most:
            best, most = place, count
        above = place.rpartition("/")[0]
        if count == len(relative) or above.endswith("/"):  # found, or this is the bucket
            break
        place = above or "/"
    return best, [f"relative paths start from {best}" + ("" if most else "; choose with --set audio_root=FOLDER")]


def _exists(folder: str, path: str) -> bool:
    return exists(f"{folder}/{path}") if is_url(folder) else os.path.exists(os.path.join(folder, path))  # noqa: PTH110, PTH118
