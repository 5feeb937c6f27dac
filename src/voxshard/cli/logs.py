"""`voxshard logs`: what the jobs of an experiment printed."""

from __future__ import annotations

from pathlib import Path

import click

from voxshard.cli.options import EXISTING, echo, echo_info
from voxshard.slurm.record import Record
from voxshard.slurm.submit import Cluster


@click.command()
@click.argument("path", type=EXISTING)
@click.option("--failed", is_flag=True, help="Only of tasks whose last run did not end well.")
@click.option("--step", "only", help="Only of this step, e.g. extract-mfcc.")
@click.option(
    "--lines", type=click.IntRange(1), default=20, show_default=True, help="How many lines of each, from its end."
)
def command(path: Path, failed: bool, only: str | None, lines: int) -> None:
    """Print the last lines of every task's log of the submitted experiment PATH, under the log's path.

    All runs of a task, requeued ones too, are in one file.
    """
    record = Record(path.absolute())
    record.submission()
    shown = 0
    for step in Cluster.of(path).steps.values():
        if only is not None and step.name != only:
            continue
        ended_badly = {
            task.job: task
            for task in record.tasks(step.name)
            if task.state in ("failed", "killed", "stopped", "running")
        }
        for log in sorted(record.logs(step.name).glob("*.out"), key=_by_number):
            if failed and log.stem not in ended_badly:
                continue
            echo(f"==> {log} <==")
            for line in log.read_text(errors="replace").splitlines()[-lines:]:
                echo(line)
            if log.stem in ended_badly and ended_badly[log.stem].message:
                echo(f"[{ended_badly[log.stem].state}: {ended_badly[log.stem].message}]")
            shown += 1
    if not shown:
        echo_info(f"{path}: no {'failed tasks' if failed else 'logs'}{f' of {only}' if only else ''}")


def _by_number(log: Path) -> list[int]:
    return [int(part) for part in log.stem.split("_") if part.isdigit()]
