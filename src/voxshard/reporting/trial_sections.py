"""Sections on single utterances: error curves, scores, confusions, groups, few examples, training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from voxshard.reporting import measures, plots
from voxshard.reporting.comparability import Topic, View
from voxshard.reporting.page import Block, Folded, Heading, Plots, Section, Text
from voxshard.reporting.report_data import Breakdown, ErrorCurve, MetricEstimate, System, TrainingCurve
from voxshard.reporting.result_tables import Table, TableCell, metric_cell, table

_MAX_HISTOGRAMS = 4
_MAX_CONFUSIONS = 2
_MAX_BREAKDOWN_SYSTEMS = 5


def of_view(view: View) -> list[Section]:
    """Return all sections on the systems of one split; those without content are omitted."""
    sections = (_detection(view), _confusions(view), _labels(view), _breakdowns(view))
    return [section for section in sections if section]


def _detection(view: View) -> Section | None:
    split = view.split
    with_curve = [system for system in view.order if system.splits[split].error_curve is not None]
    if not with_curve:
        return None
    shown = with_curve[: plots.MAX_LINES]
    curves: dict[str, tuple[ErrorCurve, MetricEstimate]] = {}
    for system in shown:
        curve = system.splits[split].error_curve
        assert curve is not None
        curves[system.name] = (curve, system.splits[split].metrics.get("eer", MetricEstimate(None)))
    blocks: list[Block] = []
    if len(with_curve) > len(shown):
        blocks.append(Text(f"The {len(shown)} best of {len(with_curve)} systems are drawn."))
    det = plots.det(curves, key=f"det{view.key}", where=split)
    blocks.append(Plots([det, plots.roc(curves, key=f"roc{view.key}", where=split)]))
    histograms = [
        plots.histogram(spread, key=f"scores{view.key}-{place}", system=system.name, where=split)
        for place, system in enumerate(shown[:_MAX_HISTOGRAMS])
        if (spread := system.splits[split].histogram) is not None
    ]
    if histograms:
        blocks.append(Plots(histograms))
    return Section(f"detection{view.key}", f"Detection errors and scores{view.suffix}", blocks)


def _confusions(view: View) -> Section | None:
    split = view.split
    shown = [system for system in view.order if system.splits[split].confusion is not None][:_MAX_CONFUSIONS]
    drawn, blocks = [], list[Block]()
    for place, system in enumerate(shown):
        matrix = system.splits[split].confusion
        assert matrix is not None
        plot = plots.confusion(matrix, key=f"confusion{view.key}-{place}", system=system.name, where=split)
        if plot:
            drawn.append(plot)
        if len(matrix.labels) > 2 and (frequent := plots.frequent_confusions(matrix)).rows:
            title = f"Most frequent confusions of {system.name}"
            if plot is None:
                right = f"{int(matrix.counts.trace()):,} of {int(matrix.counts.sum()):,} utterances are correct"
                blocks += [Heading(title), Text(f"{right}. {len(matrix.labels)} classes are too many for a matrix.")]
            blocks.append(frequent if plot is None else Folded(title, frequent))
    if drawn:
        blocks.insert(0, Plots(drawn))
    title = f"Which classes are mistaken for which{view.suffix}"
    return Section(f"confusion{view.key}", title, blocks) if blocks else None


def _labels(view: View) -> Section | None:
    """Return a table of the best system's metrics for each label or class."""
    split = view.split
    for system in view.order:
        metrics = system.splits[split].metrics
        kinds = list(dict.fromkeys(name.partition(".")[0] for name in metrics if "." in name))
        if not kinds:
            continue
        labels = list(dict.fromkeys(name.partition(".")[2] for name in metrics if "." in name))
        drawn = []
        for kind in kinds:
            name = f"{kind}.{{}}"
            estimates = [(label, metrics.get(name.format(label), MetricEstimate(None))) for label in labels]
            if all(estimate.value is None for _, estimate in estimates):
                continue
            how = measures.measure(kind)
            title = f"{how.title[:1].upper()}{how.title[1:]} of {system.name}, label by label, on {split}"
            caption = "One label against all others, with 95 % confidence intervals."
            key = f"label{view.key}-{kind}"
            drawn.append(plots.intervals(estimates, metric=kind, key=key, title=title, caption=caption, what="label"))
        return Section(f"labels{view.key}", f"Results by label{view.suffix}", [Plots(drawn)]) if drawn else None
    return None


