"""Why recordings of a list are missing: names written in another way than the files'."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator

from voxshard import audio

_LOOKED_AT = 20
"""Missing recordings that other names are tried for."""


def missing_hints(root: str, paths: list[str | bytes]) -> list[str]:
    """Return one line per kind of difference between names in the lists and the files that exist.

    Parameters
    ----------
    paths : of recordings that were not found, as in the manifest. In a bucket no other names are looked for.
    """
    texts = [path for path in paths if isinstance(path, str)][:_LOOKED_AT]
    found: dict[str, list[str]] = {}
    for path in texts:
        other = None if audio.is_url(root) else _existing(root, path)
        if other is not None:
            text = (
                f"exist under a name that {other[0]}, such as {other[1]!r} for {path!r}; correct the list or the names"
            )
        elif oddity := _oddity(path):
            text = f"have names with {oddity}, such as {path!r}; the files may be called otherwise"
        else:
            continue
        found.setdefault(text.split(", such as")[0], []).append(text)
    return [f"{len(lines)} of {len(texts)} missing recordings {lines[0]}" for lines in found.values()]


def _existing(root: str, path: str) -> tuple[str, str] | None:
    """How the name of a file that exists differs from one in a list, and that name."""
    for what, other in _other_names(root, path):
        if os.path.exists(os.path.join(root, other)):  # noqa: PTH110, PTH118  names stay as they are
            return what, other
    return None


def _oddity(path: str) -> str | None:
    """What in a name often makes it another one than the file's; None where it is plain."""
    if "\\" in path:
        return "backslashes"
    if path != path.strip():
        return "blanks around them"
    if any(unicodedata.category(letter) == "Cf" for letter in path):
        return "invisible characters"
    if unicodedata.normalize("NFC", path) != unicodedata.normalize("NFD", path):
        return "letters that Unicode writes in two ways (NFC, NFD)"
    return None


def _other_names(root: str, path: str) -> Iterator[tuple[str, str]]:
    changes: tuple[tuple[str, Callable[[str], str]], ...] = (
        ("has slashes instead of backslashes", lambda text: text.replace("\\", "/")),
        ("has no blanks around it", lambda text: text.strip()),
    )
    for what, change in changes:
        other = change(path)
        if other != path:
            yield what, other
    folder = ""
    for piece in path.replace("\\", "/").strip().split("/"):
        names = _names_in(os.path.join(root, folder))  # noqa: PTH118
        wanted = unicodedata.normalize("NFC", piece).casefold()
        same = [name for name in names if unicodedata.normalize("NFC", name).casefold() == wanted]
        if not same:
            return
        folder = os.path.join(folder, piece if piece in same else same[0])  # noqa: PTH118
    yield "differs in upper and lower case", folder


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError:
        return []
