"""Why recordings of a list are missing: names written in another way than the files'."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator

from voxshard import audio

_LEVELS = 3
"""Folders above the root that missing recordings are looked for in."""
_LOOKED_AT = 20
"""Missing recordings that other names are tried for."""


def missing_hints(root: str, paths: list[str | bytes]) -> list[str]:
    """Return one line per kind of difference between names in the lists and the files that exist.

    Parameters
    ----------
    paths : of recordings that were not found, as in the manifest. In a bucket no other names are looked for.
    """
    some = [os.fsdecode(path) for path in paths[:_LOOKED_AT]]
    found: dict[str, list[str]] = {}
    for path in some:
        other = None if audio.is_url(root) else _existing(root, path)
        if other is not None:
            example = f"{_shown(other[1])} for {_shown(path)}"
            text = f"exist under a name that {other[0]}, such as {example}; correct the list or the names"
        elif oddity := _oddity(path):
            text = f"have names with {oddity}, such as {_shown(path)}; the files may be called otherwise"
        else:
            continue
        found.setdefault(text.split(", such as")[0], []).append(text)
    return [f"{len(lines)} of {len(some)} missing recordings {lines[0]}" for lines in found.values()]


def _shown(path: str) -> str:
    return repr(os.fsencode(path).decode(errors="backslashreplace"))


def _existing(root: str, path: str) -> tuple[str, str] | None:
    """How the name of a file that exists differs from one in a list, and that name."""
    for what, other in _other_names(root, path):
        if other != path and os.path.isfile(os.path.join(root, other)):  # noqa: PTH113, PTH118  names stay as they are
            return what, other
    return None


def _oddity(path: str) -> str | None:
    """What in a name often makes it another one than the file's; None where it is plain."""
    if _is_of_bytes(path):
        return "bytes that are not UTF-8"
    if "\\" in path:
        return "backslashes"
    if path != path.strip():
        return "blanks around them"
    if any(unicodedata.category(letter) == "Cf" for letter in path):
        return "invisible characters"
    if unicodedata.normalize("NFC", path) != unicodedata.normalize("NFD", path):
        return "letters that Unicode writes in two ways (NFC, NFD)"
    return None


def _is_of_bytes(path: str) -> bool:
    return any("\udc80" <= letter <= "\udcff" for letter in path)


def _other_names(root: str, path: str) -> Iterator[tuple[str, str]]:
    if _is_of_bytes(path):
        yield "is in UTF-8, not in Windows-1252", os.fsencode(path).decode("cp1252", "replace")
    changes: tuple[tuple[str, Callable[[str], str]], ...] = (
        ("has slashes instead of backslashes", lambda text: text.replace("\\", "/")),
        ("has no blanks around it", lambda text: text.strip()),
        ("has no quotation marks around it", lambda text: text.strip("\"'")),
    )
    for what, change in changes:
        other = change(path)
        if other != path:
            yield what, other
    pieces = path.replace("\\", "/").strip().split("/")
    for what, same in _ALIKE:
        if other_path := _piece_by_piece(root, pieces, same):
            yield what, other_path
    below = [piece for piece in pieces if piece]
    for first in range(1, len(below)):
        yield "starts further down (a table: --set audio_root=FOLDER)", "/".join(below[first:])
    for above in range(1, _LEVELS + 1):
        yield "starts in a folder above (a table: --set audio_root=FOLDER)", "/".join([".."] * above + below)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


_ALIKE: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("differs in upper and lower case", _folded),
    ("has zeros at its start", lambda name: name.lstrip("0")),
    ("has another extension", lambda name: os.path.splitext(name)[0]),  # noqa: PTH122
    ("has another extension and case", lambda name: _folded(os.path.splitext(name)[0])),  # noqa: PTH122
)


def _piece_by_piece(root: str, pieces: list[str], same: Callable[[str], str]) -> str | None:
    """Return the path whose names have the same form as these; None if a folder has no such name, or several."""
    folder = ""
    for piece in pieces:
        names = _names_in(os.path.join(root, folder))  # noqa: PTH118
        alike = [piece] if piece in names else [name for name in names if same(name) == same(piece)]
        if len(alike) != 1:
            return None
        folder = os.path.join(folder, alike[0])  # noqa: PTH118
    return folder


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError:
        return []
