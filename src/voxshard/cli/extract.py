"""`voxshard extract`: embed every utterance of a manifest."""

from __future__ import annotations

from typing import Any

import click

from voxshard.cli.options import (
    INPUT,
    OUTPUT,
    PATH,
    NameType,
    config_of,
    config_option,
    echo_info,
    is_step,
    next_step,
    set_option,
    stage_task,
)
from voxshard.config import parse_assignments
from voxshard.encoders import registry
from voxshard.errors import ConfigError
from voxshard.files import quoted
from voxshard.locations import AnyLocation
from voxshard.progress import counted
from voxshard.stages.extract import ExtractConfig, ExtractResult, run
from voxshard.store.features import is_stale


@click.command()
@click.argument("manifest", type=INPUT, required=False)
@click.option(
    "--encoder",
    type=NameType(registry.available),
    metavar="NAME",
    help="Name of the encoder; `voxshard encoders` lists them.",
)
@click.option("--out", type=PATH, help="Folder of the feature set; run again to continue.")
@click.option("--split", help="Only this split; the others can follow later, into the same folder.")
@set_option
@config_option
@click.option(
    "--shards",
    type=click.IntRange(1),
    help="Approximate number of shards; by default it depends on the amount of audio.",
)
@click.option("--task", "index", type=click.IntRange(0), default=0, help="This is task I of N, counted from 0.")
@click.option("--tasks", "count", type=click.IntRange(1), default=1, help="Number of tasks that share the work.")
@click.option("--plan-only", is_flag=True, help="Hash weights, and freeze identity and plan; encode nothing.")
@click.option("--device", help="auto, cpu, cuda or cuda:1.  [default: auto]")
@click.option("--precision", help="float32, tf32, bf16 or fp16; part of the fingerprint.")
@click.option("--batch-seconds", type=float, help="Padded seconds of audio per batch.")
@click.option(
    "--workers", type=click.IntRange(1), help="Number of decode workers; by default it depends on the available CPUs."
)
@click.option("--limit", type=click.IntRange(1), help="Only the first utterances of the manifest.")
@click.option("--reuse", type=OUTPUT, help="Merged set of the same encoder; rows of unchanged recordings are copied.")
@click.option(
    "--max-failure-fraction", type=click.FloatRange(0, 1), help="Stop if more than this share of the utterances fails."
)
def command(
    assignments: tuple[str, ...],
    index: int,
    count: int,
    plan_only: bool,
    precision: str | None,
    config_file: AnyLocation | None,
    **options: Any,
) -> None:
    """Embed every utterance of MANIFEST, shard by shard.

    Finished shards are never made again: after a kill, a full disk or a time limit, run the same command again. Several
    tasks may work on one folder at once, on any nodes.
    """
    if index >= count:
        raise ConfigError(f"--task {index} --tasks {count}: tasks count from 0, so the last of {count} is {count - 1}")
    settings = parse_assignments(assignments)
    if precision is not None:
        settings["precision"] = precision
    config = config_of(ExtractConfig, {**options, "settings": settings}, config_file, where="extract")
    with stage_task(index, count) as task:
        result = run(config, task, plan_only=plan_only)
    print_summary(result, plan_only=plan_only)


def print_summary(result: ExtractResult, *, plan_only: bool = False) -> None:
    """Report how an extraction ended and what comes next."""
    done = result.num_selected - len(result.missing)
    finished = "the only shard is done" if result.num_selected == 1 else f"all {result.num_selected:,} shards are done"
    folder = result.folder.path
    if plan_only:
        echo_info(f"{folder}: {counted(result.identity.num_utterances, 'utterance')} in "
            f"{counted(result.identity.num_shards, 'shard')}, "
            f"{done:,} of them done; fingerprint {result.identity.fingerprint[:12]}")  # fmt: skip
        return
    if result.advice:
        echo_info(result.advice)
    if result.num_failed:
        following = "" if is_step() else "; `voxshard merge` lists them in failures.csv"
        echo_info(f"{counted(result.num_failed, 'recording')} failed{following}")
    if result.missing:
        echo_info(f"{done:,} of {result.num_selected:,} shards are done; other tasks process the remaining shards")
    elif result.folder.features.exists() and result.folder.summary.exists() and not is_stale(folder):
        echo_info(f"{finished}, and merged")
    else:
        echo_info(f"{finished}{next_step(f'voxshard merge {quoted(folder)}')}")
