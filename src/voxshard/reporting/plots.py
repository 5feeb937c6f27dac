"""Plots of results: error curves, score histograms, confusion, intervals, breakdowns, few-shot and training curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from voxshard.reporting import measures
from voxshard.reporting.report_data import (
    Breakdown,
    Confusion,
    ErrorCurve,
    Group,
    MetricEstimate,
    ScoreHistogram,
    TrainingCurve,
)
from voxshard.reporting.result_tables import Table, TableCell, metric_cell, table
from voxshard.reporting.vector import GREY, LINES, MARKERS, PALETTE, distinct, legend_name, svg_figure, to_svg

_MOST_MARKERS = 40
"""Maximum number of markers on a line; more would hide it."""
MAX_LINES = len(PALETTE)
"""Curves that can be distinguished in one plot."""
MAX_MATRIX = 60
"""Classes of a confusion matrix that is drawn; of more, only the table of the most frequent confusions is shown."""
MAX_ROWS = 60
"""Groups or systems of an interval plot or heat map."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot with its caption and a table of its numbers."""

    key: str
    title: str
    svg: str
    caption: str
    table: Table
    wide: bool = False
    """Whether the plot needs the full width of the page."""


def style(index: int) -> dict[str, Any]:
    """Return colour and line style of curve `index`; each pair occurs once among the first `MAX_LINES`."""
    return {"color": PALETTE[index % len(PALETTE)], "linestyle": LINES[index % len(LINES)]}


def legend_below(figure: Figure, *, handle_length: float = 2.8) -> None:
    """Put the legend of the figure's first axes below them and enlarge the figure, so that it covers no data.
    Names are shortened as far as they stay distinct."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    labels = distinct(labels)
    width, height = figure.get_size_inches()
    entry_inches = 0.13 * handle_length + 0.35 + 0.075 * max(map(len, labels))
    columns = max(1, min(len(labels), int(width / entry_inches)))
    figure.set_size_inches(width, height + 0.21 * -(-len(labels) // columns) + 0.05)
    figure.legend(handles, labels, loc="outside lower left", ncols=columns, handlelength=handle_length)


_DET_TICKS = (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99)
_OPERATING_POINTS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def probit(rate: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return standard normal quantiles of rates, the scale of DET plots; 0 and 1 are moved slightly off the shown
    range.

    References
    ----------
    Martin et al., The DET curve in assessment of detection task performance, Eurospeech 1997.
    """
    normal = NormalDist()
    clipped = np.clip(np.asarray(rate, np.float64), 1e-6, 1 - 1e-6)
    return np.array([normal.inv_cdf(float(value)) for value in clipped.ravel()]).reshape(clipped.shape)


