"""Plots of a feature set: map of its embeddings, and throughput and device load over time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from voxshard.reporting.plots import MAX_LINES, Plot, legend_below, style
from voxshard.reporting.report_data import EmbeddingMap, Series
from voxshard.reporting.result_tables import table
from voxshard.reporting.vector import GREY, MARKERS, PALETTE, legend_name, svg_figure, to_svg

MAX_CLASSES = 12
"""Values of a column that get their own marker on a map."""


def embedding_map(sample: EmbeddingMap, column: str, *, key: str, name: str) -> Plot:
    """Plot the sample on its first two principal components, with colours and markers by one column."""
    values = np.array(list(sample.columns[column]), dtype=object)
    counts = Counter(values.tolist())
    own = [value for value, _ in sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))[:MAX_CLASSES]]
    own = sorted(own, key=_natural) if len(counts) <= MAX_CLASSES else own
    first, second = (
        f"component {place} ({100 * share:.0f} % of variance)" for place, share in enumerate(sample.explained, 1)
    )
    with svg_figure(4.8, 3.9) as figure:
        axes = figure.add_subplot()
        rest = ~np.isin(values, own)
        if rest.any():
            axes.plot(
                *sample.points[rest].T,
                ".",
                color=GREY,
                markersize=3,
                alpha=0.4,
                label=f"{len(counts) - len(own)} others",
            )
        for index, value in enumerate(own):
            axes.plot(
                *sample.points[values == value].T, MARKERS[index], color=PALETTE[index % len(PALETTE)], markersize=3.6,
                alpha=0.7, markeredgewidth=0, label=legend_name(value),
            )  # fmt: skip
        axes.set_xlabel(first)
        axes.set_ylabel(second)
        legend_below(figure, handle_length=0.8)
        title = f"Embeddings of {name}, by {column}"
        caption = f"{len(values):,} of {sample.num_total:,} utterances on the two directions of largest variance."
        svg = to_svg(figure, key=key, title=title, description=caption)
    rows = []
    for value in [*own, *sorted(counts.keys() - set(own), key=_natural)]:
        points = sample.points[values == value]
        centre, spread = points.mean(axis=0), points.std(axis=0)
        rows.append(
            [
                value,
                f"{len(points):,}",
                *(f"{number:.3g}" for pair in zip(centre, spread, strict=True) for number in pair),
            ]
        )
    heads = [column, "in the sample", "mean on 1", "deviation on 1", "mean on 2", "deviation on 2"]
    return Plot(key=key, title=title, svg=svg, caption=caption, table=table(heads, rows))


def _natural(text: str) -> tuple[bool, float, str]:
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text


def timeline(series: Sequence[Series], *, key: str, name: str) -> Plot:
    """Plot one quantity over wall time, with a line per task or device."""
    quantity, unit = series[0].quantity, series[0].unit
    shown = series[:MAX_LINES]
    longest = max(float(part.time_s.max(initial=0.0)) for part in shown)
    divisor, time_unit = (3600.0, "h") if longest > 2 * 3600 else (60.0, "min") if longest > 120 else (1.0, "s")
    title = f"{quantity[:1].upper()}{quantity[1:]} of {name}"
    caption = f"The first {len(shown)} of {len(series)}." if len(shown) < len(series) else f"In {unit}, over wall time."
    with svg_figure(4.8, 2.6) as figure:
        axes = figure.add_subplot()
        for index, part in enumerate(shown):
            axes.plot(part.time_s / divisor, part.values, label=legend_name(part.name), **style(index))
        axes.set_xlabel(f"time since the start, {time_unit}")
        axes.set_ylabel(f"{quantity}, {unit}")
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        legend_below(figure)
        svg = to_svg(figure, key=key, title=title, description=caption)
    rows = []
    for part in series:
        least, median, most = np.quantile(part.values, [0, 0.5, 1])
        rows.append([part.name, f"{len(part.values):,}", *(f"{number:.4g}" for number in (least, median, most))])
    heads = ["series", "readings", *(f"{which}, {unit}" for which in ("least", "median", "most"))]
    return Plot(key=key, title=title, svg=svg, caption=caption, table=table(heads, rows))