def _breakdowns(view: View) -> Section | None:
    split, order = view.split, view.order
    columns = list(dict.fromkeys(part.column for system in order for part in system.splits[split].breakdowns))
    blocks: list[Block] = []
    for place, column in enumerate(columns):
        having: dict[str, Breakdown] = {}
        for system in order:
            for part in system.splits[split].breakdowns:
                if part.column == column and part.groups:
                    having[system.name] = part
        if not having:
            continue
        blocks.append(Heading(f"By {column}"))
        some = dict(list(having.items())[:_MAX_BREAKDOWN_SYSTEMS])
        if len(having) > len(some):
            blocks.append(Text(f"The {len(some)} best of {len(having)} systems are shown."))
        name, best = next(iter(some.items()))
        metric = _metric_of(best, view.headline)
        if metric is None:
            blocks.append(Text(f"No group of {column} has enough utterances of every class for a metric.", quiet=True))
        else:
            estimates = [
                (f"{group.name} ({group.num_utterances:,})", group.metrics.get(metric, MetricEstimate(None)))
                for group in best.groups
            ]
            title = f"{measures.measure(metric).title.capitalize()} of {name} by {column}"
            with_bars = any(estimate.low is not None for _, estimate in estimates)
            caption = "Bars are 95 % confidence intervals. " if with_bars else ""
            caption += "Numbers in brackets are utterances."
            missing = sum(estimate.value is None for _, estimate in estimates)
            caption += f" {missing} groups lack a class and have no value." if missing else ""
            key = f"groups{view.key}-{place}"
            drawn = [plots.intervals(estimates, metric=metric, key=key, title=title, caption=caption, what=column)]
            if len(some) > 1:
                drawn.append(plots.heat_map(column, some, metric=metric, key=f"heat{view.key}-{place}", where=split))
            blocks.append(Plots(drawn))
        blocks.append(Folded(f"All metrics of {name} by {column}", _group_table(best)))
    return Section(f"groupings{view.key}", f"Results by group{view.suffix}", blocks) if blocks else None


def _metric_of(part: Breakdown, headline: str | None) -> str | None:
    there = {name for group in part.groups for name, estimate in group.metrics.items() if estimate.value is not None}
    return headline if headline in there else next(iter(measures.ordered(there)), None)


def _group_table(part: Breakdown) -> Table:
    names = measures.overall({name for group in part.groups for name in group.metrics})
    rows = []
    for group in part.groups:
        cells = [TableCell(group.name), TableCell(f"{group.num_utterances:,}")]
        for name in names:
            cells.append(metric_cell(group.metrics.get(name, MetricEstimate(None)), name))
        rows.append(cells)
    return table([part.column, "utterances", *(measures.measure(name).head for name in names)], rows)


def few_shot(topic: Topic) -> Section | None:
    """Return the section on results against the number of training examples, on the deciding split."""
    split = topic.splits[0] if topic.splits else ""
    points = [(system, part) for system in topic.systems for part in system.few_shot if part.split == split]
    if not points:
        return None
    there = {name for _, part in points for name, values in part.metrics.items() if values}
    headline = next((name for name in measures.HEADLINES[points[0][0].kind] if name in there), None)
    if headline is None:
        return None
    curves: dict[str, list[tuple[int, Sequence[float]]]] = defaultdict(list)
    for system, part in sorted(points, key=lambda item: (item[0].name, item[1].num_shots)):
        if part.metrics.get(headline):
            curves[system.name].append((part.num_shots, part.metrics[headline]))
    shown = dict(list(curves.items())[: plots.MAX_LINES])
    blocks: list[Block] = []
    if len(curves) > len(shown):
        blocks.append(Text(f"The first {len(shown)} of {len(curves)} systems are drawn."))
    blocks.append(Plots([plots.few_shot(shown, metric=headline, key=f"shots{topic.key}", where=split)]))
    return Section(f"few-shot{topic.key}", f"Few training examples{topic.suffix}", blocks)


def training(systems: Sequence[System]) -> Section | None:
    """Return the section on loss, learning rates and metrics over the epochs."""
    drawn = []
    for place, system in enumerate(system for system in systems if system.training):
        axes: dict[str, list[TrainingCurve]] = {"loss": [], "rate": [], "metric": []}
        for curve in system.training:
            axes["loss" if "loss" in curve.name else "rate" if "learning_rate" in curve.name else "metric"].append(
                curve
            )
        drawn += [
            plots.training(curves, key=f"training-{place}-{what}", system=system.name)
            for what, curves in axes.items()
            if curves
        ]
    return Section("training", "Training", [Plots(drawn)]) if drawn else None