def det(curves: Mapping[str, tuple[ErrorCurve, MetricEstimate]], *, key: str, where: str) -> Plot:
    """Plot miss rate against false alarm rate on probit axes; `curves` maps systems to curve and equal error rate."""
    eers = [estimate.value for _, estimate in curves.values() if estimate.value is not None]
    low, high = _det_range(list(curves.values()), eers)
    with svg_figure(4.8, 4.1) as figure:
        axes = figure.add_subplot()
        for index, (name, (curve, estimate)) in enumerate(curves.items()):
            x, y = probit(curve.false_alarm_rate), probit(curve.miss_rate)
            axes.plot(x, y, label=legend_name(name), **style(index), clip_on=True)
            if estimate.value is not None and low < estimate.value < high:
                point = probit([estimate.value])
                axes.plot(
                    point, point, MARKERS[index], color=PALETTE[index], markersize=6, markeredgecolor="white", zorder=5
                )
        limits = probit([low, high])
        axes.plot(limits, limits, color=GREY, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
        ticks = [tick for tick in _DET_TICKS if low <= tick <= high]
        labels = [f"{100 * tick:g}" for tick in ticks]
        axes.set_xticks(probit(ticks), labels)
        axes.set_yticks(probit(ticks), labels)
        axes.set_xlim(*limits)
        axes.set_ylim(*limits)
        axes.set_aspect("equal")
        axes.set_xlabel("false alarm rate, %")
        axes.set_ylabel("miss rate, %")
        legend_below(figure)
        title = f"Detection error trade-off on {where}"
        caption = "Lower left is better; markers stand where both error rates are equal. Probit axes."
        svg = to_svg(figure, key=key, title=title, description=f"{caption} {_spoken(curves)}")
    rates = _rates_table("miss rate, %, at false alarms of", curves, lambda miss: 100 * miss)
    return Plot(key=key, title=title, svg=svg, caption=caption, table=rates)


def _rates_table(
    head: str, curves: Mapping[str, tuple[ErrorCurve, MetricEstimate]], value: Callable[[float], float]
) -> Table:
    """Return a table with one row per curve: a value of the miss rate at each of the usual false alarm rates."""
    rows = [
        [
            TableCell(name),
            *(
                TableCell(f"{value(_at(curve.false_alarm_rate, curve.miss_rate, rate)):.2f}")
                for rate in _OPERATING_POINTS
            ),
        ]
        for name, (curve, _) in curves.items()
    ]
    return table([head, *(f"{100 * rate:g} %" for rate in _OPERATING_POINTS)], rows)


def _det_range(curves: Sequence[tuple[ErrorCurve, MetricEstimate]], eers: Sequence[float]) -> tuple[float, float]:
    rates = np.concatenate([np.concatenate([curve.false_alarm_rate, curve.miss_rate]) for curve, _ in curves])
    smallest = float(rates[rates > 0].min(initial=0.01))
    low = max(tick for tick in (0.0001, 0.001, 0.005, 0.01) if tick <= max(smallest, 0.0001))
    low = min([low, *(0.5 * eer for eer in eers if eer > 0.0002)])
    high = 0.6 if max(eers, default=0.0) < 0.4 else 0.99 if max(eers) > 0.8 else 0.9
    return low, high


def _at(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], wanted: float) -> float:
    """Return the smallest y among points whose x is at most `wanted`."""
    return float(y[x <= wanted].min(initial=1.0))


def _spoken(curves: Mapping[str, tuple[ErrorCurve, MetricEstimate]]) -> str:
    eer = measures.measure("eer")
    parts = [
        f"{name} {eer.number(estimate.value)} %" for name, (_, estimate) in curves.items() if estimate.value is not None
    ]
    return f"Equal error rates: {', '.join(parts)}." if parts else ""


