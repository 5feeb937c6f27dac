"""Result tables for the page, and results as CSV and LaTeX."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from voxshard.reporting import measures
from voxshard.reporting.comparability import View
from voxshard.reporting.report_data import MetricEstimate, System
from voxshard.store import delimited


@dataclass(frozen=True)
class TableCell:
    """One entry of a table."""

    text: str
    below: Sequence[str] = ()
    """Smaller text below the main text (intervals)."""
    best: bool = False
    tied: bool = False
    """Whether the paired test does not distinguish the value from the best one."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows with column heads; columns in `numeric` are right-aligned."""

    heads: Sequence[str]
    rows: Sequence[Sequence[TableCell]]
    numeric: frozenset[int] = frozenset()
    caption: str = ""


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str | TableCell]], *, text: int = 1, caption: str = ""
) -> Table:
    """Make a table whose first `text` columns are words and whose other columns are numbers."""
    cells = [[item if isinstance(item, TableCell) else TableCell(item) for item in row] for row in rows]
    return Table(heads=heads, rows=cells, numeric=frozenset(range(text, len(heads))), caption=caption)


def metric_cell(estimate: MetricEstimate, name: str) -> TableCell:
    """Return a cell with a metric and its interval below."""
    how = measures.measure(name)
    interval = how.range(estimate)
    return TableCell(how.number(estimate.value), (interval,) if interval else ())


def results(view: View, *, speakers: bool = True, tied: Collection[str] = ()) -> Table:
    """Return a table of systems and metrics on one split, best first, with the best value of each metric marked.

    The number of utterances has a column only where it differs between systems.

    Parameters
    ----------
    speakers : below the metric that ranks, also the interval over speakers where there is one.
    tied : systems that a paired test does not distinguish from the best, by the metric that ranks.
    """
    parts = [system.splits[view.split] for system in view.order]
    names = measures.overall({name for part in parts for name in part.metrics})
    names.sort(key=lambda name: name != view.headline)
    estimates = {name: [part.metrics.get(name, MetricEstimate(None)) for part in parts] for name in names}
    bests = {name: measures.best(name, [estimate.value for estimate in estimates[name]]) for name in names}
    alike = len({part.num_utterances for part in parts}) == 1
    rows = []
    for row, (system, part) in enumerate(zip(view.order, parts, strict=True)):
        cells = [TableCell(system.name)]
        if not alike:
            cells.append(TableCell("–" if part.num_utterances is None else f"{part.num_utterances:,}"))
        for name in names:
            estimate = estimates[name][row]
            cell = metric_cell(estimate, name)
            is_headline = name == view.headline
            if (
                speakers
                and is_headline
                and (over := metric_cell(part.by_speaker.get(name, MetricEstimate(None)), name).below)
            ):
                cell = replace(cell, below=(*cell.below, f"speakers {over[0]}"))
            is_best = len(parts) > 1 and estimate.value is not None and estimate.value == bests[name]
            is_tied = is_headline and not is_best and system.name in tied
            cells.append(replace(cell, best=is_best, tied=is_tied))
        rows.append(cells)
    heads = ["system", *([] if alike else ["utterances"]), *(measures.measure(name).head for name in names)]
    return Table(heads=heads, rows=rows, numeric=frozenset(range(1, len(heads))), caption=_legend(rows))


def _legend(rows: Sequence[Sequence[TableCell]]) -> str:
    cells = [cell for row in rows for cell in row]
    sentences = []
    if any(cell.tied for cell in cells):
        sentences.append("★ best; ≈ not distinguishable from the best by the paired test.")
    if any(len(cell.below) > 1 for cell in cells):
        sentences.append(
            "Below a value its 95 % confidence interval, from resampled utterances and from resampled speakers."
        )
    elif any(cell.below for cell in cells):
        sentences.append("Below a value its 95 % confidence interval.")
    return " ".join(sentences)


def results_csv(systems: Sequence[System]) -> str:
    """Return CSV with one row per system and split; each metric with `_low` and `_high`, full precision, rates in [0,
    1]."""
    names = measures.ordered({name for system in systems for part in system.splits.values() for name in part.metrics})
    stream = io.StringIO()
    writer = delimited.writer(stream)
    columns = [column for name in names for column in (name, f"{name}_low", f"{name}_high")]
    writer.writerow(["system", "features", "classifier", "seed", "split", "num_utterances", *columns])
    for system in systems:
        for split, part in system.splits.items():
            about = [system.name, system.features, system.classifier, system.seed, split, part.num_utterances]
            values = [
                value
                for name in names
                for estimate in [part.metrics.get(name, MetricEstimate(None))]
                for value in (estimate.value, estimate.low, estimate.high)
            ]
            writer.writerow(["" if value is None else value for value in [*about, *values]])
    return stream.getvalue()


def results_latex(views: Sequence[tuple[str, View]]) -> str:
    r"""Return one named booktabs `table` per view for a paper; the best values are bold, and intervals are in
    brackets."""
    parts = [r"% Needs \usepackage{booktabs}."]
    for name, view in views:
        shown = results(view, speakers=False)
        lines = [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{Results on {_latex(name)}, with 95\,\% confidence intervals.}}",
            rf"  \label{{tab:results-{''.join(letter for letter in name if letter.isalnum() or letter == '-')}}}",
            rf"  \begin{{tabular}}{{l{'r' * (len(shown.heads) - 1)}}}",
            r"    \toprule",
            "    " + " & ".join(_latex(head) for head in shown.heads) + r" \\",
            r"    \midrule",
        ]
        for row in shown.rows:
            lines.append("    " + " & ".join(_latex_value(cell) for cell in row) + r" \\")
            if any(cell.below for cell in row):
                lines.append("    " + " & ".join(_latex_interval(cell) for cell in row) + r" \\")
        lines += [r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _latex_value(cell: TableCell) -> str:
    text = _latex(cell.text)
    return rf"\textbf{{{text}}}" if cell.best else text


def _latex_interval(cell: TableCell) -> str:
    return rf"{{\scriptsize [{_latex(cell.below[0].replace('–', ', ').replace(' to ', ', '))}]}}" if cell.below else ""


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "–": "--", "−": "$-$",
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)
