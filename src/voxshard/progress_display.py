"""Progress on a terminal as a bar, elsewhere as plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import rich.progress
from rich.console import Console
from rich.markup import escape

from voxshard.progress import Progress, printable

_LINE_EVERY_S = 30.0
_FORESEE_FROM, _FORESEE_AFTER_S = 0.01, 60.0
"""Share that is done, or seconds, from which on the remaining time is reported: what comes first has waited for
workers."""


@contextmanager
def progress_display() -> Iterator[Progress]:
    """A progress receiver for the block: a live bar if stderr is a terminal, else a line now and then."""
    if sys.stderr.isatty():
        with _Bar() as bar:
            yield bar
    else:
        lines = _Lines()
        yield lines
        lines.close()


def amount(items: int, total: int | None, audio_s: float, elapsed_s: float, total_audio_s: float | None) -> str:
    """Return files, audio hours, speed and remaining time, as far as they are known."""
    parts = [f"{items:,} of {total:,}" if total else f"{items:,}"]
    if audio_s:
        parts.append(f"{audio_s / 3600:.2f} h audio")
        parts.append(f"{audio_s / max(elapsed_s, 1e-9):,.0f} x real time")
    done, whole = (audio_s, total_audio_s) if total_audio_s and audio_s else (items, total)
    if (
        items != total
        and whole
        and done < whole
        and (done >= _FORESEE_FROM * whole or (done and elapsed_s >= _FORESEE_AFTER_S))
    ):
        parts.append(f"{duration(elapsed_s * (whole - done) / done)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Format seconds as 42 s, 3 min 10 s or 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class _Counted:
    def __init__(self) -> None:
        self.what, self.total, self.total_audio_s = "", None, None  # type: tuple[str, int | None, float | None]
        self.items, self.audio_s, self.since = 0, 0.0, time.monotonic()

    def begin(self, what: str, *, items: int | None = None, audio_s: float | None = None) -> None:
        self.what, self.total, self.total_audio_s = what, items, audio_s
        self.items, self.audio_s, self.since = 0, 0.0, time.monotonic()

    def advance(self, items: int = 1, audio_s: float = 0.0) -> None:
        self.items += items
        self.audio_s += audio_s

    @property
    def _elapsed_s(self) -> float:
        return time.monotonic() - self.since

    def describe(self) -> str:
        return amount(self.items, self.total, self.audio_s, self._elapsed_s, self.total_audio_s)


class _Lines(_Counted):
    def __init__(self) -> None:
        super().__init__()
        self.last = time.monotonic()
        self.open = False

    def begin(self, what: str, *, items: int | None = None, audio_s: float | None = None) -> None:
        self.close()
        super().begin(what, items=items, audio_s=audio_s)
        self.open = True

    def advance(self, items: int = 1, audio_s: float = 0.0) -> None:
        super().advance(items, audio_s)
        if self.total is not None and self.items >= self.total:
            self.close()  # now, not when the next work begins: others print meanwhile
        elif time.monotonic() - self.last > _LINE_EVERY_S:
            self._line(self.describe())

    def note(self, message: str) -> None:
        print(printable(message), file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.open:
            self._line(f"{self.describe() if self.total or self.items else 'done'} in {duration(self._elapsed_s)}")
            self.open = False

    def _line(self, state: str) -> None:
        self.last = time.monotonic()
        print(printable(f"{self.what}: {state}"), file=sys.stderr, flush=True)


class _Bar(_Counted):
    def __init__(self) -> None:
        super().__init__()
        self.console = Console(stderr=True)
        self.bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.TextColumn("{task.fields[amount]}"),
            console=self.console,
        )
        self.row: rich.progress.TaskID | None = None

    def __enter__(self) -> _Bar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def begin(self, what: str, *, items: int | None = None, audio_s: float | None = None) -> None:
        super().begin(what, items=items, audio_s=audio_s)
        self.row = self.bar.add_task(escape(printable(what)), total=items, amount="")

    def advance(self, items: int = 1, audio_s: float = 0.0) -> None:
        super().advance(items, audio_s)
        if self.row is not None:
            self.bar.update(self.row, advance=items, amount=self.describe())

    def note(self, message: str) -> None:
        self.console.print(printable(message), markup=False, highlight=False)
