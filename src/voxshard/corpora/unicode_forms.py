"""Names that differ from the files' in the form of their letters alone: composed (NFC) or decomposed (NFD, macOS)."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable

import pyarrow as pa

from voxshard.audio import is_url
from voxshard.audio.members import member_of


def composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


class Folders:
    """Names in the folders below a local root, each folder listed once."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._known: dict[str, tuple[set[str], dict[str, list[str]]]] = {}

    def real_path(self, path: str) -> str:
        """Return a path relative to the root with the names that the files have.

        Where no file or folder has a name as it is written and one alone has it with composed letters, that one is
        taken. All other paths are returned as they are.
        """
        if path.isascii() or is_url(self._root) or is_url(path) or member_of(path):
            return path
        found = "/" if path.startswith("/") else ""
        for piece in path.split("/"):
            name = piece
            if not piece.isascii():
                names, of_composed = self._listed(found)
                same = of_composed.get(composed(piece), [])
                if piece not in names and len(same) == 1:
                    name = same[0]
            found = os.path.join(found, name) if piece else found  # noqa: PTH118  names stay as they are
        return found if composed(found) == composed(path) else path

    def _listed(self, folder: str) -> tuple[set[str], dict[str, list[str]]]:
        if folder not in self._known:
            try:
                names = set(os.listdir(os.path.join(self._root, folder)))  # noqa: PTH118, PTH208
            except OSError:
                names = set()
            of_composed: dict[str, list[str]] = {}
            for name in names:
                of_composed.setdefault(composed(name), []).append(name)
            self._known[folder] = names, of_composed
        return self._known[folder]


def with_real_paths(table: pa.Table, root: str) -> tuple[pa.Table, list[str]]:
    """Return the table with the paths that the files have, if they differ only in Unicode form, and a note.

    A path that another row has already stays as it is.
    """
    if not pa.types.is_string(table["path"].type):
        return table, []
    paths = table["path"].to_pylist()
    folders = Folders(root)
    real = [path and folders.real_path(path) for path in paths]
    taken = set(paths)
    changed = {old: new for old, new in zip(paths, real, strict=True) if old != new and new not in taken}
    if not changed:
        return table, []
    column = pa.array([changed.get(path, path) for path in paths], pa.string())
    return table.set_column(table.column_names.index("path"), "path", column), [note(changed.items())]


def note(changes: Iterable[tuple[str, str]]) -> str:
    """Return a note on names that were matched in another Unicode form than they are written in."""
    listed = list(changes)
    return (
        f"{len(listed):,} names were matched in the other form of their letters (NFC, NFD), such as {listed[0][0]!a} "
        f"by {listed[0][1]!a}"
    )