def roc(curves: Mapping[str, tuple[ErrorCurve, MetricEstimate]], *, key: str, where: str) -> Plot:
    """Plot the true against the false positive rate."""
    with svg_figure(4.8, 4.1) as figure:
        axes = figure.add_subplot()
        for index, (name, (curve, _)) in enumerate(curves.items()):
            axes.plot(
                100 * curve.false_alarm_rate, 100 * (1 - curve.miss_rate), label=legend_name(name), **style(index)
            )
        axes.plot([0, 100], [0, 100], color=GREY, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
        axes.set_xlim(-1, 101)
        axes.set_ylim(-1, 101)
        axes.set_aspect("equal")
        axes.set_xlabel("false alarm rate, %")
        axes.set_ylabel("targets accepted, %")
        legend_below(figure)
        title = f"Receiver operating characteristic on {where}"
        caption = "Upper left is better; the dotted diagonal is chance."
        svg = to_svg(figure, key=key, title=title, description=f"{caption} {_spoken(curves)}")
    rates = _rates_table("targets accepted, %, at false alarms of", curves, lambda miss: 100 - 100 * miss)
    return Plot(key=key, title=title, svg=svg, caption=caption, table=rates)


def histogram(spread: ScoreHistogram, *, key: str, system: str, where: str) -> Plot:
    """Plot the fraction of each class's utterances per bin of the score."""
    totals = {name: max(int(counts.sum()), 1) for name, counts in spread.counts.items()}
    with svg_figure(4.8, 3.4) as figure:
        axes = figure.add_subplot()
        for index, (name, counts) in enumerate(spread.counts.items()):
            share = 100 * counts / totals[name]
            drawn = style(index)
            axes.stairs(share, spread.edges, label=legend_name(f"{name} ({totals[name]:,})"), linewidth=1.7, **drawn)
            axes.stairs(share, spread.edges, fill=True, color=drawn["color"], alpha=0.18)
        if spread.threshold is not None:
            axes.axvline(
                spread.threshold, color=GREY, linewidth=1.1, linestyle=(0, (2, 2)), label="threshold at the EER"
            )
        axes.set_xlabel("score")
        axes.set_ylabel("share of the class's utterances, %")
        axes.set_ylim(bottom=0)
        legend_below(figure)
        title = f"Scores of {system} on {where}"
        caption = "The less the classes overlap, the better they can be distinguished."
        svg = to_svg(figure, key=key, title=title, description=caption)
    rows = [
        [f"{low:.4g} to {high:.4g}", *(f"{int(counts[place]):,}" for counts in spread.counts.values())]
        for place, (low, high) in enumerate(zip(spread.edges[:-1], spread.edges[1:], strict=True))
        if any(counts[place] for counts in spread.counts.values())
    ]
    return Plot(key=key, title=title, svg=svg, caption=caption, table=table(["score", *spread.counts], rows))


def confusion(matrix: Confusion, *, key: str, system: str, where: str) -> Plot | None:
    """Plot true classes (rows) against predicted ones (columns), shaded by the fraction of the row; None for more than
    `MAX_MATRIX` classes."""
    count = len(matrix.labels)
    if count > MAX_MATRIX:
        return None
    share = _row_shares(matrix)
    written = None
    if count <= 12:
        written = [[f"{number:,}" if number or count <= 4 else "" for number in row] for row in matrix.counts.tolist()]
    side = max(4.8, 0.14 * count)
    with svg_figure(side, side + 0.2 if count > 12 else 1.4 + 0.3 * count) as figure:
        axes = figure.add_subplot()
        _shaded(axes, share, 0.0, 1.0, written)
        _label_cells(axes, matrix.labels, matrix.labels)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        title = f"Confusion of {system} on {where}"
        right = int(np.trace(matrix.counts))
        caption = (
            f"{right:,} of {int(matrix.counts.sum()):,} utterances are on the diagonal. "
            "The shade is the share of the true class, white for none, dark for all."
        )
        svg = to_svg(
            figure, key=key, title=title, description=f"Rows are true classes, columns predicted ones. {caption}"
        )
    rows = [
        [name, *(f"{number:,}" for number in row)]
        for name, row in zip(matrix.labels, matrix.counts.tolist(), strict=True)
    ]
    return Plot(
        key=key,
        title=title,
        svg=svg,
        caption=caption,
        table=table(["true \\ predicted", *matrix.labels], rows),
        wide=count > 25,
    )


def _shaded(
    axes: Axes, values: npt.NDArray[np.float64], low: float, high: float, written: Sequence[Sequence[str]] | None
) -> None:
    """Draw cells from white (low) to dark blue (high) with their texts; nan stays empty."""
    axes.pcolormesh(np.ma.masked_invalid(values), cmap="Blues", vmin=low, vmax=high, edgecolors="white", linewidth=0.6)
    for row, texts in enumerate(written or []):
        for column, text in enumerate(texts):
            dark = values[row, column] > low + 0.55 * (high - low)
            color = "white" if dark else "#1f2933"
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8.5, color=color)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=8.5)


