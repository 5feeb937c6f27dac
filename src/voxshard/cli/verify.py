"""`voxshard verify`: check every shard and merged file."""

from __future__ import annotations

from pathlib import Path

import click

from voxshard.cli.options import EXISTING, echo_info, stage_task
from voxshard.config import validated
from voxshard.errors import DataError
from voxshard.progress import counted
from voxshard.stages.verify import Verdict, VerifyConfig, run


@click.command()
@click.argument("features", type=EXISTING, metavar="DIR")
@click.option("--quarantine", is_flag=True, help="Rename bad files to NAME.corrupt, so that they are made again.")
def command(features: Path, quarantine: bool) -> None:
    """Read every byte of the feature set in DIR and check it against its SHA-256, its plan and its identity.

    Names every truncated, changed, foreign or missing shard and every utterance that appears twice, and ends with
    exit code 3 if there is one. `voxshard extract` and `voxshard merge` then make only the bad files again.
    """
    config = validated(VerifyConfig, {"features": features, "quarantine": quarantine}, where="verify")
    with stage_task() as task:
        verdict = run(config, task)
    print_summary(features, verdict)
    if verdict.problems:
        lines = "\n".join(f"  {problem.error}" for problem in verdict.problems)
        raise DataError(f"{features}: {counted(len(verdict.problems), 'problem')}\n{lines}")


def print_summary(folder: Path, verdict: Verdict) -> None:
    """Report what was checked."""
    parts = [f"{counted(verdict.num_shards, 'shard')} checked"]
    if verdict.num_pending:
        parts.append(f"{verdict.num_pending:,} pending")
    parts.append("merged files checked" if verdict.is_merged else "not merged yet")
    echo_info(f"{folder}: {', '.join(parts)}")
    if verdict.temporaries:
        echo_info(f"{counted(len(verdict.temporaries), 'temporary file')}, of running or interrupted writers:")
        for path in verdict.temporaries:
            echo_info(f"  {path}")
    else:
        echo_info("no temporary files left")
