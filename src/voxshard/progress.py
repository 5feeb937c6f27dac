"""How work reports its progress; stages call it, the CLI displays it."""

from __future__ import annotations

import unicodedata
from typing import Protocol

STEP_VARIABLE = "VOXSHARD_STEP"
"""Environment variable of a command that is one step of several: it does not name the next command."""


def printable(text: str) -> str:
    """Replace control and direction characters by escapes such as `\\x1b`, so that a terminal can print the text.

    Names of files, labels and messages of other programs may hold sequences that clear the screen or rewrite what was
    printed before. Line feeds and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, in the plural (by default with an s) unless it is one."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def _shown(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character)[0] != "C":
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


class Progress(Protocol):
    """Receiver of progress."""

    def begin(self, what: str, *, items: int | None = None, audio_s: float | None = None) -> None:
        """Start work of `items` pieces (and `audio_s` seconds of audio); None if the amount is not known."""

    def advance(self, items: int = 1, audio_s: float = 0.0) -> None:
        """Report that this much more is done."""

    def note(self, message: str) -> None:
        """Print one line for the user."""


class Silent:
    """Receiver that shows nothing."""

    def begin(self, what: str, *, items: int | None = None, audio_s: float | None = None) -> None:
        pass

    def advance(self, items: int = 1, audio_s: float = 0.0) -> None:
        pass

    def note(self, message: str) -> None:
        pass


class NotesOnly(Silent):
    """Receiver that passes on only notes, for a part of some larger work that counts such parts."""

    def __init__(self, whole: Progress) -> None:
        self._whole = whole

    def note(self, message: str) -> None:
        self._whole.note(message)
