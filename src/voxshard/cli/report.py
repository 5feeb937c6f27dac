"""`voxshard report`: one HTML file with the results of runs or experiments."""

from __future__ import annotations

from typing import Any

import click

from voxshard.cli.options import INPUT, OUTPUT, config_of, config_option, echo_info, stage_task
from voxshard.locations import AnyLocation, Url
from voxshard.stages.report import TABLES, ReportConfig, run


@click.command()
@click.argument("paths", nargs=-1, type=INPUT, metavar="RUN|EXP...")
@click.option("--out", type=OUTPUT, help="The HTML file; results.csv and results.tex are written next to it.")
@click.option("--title", help="Heading of the report; by default the name of the run or experiment.")
@config_option
def command(config_file: AnyLocation | None, **options: Any) -> None:
    """Write tables and plots of runs, experiments or feature sets into one HTML file.

    The file needs no network and no script: mail it, print it, keep it with the results. Next to it are the same
    results as results.csv and, for a paper, as results.tex.
    """
    config = config_of(ReportConfig, options, config_file, where="report")
    with stage_task() as task:
        written = run(config, task)
    also = [] if isinstance(written, Url) else [name for name in TABLES if written.with_name(name).exists()]
    echo_info(f"{written}: open it in a browser" + (f"; next to it: {', '.join(also)}" if also else ""))
