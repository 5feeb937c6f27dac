"""How long work tells whoever is watching how far it is; stages call it, the CLI draws it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receiver of progress."""

    def begin(self, what: str, *, items: int | None = None, audio_s: float | None = None) -> None:
        """Work of `items` pieces (and `audio_s` seconds of audio) starts; None where the amount is not known."""

    def advance(self, items: int = 1, audio_s: float = 0.0) -> None:
        """So much more is done."""

    def note(self, message: str) -> None:
        """One line a person should read."""


class Silent:
    """Nobody watches."""

    def begin(self, what: str, *, items: int | None = None, audio_s: float | None = None) -> None:
        pass

    def advance(self, items: int = 1, audio_s: float = 0.0) -> None:
        pass

    def note(self, message: str) -> None:
        pass


class NotesOnly(Silent):
    """What a part of some larger work, which counts such parts, tells of itself."""

    def __init__(self, whole: Progress) -> None:
        self._whole = whole

    def note(self, message: str) -> None:
        self._whole.note(message)
