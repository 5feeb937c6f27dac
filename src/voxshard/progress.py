"""How work reports its progress; stages call it, the CLI displays it."""

from __future__ import annotations

import unicodedata
from typing import Protocol


def printable(text: str) -> str:
    """Text as a terminal may receive it: control and direction characters become escapes such as `\\x1b`.

    Names of files, labels and messages of other programs may hold sequences that clear the screen or rewrite what was
    printed before. Line feeds and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character)[0] != "C":
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


class Progress(Protocol):
    """Receiver of progress."""

    def begin(self, what: str, *, items: int | None = None, audio_s: float | None = None) -> None:
        """Work of `items` pieces (and `audio_s` seconds of audio) starts; None where the amount is not known."""

    def advance(self, items: int = 1, audio_s: float = 0.0) -> None:
        """So much more is done."""

    def note(self, message: str) -> None:
        """One line a person should read."""


class Silent:
    """Progress is not shown."""

    def begin(self, what: str, *, items: int | None = None, audio_s: float | None = None) -> None:
        pass

    def advance(self, items: int = 1, audio_s: float = 0.0) -> None:
        pass

    def note(self, message: str) -> None:
        pass


class NotesOnly(Silent):
    """What a part of some larger work, which counts such parts, reports about itself."""

    def __init__(self, whole: Progress) -> None:
        self._whole = whole

    def note(self, message: str) -> None:
        self._whole.note(message)