def _label_cells(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Label rows and columns; column names are slanted or upright if they are long or many."""
    names = distinct(columns, 18)
    if len(names) > 25:
        axes.set_xticks(np.arange(len(names)) + 0.5, names, rotation=90)
        axes.tick_params(labelsize=7)
    elif sum(map(len, names)) + 2 * len(names) <= 45:
        axes.set_xticks(np.arange(len(names)) + 0.5, names)
    else:
        axes.set_xticks(np.arange(len(names)) + 0.5, names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(np.arange(len(rows)) + 0.5, distinct(rows, 18))


def frequent_confusions(matrix: Confusion, limit: int = 20) -> Table:
    """Return a table of the pairs of classes that are most often confused."""
    wrong = matrix.counts.copy()
    np.fill_diagonal(wrong, 0)
    share = _row_shares(matrix)
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    places = [np.unravel_index(flat, wrong.shape) for flat in order]
    rows = [
        [matrix.labels[row], matrix.labels[column], f"{int(wrong[row, column]):,}", f"{100 * share[row, column]:.1f}"]
        for row, column in places
        if wrong[row, column]
    ]
    return table(["true class", "taken for", "utterances", "share of the class, %"], rows, text=2)


def _row_shares(matrix: Confusion) -> npt.NDArray[np.float64]:
    totals = matrix.counts.sum(axis=1, keepdims=True)
    shares: npt.NDArray[np.float64] = np.divide(
        matrix.counts, totals, out=np.zeros(matrix.counts.shape), where=totals > 0
    )
    return shares


def intervals(
    estimates: Sequence[tuple[str, MetricEstimate]], *, metric: str, key: str, title: str, caption: str, what: str
) -> Plot:
    """Plot one row per name: a dot for the value, and a bar for its confidence interval."""
    how = measures.measure(metric)
    scale = 100.0 if how.percent else 1.0
    measured = [(name, estimate) for name, estimate in estimates if estimate.value is not None]
    shown = measured[:MAX_ROWS]
    caption += _first_of(len(shown), len(measured))
    with svg_figure(4.8, 0.9 + (0.25 if len(shown) <= 30 else 0.19) * len(shown)) as figure:
        axes = figure.add_subplot()
        for row, (_, estimate) in enumerate(shown):
            value = scale * (estimate.value or 0.0)
            if estimate.low is not None and estimate.high is not None:
                axes.plot(
                    [scale * estimate.low, scale * estimate.high],
                    [row, row],
                    color=PALETTE[0],
                    linewidth=2.2,
                    alpha=0.45,
                )
            axes.plot([value], [row], "o", color=PALETTE[0])
        axes.set_yticks(range(len(shown)), distinct([name for name, _ in shown], 26))
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(how.head + (f" ({how.better} is better)" if how.better else ""))
        svg = to_svg(figure, key=key, title=title, description=caption)
    rows = [[name, how.number(estimate.value), how.interval(estimate) or "–"] for name, estimate in estimates]
    return Plot(key=key, title=title, svg=svg, caption=caption, table=table([what, how.head, "95 % interval"], rows))


def _first_of(shown: int, total: int) -> str:
    return f" The first {shown} of {total}; the numbers below have them all." if shown < total else ""


def heat_map(column: str, systems: Mapping[str, Breakdown], *, metric: str, key: str, where: str) -> Plot:
    """Plot the metric of each system (columns) on each value of a manifest column (rows), as shaded cells with
    numbers."""
    how = measures.measure(metric)
    found = {(system, group.name): group for system, part in systems.items() for group in part.groups}
    names = list(dict.fromkeys(name for _, name in found))
    missing = Group(name="", num_utterances=0, metrics={})
    grid = [
        [found.get((system, name), missing).metrics.get(metric, MetricEstimate(None)) for system in systems]
        for name in names
    ]
    shown = grid[:MAX_ROWS]
    values = np.array([[np.nan if cell.value is None else cell.value for cell in row] for row in shown])
    high = float(np.nanmax(values, initial=0.0)) or 1.0
    low = 0.0 if how.better == "lower" else float(np.nanmin(values, initial=high))
    written = [[how.number(cell.value) for cell in row] for row in shown]
    with svg_figure(4.8, 1.2 + 0.26 * len(shown)) as figure:
        axes = figure.add_subplot()
        _shaded(axes, values, low, high if high > low else low + 1.0, written)
        _label_cells(axes, names[:MAX_ROWS], list(systems))
        axes.set_xlabel("system")
        axes.set_ylabel(column)
        title = f"{how.title.capitalize()} by {column} on {where}"
        which = f"{how.better} is better; " if how.better else ""
        caption = f"{how.head} for each {column} and system; {which}darker is higher."
        caption += _first_of(len(shown), len(grid))
        svg = to_svg(figure, key=key, title=title, description=caption)
    rows = []
    for name, row in zip(names, grid, strict=True):
        count = max(found[system, name].num_utterances for system in systems if (system, name) in found)
        rows.append([TableCell(name), TableCell(f"{count:,}"), *(metric_cell(cell, metric) for cell in row)])
    heads = [column, "utterances", *(f"{system}: {how.head}" for system in systems)]
    return Plot(key=key, title=title, svg=svg, caption=caption, table=table(heads, rows))


def few_shot(curves: Mapping[str, Sequence[tuple[int, Sequence[float]]]], *, metric: str, key: str, where: str) -> Plot:
    """Plot mean and standard deviation over runs against the number of examples per class."""
    how = measures.measure(metric)
    scale = 100.0 if how.percent else 1.0
    every = sorted({count for points in curves.values() for count, _ in points})
    with svg_figure(4.8, 3.6) as figure:
        axes = figure.add_subplot()
        for index, (name, points) in enumerate(curves.items()):
            x = [count for count, _ in points]
            mean = [scale * float(np.mean(values)) for _, values in points]
            spread = [scale * _deviation(values) for _, values in points]
            axes.errorbar(
                x,
                mean,
                yerr=spread,
                marker=MARKERS[index],
                capsize=3,
                elinewidth=1,
                label=legend_name(name),
                **style(index),
            )
        axes.set_xscale("log")
        axes.set_xticks(every, [str(count) for count in every])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("training examples per class")
        axes.set_ylabel(how.head)
        legend_below(figure)
        title = f"Few examples per class, on {where}"
        caption = "Mean over runs with different examples; bars are one standard deviation."
        svg = to_svg(figure, key=key, title=title, description=caption)
    rows = [
        [
            name,
            str(count),
            str(len(values)),
            how.number(float(np.mean(values))),
            how.number(_deviation(values) if len(values) > 1 else None),
        ]
        for name, points in curves.items()
        for count, values in points
    ]
    heads = ["system", "examples per class", "runs", f"mean {how.head}", "standard deviation"]
    return Plot(key=key, title=title, svg=svg, caption=caption, table=table(heads, rows))


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def training(curves: Sequence[TrainingCurve], *, key: str, system: str) -> Plot:
    """Plot quantities with a common axis (losses, learning rates or metrics) over epochs."""
    with svg_figure(4.8, 3.4) as figure:
        axes = figure.add_subplot()
        for index, curve in enumerate(curves[:MAX_LINES]):
            marker = MARKERS[index] if len(curve.epochs) <= _MOST_MARKERS else None
            axes.plot(
                curve.epochs, curve.values, label=legend_name(curve.name), marker=marker, markersize=3, **style(index)
            )
        axes.set_xlabel("epoch")
        axes.set_ylabel(curves[0].name.replace("_", " ") if len(curves) == 1 else "value")
        legend_below(figure)
        title = f"Training of {system}"
        caption = f"{', '.join(curve.name for curve in curves)} in the course of the training."
        svg = to_svg(figure, key=key, title=title, description=caption)
    every = sorted({float(epoch) for curve in curves for epoch in curve.epochs})
    values = [dict(zip(curve.epochs.tolist(), curve.values.tolist(), strict=True)) for curve in curves]
    rows = [[f"{epoch:g}", *(f"{part[epoch]:.5g}" if epoch in part else "–" for part in values)] for epoch in every]
    return Plot(
        key=key, title=title, svg=svg, caption=caption, table=table(["epoch", *(c.name for c in curves)], rows, text=0)
    )
