"""`voxshard logs`: print the logs of an experiment's jobs."""

from __future__ import annotations

from pathlib import Path

import click

from voxshard.cli.options import EXISTING, echo_info
from voxshard.errors import SchedulerError
from voxshard.files import quoted
from voxshard.slurm.early_failures import early_failures
from voxshard.slurm.queue import QueuedTask
from voxshard.slurm.record import Record
from voxshard.slurm.submit import Cluster


@click.command()
@click.argument("path", type=EXISTING)
@click.option("--failed", is_flag=True, help="Only logs of tasks whose last run failed.")
@click.option("--step", "only", help="Only logs of this step, e.g. extract-mfcc.")
@click.option(
    "--lines", type=click.IntRange(1), default=20, show_default=True, help="Number of lines of each log, from its end."
)
def command(path: Path, failed: bool, only: str | None, lines: int) -> None:
    """Print the last lines of every task's log of the submitted experiment PATH, below the path of the log.

    All runs of a task, requeued ones too, are in one file.
    """
    record = Record(path.absolute())
    record.submission()
    cluster = Cluster.of(path)
    items = _jobs(cluster) if failed else []
    live = {item.id for item in items if item.is_live}
    shown, blocked = 0, []
    for step in cluster.steps.values():
        if only is not None and step.name != only:
            continue
        wanted = set(step.missing() if failed else range(step.num_tasks))
        tasks = [task for task in record.tasks(step.name) if task.task in wanted and task.job not in live]
        blocked += [step.name for task in tasks[:1] if task.blocked_by]
        bad = {task.job: f"{task.state}: {task.message}" if task.message else None for task in tasks
               if task.state in ("failed", "killed", "stopped", "running") and not task.blocked_by}  # fmt: skip
        early = [item for item in early_failures(record, step.name, items) if item.task in wanted] if failed else []
        bad |= {item.job: f"failed: {item.message}" for item in early}
        logs = sorted(record.logs(step.name).glob("*.out"), key=_by_number)
        for log in logs:
            if failed and log.stem not in bad:
                continue
            click.echo(f"==> {log} <==")
            for line in log.read_text(errors="replace").splitlines()[-lines:]:
                click.echo(line)
            if message := bad.get(log.stem):
                click.echo(f"[{message}]")
        without_log = [item for item in early if not item.log.exists()]
        for item in without_log:
            click.echo(f"==> {item.log} <==\n[failed: {item.message}]")
        shown += len(without_log) + sum(not failed or log.stem in bad for log in logs)
    if failed and blocked:
        path_text = quoted(path)
        echo_info(f"did not run because of that: {', '.join(blocked)}; fix it, then voxshard retry {path_text}")
    elif not shown:
        echo_info(f"{path}: no {'failed tasks' if failed else 'logs'}{f' of {only}' if only else ''}")


def _jobs(cluster: Cluster) -> list[QueuedTask]:
    """Return the jobs in the queue; none if it does not answer: logs without a record are then shown."""
    try:
        return cluster.jobs()
    except SchedulerError:
        return []


def _by_number(log: Path) -> list[int]:
    return [int(part) for part in log.stem.split("_") if part.isdigit()]
