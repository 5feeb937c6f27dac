"""CSV and TSV whose lines end in a line feed and whose cells may hold any text."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from _csv import Writer


class _TextStream(Protocol):
    def write(self, text: str, /) -> object: ...


def writer(stream: _TextStream, delimiter: str = ",") -> Writer:
    """A `csv.writer`; before Python 3.13 it leaves a carriage return bare unless lines end in one."""
    return csv.writer(_LineFeeds(stream), delimiter=delimiter, lineterminator=_BOTH)


_BOTH = "\r\n"


class _LineFeeds:
    """Passes lines on, one at a time, as they come from `csv.writer`, with a line feed alone at their end."""

    def __init__(self, stream: _TextStream) -> None:
        self._stream = stream

    def write(self, line: str) -> object:
        return self._stream.write(line.removesuffix(_BOTH) + "\n")
