"""`voxshard evaluate`: score a trained run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from voxshard.cli.options import INPUT, OUTPUT, config_of, config_option, echo, echo_info, next_step, stage_task
from voxshard.files import quoted
from voxshard.learning.train_config import EvaluateConfig
from voxshard.locations import AnyLocation
from voxshard.stages.evaluate import run

if TYPE_CHECKING:
    import pyarrow as pa


@click.command()
@click.argument("run", type=INPUT, metavar="RUN", required=False)
@click.option("--on", type=INPUT, multiple=True, metavar="DIR|MANIFEST",
              help="Other features of the same encoder, or a manifest with other labels or splits.")  # fmt: skip
@click.option("--out", type=OUTPUT, help="Run directory to write; by default the results go into RUN itself.")
@click.option("--split", help="Only this split.")
@click.option("--group-by", multiple=True, metavar="COL", help="Metrics per value of a column; a,b for combinations.")
@config_option
def command(config_file: AnyLocation | None, **options: Any) -> None:
    """Score RUN again: on its own splits, with labels added later, or on other features.

    Scores, metrics with 95 % intervals and tables go into RUN. Features made with another encoder, other settings or
    other weights than those RUN was trained on are refused.
    """
    config = config_of(EvaluateConfig, options, config_file, where="evaluate")
    with stage_task() as task:
        found = run(config, task)
    for line in results_table(found.metrics, found.kind):
        echo(line)
    for name, table in found.tables.items():
        if name.startswith("by-"):
            echo(f"\n{name}")
            for line in _breakdown(table):
                echo(line)
    written = config.out or config.run
    following = next_step(f"voxshard report {quoted(written)} --out report.html")
    echo_info(f"{written}: scores and metrics are up to date{following}")


def results_table(metrics: Mapping[str, Mapping[str, Any]], kind: str) -> list[str]:
    """Format a table: a row per metric, a column per split, values with intervals.

    Of several labels each has its AUC; of classes the AUC of each is left out.
    """
    names = [
        name
        for name in dict.fromkeys(name for found in metrics.values() for name in found)
        if "." not in name or (kind == "multilabel" and name.startswith("auc."))
    ]
    if not names:
        return []
    rows = [["", *metrics]]
    rows += [[name, *(_estimate(found.get(name)) for found in metrics.values())] for name in names]
    return _aligned(rows)


def _estimate(estimate: Mapping[str, float | None] | None) -> str:
    if estimate is None or estimate["value"] is None:
        return "-"
    value = f"{estimate['value']:.4f}"
    return value if estimate["low"] is None else f"{value} [{estimate['low']:.4f}, {estimate['high']:.4f}]"


def _breakdown(table: pa.Table) -> list[str]:
    """Return the values of a breakdown table, without the ends of the intervals, which are in its CSV file."""
    names = [name for name in table.column_names if not name.endswith(("_low", "_high")) and "." not in name]
    rows = [names]
    for row in table.select(names).to_pylist():
        rows.append(
            [
                f"{value:.4f}" if isinstance(value, float) else "-" if value is None else str(value)
                for value in row.values()
            ]
        )
    return _aligned(rows)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
