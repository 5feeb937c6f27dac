"""Elements of a report page: sections of text, tables, plots and listings, and a few numbers at the top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from voxshard.reporting.plots import Plot
from voxshard.reporting.result_tables import Table


@dataclass(frozen=True)
class Text:
    """A paragraph of text."""

    text: str
    quiet: bool = False
    """Whether the text explains why something is not shown."""


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    text: str


@dataclass(frozen=True)
class Preformatted:
    """Preformatted text that a click on its title shows."""

    title: str
    text: str


@dataclass(frozen=True)
class Facts:
    """A list of names and values."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Folded:
    """A table that a click on its title shows."""

    title: str
    table: Table


@dataclass(frozen=True)
class Plots:
    """Plots, next to each other if there is room."""

    plots: Sequence[Plot]


_MAX_NOTES = 10
"""Notes that are shown at once."""


def notes(lines: Sequence[str]) -> list[Text | Preformatted]:
    """Return the first lines as paragraphs, and many more behind a click."""
    shown: list[Text | Preformatted] = [Text(line, quiet=True) for line in lines[:_MAX_NOTES]]
    more = lines[_MAX_NOTES:]
    return [*shown, Preformatted(f"{len(more)} more", "\n".join(more))] if more else shown


Block = Text | Heading | Preformatted | Facts | Folded | Plots | Table


@dataclass(frozen=True)
class Section:
    """A titled part of the page; `key` is its HTML anchor."""

    key: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Tile:
    """A number at the top of the page."""

    value: str
    label: str
    note: str = ""
