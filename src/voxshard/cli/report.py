"""`voxshard report`: one HTML file with the results of runs or experiments."""

from __future__ import annotations

import click

from voxshard.cli.options import INPUT, OUTPUT, echo_info
from voxshard.config import validated
from voxshard.locations import AnyLocation
from voxshard.progress_display import progress_display
from voxshard.stages.base import Task
from voxshard.stages.report import ReportConfig, run


@click.command()
@click.argument("paths", nargs=-1, required=True, type=INPUT, metavar="RUN|EXP...")
@click.option(
    "--out", type=OUTPUT, required=True, help="The HTML file; results.csv and results.tex are written next to it."
)
@click.option("--title", help="Heading of the report; by default the name of the run or experiment.")
def command(paths: tuple[AnyLocation, ...], out: AnyLocation, title: str | None) -> None:
    """Write tables and plots of runs, experiments or feature sets into one HTML file.

    The file needs no network and no script: mail it, print it, keep it with the results. Next to it are the same
    results as results.csv and, for a paper, as results.tex.
    """
    config = validated(ReportConfig, {"paths": paths, "out": out, "title": title}, where="report")
    with progress_display() as progress:
        written = run(config, Task(progress=progress))
    echo_info(f"{written}: open it in a browser")
