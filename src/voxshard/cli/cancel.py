"""`voxshard cancel`: cancel the jobs of an experiment."""

from __future__ import annotations

from pathlib import Path

import click

from voxshard.cli.options import EXISTING, echo_info
from voxshard.files import quoted
from voxshard.slurm import submit


@click.command()
@click.argument("path", type=EXISTING)
def command(path: Path) -> None:
    """Cancel every queued and running job of the experiment PATH, and no other job.

    Jobs are identified by a token in `--comment`; SLURM reuses job ids. Finished work is
    kept; `voxshard retry PATH` continues.
    """
    live = submit.cancel(path)
    if not live:
        echo_info(f"{path}: nothing of it is in the queue")
        return
    running = sum(item.state == "RUNNING" for item in live)
    echo_info(f"{path}: {running} running and {len(live) - running} queued tasks are cancelled; "
        f"to continue: voxshard retry {quoted(path)}")  # fmt: skip
