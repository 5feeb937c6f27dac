"""`voxshard retry`: compute what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from voxshard.cli.extract import print_summary
from voxshard.cli.options import EXISTING, echo_info, set_option, stage_task
from voxshard.config import parse_assignments
from voxshard.diagnostics.status import feature_dirs
from voxshard.files import quoted
from voxshard.progress import counted
from voxshard.progress_display import progress_display
from voxshard.slurm import submit
from voxshard.slurm.record import Record
from voxshard.stages import repair


@click.command()
@click.argument("path", type=EXISTING)
@click.option("--failed", is_flag=True, help="Also process the failed recordings again.")
@set_option
def command(path: Path, failed: bool, assignments: tuple[str, ...]) -> None:
    """Compute the missing shards of PATH: a feature set, or an experiment with several.

    Options of the extraction can be changed with --set, e.g. --set workers=4 --set device=cpu.

    For a submitted experiment, resubmits the missing tasks of every step and all dependent steps; with --failed also a
    job that processes the failed recordings again. --set changes keys of its config or its site, e.g. --set
    jobs.extract.mem_gb=64 --set jobs.train.minutes=120 --set site.account=NAME.
    """
    overrides = parse_assignments(assignments)
    if Record(path).exists:
        _submit(path, overrides, failed=failed)
        return
    with stage_task() as task:
        for folder in feature_dirs(path):
            config = repair.last_config(folder, overrides)
            for result in repair.missing(config, task):
                print_summary(result)
            if failed:
                repaired = repair.failed(config, task)
                echo_info(
                    f"{folder.path}: {counted(repaired.num_tried, 'recording')} had failed, "
                    f"{repaired.num_ok:,} embedded now"
                )
                if repaired.num_ok:
                    echo_info(f"the merged set is stale; next: voxshard merge {quoted(folder.path)}")


def _submit(path: Path, overrides: dict[str, Any], *, failed: bool) -> None:
    site = overrides.pop("site", {})
    with progress_display() as progress:
        jobs = submit.resubmit(path, overrides, site, progress, why="voxshard retry", failed=failed)
    nothing = f"{path}: nothing is missing{', nothing has failed' if failed else ''}"
    echo_info(f"submitted; next: voxshard status {quoted(path)}" if jobs else nothing)
