"""Matplotlib figures as inline SVG: text stays text, ids are unique on the page, the same input gives the same
bytes."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Okabe & Ito, Color Universal Design (https://jfly.uni-koeln.de/color/); their yellow is left out: too pale on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":", (0, (6, 1.5)), (0, (4, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p", "*")
GREY = "#6b7280"

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "voxshard",
    "text.parse_math": False,  # an id with a $ in it is not a formula
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib, so that layouts do not depend on the machine
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.5,
    "axes.labelcolor": "#1f2933",
    "axes.edgecolor": "#9aa5b1",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.7,
    "lines.markersize": 4.5,
    "text.color": "#1f2933",
    "xtick.color": "#52606d",
    "ytick.color": "#52606d",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.constrained_layout.use": True,
}

_ID = re.compile(r'\sid="([^"]*)"')
_REFERENCE = re.compile(r'url\(#([^)]+)\)|href="#([^"]+)"')
_COMMENT = re.compile(r"<!--.*?-->\s*", re.DOTALL)


@contextmanager
def svg_figure(width: float, height: float) -> Iterator[Figure]:
    """Provide a figure of the given size in inches, in the report's style; at 4.8 inches, text has 10 px on a phone and
    14 px on a desktop."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        FigureCanvasSVG(figure)
        yield figure


def to_svg(figure: Figure, *, key: str, title: str, description: str) -> str:
    """Return the figure as an `<svg>` element for a page.

    Parameters
    ----------
    key : unique on the page; letters, digits and dashes. Ids inside start with it.
    title, description : what a screen reader reads out, plain text.
    """
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # Text is drawn by the reader's browser, with the fonts it has; matplotlib's only measures it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    body = _COMMENT.sub("", text[text.index("<svg") :])
    opening, _, content = body.partition(">")
    view_box = re.search(r'viewBox="([^"]+)"', opening)
    assert view_box is not None, "matplotlib writes a viewBox"
    used = {first or second for first, second in _REFERENCE.findall(content)}
    content = _ID.sub(lambda match: f' id="{key}-{match[1]}"' if match[1] in used else "", content)
    content = _REFERENCE.sub(
        lambda match: f"url(#{key}-{match[1]})" if match[1] else f'href="#{key}-{match[2]}"', content
    )
    content = content.replace("xlink:href", "href")
    return (
        f'<svg viewBox="{view_box[1]}" role="img" aria-labelledby="{key}-title {key}-desc">'
        f'<title id="{key}-title">{escape(title)}</title>'
        f'<desc id="{key}-desc">{escape(description)}</desc>{content.strip()}'
    )


def legend_name(name: str) -> str:
    """Return a name that Matplotlib shows in a legend; one that begins with an underscore would be omitted."""
    return f"\N{ZERO WIDTH SPACE}{name}" if name.startswith("_") else name


def distinct(names: Sequence[str], limit: int = 24) -> list[str]:
    """Shorten names as `short` does, but keep as much as distinguishes them."""
    whole = len(set(names))
    longest = max(map(len, names), default=0)
    while limit < longest and len({short(name, limit) for name in names}) < whole:
        limit += 6
    return [short(name, limit) for name in names]


def short(text: str, limit: int = 24) -> str:
    """Shorten a name for a plot by omitting its middle; the table below the plot contains the full name."""
    text = " ".join(text.split())
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 2
    return f"{text[: limit - 1 - tail]}…{text[-tail:]}"
