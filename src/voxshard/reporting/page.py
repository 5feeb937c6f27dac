"""What a page is made of: sections of text, tables, plots and listings, and a few figures at the top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from voxshard.reporting.plots import Plot
from voxshard.reporting.result_tables import Table


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    quiet: bool = False
    """A sentence that explains why something is not shown."""


@dataclass(frozen=True)
class Heading:
    """A title inside a section."""

    text: str


@dataclass(frozen=True)
class Preformatted:
    """Preformatted text behind a line to click on."""

    title: str
    text: str


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Folded:
    """A table behind a line to click on."""

    title: str
    table: Table


@dataclass(frozen=True)
class Plots:
    """Plots side by side where there is room."""

    plots: Sequence[Plot]


Block = Text | Heading | Preformatted | Facts | Folded | Plots | Table


@dataclass(frozen=True)
class Section:
    """A titled part of the page; `key` is its anchor."""

    key: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Tile:
    """One number a reader should see first."""

    value: str
    label: str
    note: str = ""
