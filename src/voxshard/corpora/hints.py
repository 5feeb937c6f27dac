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
    paths : of recordings that were not found, as in the manifest.
    """
    if audio.is_url(root):
        return []
    found: dict[str, tuple[str, str]] = {}
    counts: dict[str, int] = {}
    texts = [path for path in paths if isinstance(path, str)]
    for path in texts[:_LOOKED_AT]:
        for what, other in _other_names(root, path):
            if os.path.exists(os.path.join(root, other)):  # noqa: PTH110, PTH118  names stay as they are
                found.setdefault(what, (path, other))
                counts[what] = counts.get(what, 0) + 1
                break
    tried = min(len(texts), _LOOKED_AT)
    return [
        f"{counts[what]} of {tried} missing recordings exist under a name that {what}, such as {other!r} for {path!r}; "
        "correct the names in the list, or rename the files"
        for what, (path, other) in found.items()
    ]


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
