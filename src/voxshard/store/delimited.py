"""Writing of CSV and TSV files whose lines end in a line feed and whose cells may contain any text."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from _csv import Writer


class _TextStream(Protocol):
    def write(self, text: str, /) -> object: ...


def writer(stream: _TextStream, delimiter: str = ",") -> Writer:
    """Return a `csv.writer` that quotes carriage returns, which Python before 3.13 does only if lines end in one."""
    return csv.writer(_LineFeeds(stream), delimiter=delimiter, lineterminator=_BOTH)


_BOTH = "\r\n"


class _LineFeeds:
    """Stream for `csv.writer` that replaces the end of each line with a single line feed."""

    def __init__(self, stream: _TextStream) -> None:
        self._stream = stream

    def write(self, line: str) -> object:
        return self._stream.write(line.removesuffix(_BOTH) + "\n")
