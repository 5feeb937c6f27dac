"""Sections with the results: tables per split, over splits and seeds, and the paired comparison."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from voxshard.reporting import measures, plots, result_tables
from voxshard.reporting.comparability import LEVEL, Topic, View
from voxshard.reporting.page import Block, Folded, Heading, Plots, Section, Text, notes
from voxshard.reporting.report_data import Comparison, System
from voxshard.reporting.result_tables import Table, TableCell, metric_cell, table

MAX_SYSTEMS = 30
"""Rows of a table with one row per system that are shown at once."""


def results(topic: Topic) -> Section:
    """Return the sections on all results of the systems that predict one label."""
    blocks: list[Block] = []
    for place, split in enumerate(topic.splits):
        view = topic.view(split)
        blocks += [Heading(_on(view)), *_best_first(result_tables.results(view, tied=_tied(topic.comparisons, view)))]
        if place == 0 and view.headline and len(view.order) > 1:
            blocks.append(Plots([_intervals(view, key=f"intervals{topic.key}")]))
        if place == 0 and sum(name != "train" for name in topic.splits) > 1 and view.headline:
            blocks += [Heading("Across splits"), _across_splits(view.headline, view, topic)]
    if topic.splits:
        seeds = _over_seeds(topic.view(topic.splits[0]).order, topic.splits[0])
        blocks += [Heading("Mean over seeds"), seeds] if seeds else []
    blocks += _comparisons(topic.comparisons)
    blocks += _meanings(topic.systems)
    blocks += notes([f"{system.name}: {note}" for system in topic.systems for note in _remarks(system)])
    return Section(f"results{topic.key}", f"Results{topic.suffix}", blocks)


def _remarks(system: System) -> list[str]:
    return [*([system.not_scored] if system.not_scored else []), *system.notes]


def _best_first(whole: Table) -> list[Block]:
    """Return the table of results; for a large grid only of the best systems, with the others folded."""
    more = len(whole.rows) - MAX_SYSTEMS
    if more <= 0:
        return [whole]
    best, others = whole.rows[:MAX_SYSTEMS], whole.rows[MAX_SYSTEMS:]
    title = f"The other {more} systems" if more > 1 else "The other system"
    return [replace(whole, rows=best), Folded(title, replace(whole, rows=others, caption=""))]


def _on(view: View) -> str:
    counts = {system.splits[view.split].num_utterances for system in view.order}
    known = counts.pop() if len(counts) == 1 else None
    return f"On {view.split}" + (f" ({known:,} utterances)" if known else "")


def no_results() -> Section:
    """Return the section that is shown if nothing was trained."""
    return Section(
        "results", "Results", [Text("There are no results: nothing was trained on these features yet.", quiet=True)]
    )


def _intervals(view: View, *, key: str) -> plots.Plot:
    assert view.headline is not None
    how = measures.measure(view.headline)
    estimates = [(system.name, view.estimate(system)) for system in view.order]
    caption = f"{how.title.capitalize()} with 95 % confidence intervals, best first."
    title = f"{how.title.capitalize()} on {view.split}"
    return plots.intervals(estimates, metric=view.headline, key=key, title=title, caption=caption, what="system")


def _across_splits(headline: str, main: View, topic: Topic) -> Table:
    """Return a table of the ranking metric of the first split, on every split."""
    rows = []
    for system in [*main.order, *(system for system in topic.systems if system not in main.order)]:
        found = [
            system.splits[split].metrics.get(headline) if split in system.splits else None for split in topic.splits
        ]
        rows.append(
            [TableCell(system.name), *(metric_cell(item, headline) if item else TableCell("–") for item in found)]
        )
    head = measures.measure(headline).head
    return table(["system", *(f"{head} on {split}" for split in topic.splits)], rows)


def _meanings(systems: Sequence[System]) -> list[Block]:
    names = measures.overall({name for system in systems for part in system.splits.values() for name in part.metrics})
    known = [how for how in map(measures.measure, names) if how.meaning]
    rows = [[how.head, how.title, how.meaning] for how in known]
    return [Folded("What the metrics mean", table(["metric", "name", "meaning"], rows, text=3))] if rows else []


def _tied(comparisons: Sequence[Comparison], view: View) -> set[str]:
    """Return the systems that the paired test does not distinguish from the best one of a view."""
    here = [item for item in comparisons if item.split == view.split and item.metric == view.headline]
    best = view.order[0].name if view.order else ""
    return {item.second for item in here if item.first == best and item.p_value >= LEVEL}


def _over_seeds(systems: Sequence[System], split: str) -> Table | None:
    """Return a table of mean and standard deviation of the headline metrics of systems trained with several seeds."""
    families: dict[tuple[str, str, str], list[System]] = defaultdict(list)
    for system in systems:
        if split in system.splits and system.seed is not None:
            families[system.features, system.classifier, system.settings].append(system)
    several = {key: members for key, members in families.items() if len({member.seed for member in members}) > 1}
    if not several:
        return None
    kind = next(iter(several.values()))[0].kind
    names = [
        name
        for name in measures.HEADLINES[kind]
        if any(name in member.splits[split].metrics for members in several.values() for member in members)
    ]
    rows = []
    for (features, classifier, _), members in several.items():
        cells = [features, classifier, str(len(members))]
        for name in names:
            values = [
                member.splits[split].metrics[name].value for member in members if name in member.splits[split].metrics
            ]
            there = [value for value in values if value is not None]
            how = measures.measure(name)
            spread = float(np.std(there, ddof=1)) if len(there) > 1 else None
            cells.append(f"{how.number(float(np.mean(there)))} ± {how.number(spread)}" if there else "–")
        rows.append(cells)
    heads = ["features", "classifier", "seeds", *(f"{measures.measure(name).head} on {split}" for name in names)]
    return table(heads, rows, text=2, caption="Mean ± standard deviation over runs that differ in their seed alone.")


def _comparisons(comparisons: Sequence[Comparison]) -> list[Block]:
    if not comparisons:
        return []
    rows: list[list[str | TableCell]] = []
    for item in comparisons:
        how = measures.measure(item.metric)
        number = how.number(item.difference.value)
        signed = f"+{number}" if (item.difference.value or 0.0) > 0 else number
        p_value = f"{item.p_value:.3f}" if item.p_value >= 0.001 else "< 0.001"
        verdict = "yes" if item.p_value < LEVEL else "no"
        unit = "points" if how.percent else how.symbol
        difference = TableCell(signed, metric_cell(item.difference, item.metric).below)
        what = f"{how.symbol}, {unit}" if how.percent else unit
        numbers = (difference, p_value, f"{item.num_utterances:,}")
        rows.append([item.split, item.first, item.second, what, verdict, *numbers])
    heads = ["split", "first", "second", "metric", "distinguishable", "first − second", "p-value", "utterances"]
    text = (
        "Both systems are scored on the same resampled utterances, so what makes one hard for both does not count. "
        f"Distinguishable: the two-sided p-value is below {LEVEL:g}; it is not corrected for multiple comparisons. "
        "It comes from 1,000 resamples, fewer (at least 200) over 200,000 utterances."
    )
    return [Heading("Paired bootstrap comparison"), Text(text), table(heads, rows, text=5)]
