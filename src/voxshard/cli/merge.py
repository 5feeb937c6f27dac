"""`voxshard merge`: join the shards into one feature set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from voxshard.cli.options import EXISTING, INPUT, config_of, config_option, echo_info, stage_task
from voxshard.locations import AnyLocation
from voxshard.progress import counted
from voxshard.stages.merge import MergeConfig, run
from voxshard.store.layout import FeatureDir


@click.command()
@click.argument("features", type=EXISTING, metavar="DIR", required=False)
@click.option("--mode", type=click.Choice(["auto", "packed", "index"]),
              help="packed: one file. index: the arrays stay in the shards. auto: packed up to 64 GiB.  [default: auto]"
              )  # fmt: skip
@click.option(
    "--allow-missing", is_flag=True, default=None, help="Merge the available shards even if some are missing."
)
@click.option("--labels", type=INPUT, metavar="MANIFEST", help="Describe the utterances with this manifest instead.")
@click.option(
    "--delete-shards", is_flag=True, default=None, help="Remove the shards once the packed file has verified."
)
@click.option("--max-failure-fraction", type=click.FloatRange(0, 1),
              help="Share of failed utterances to accept; by default the one given to extract.")  # fmt: skip
@config_option
def command(config_file: AnyLocation | None, **options: Any) -> None:
    """Check every shard of DIR and join them: features.h5, utterances.parquet, failures.csv, summary.json.

    Every utterance of the manifest is in it exactly once, as a row or as a failure with its reason. Splits whose
    extraction has not begun are counted as pending; a split that was begun must be complete. Run it again whenever
    shards have been added.
    """
    config = config_of(MergeConfig, options, config_file, where="merge")
    with stage_task() as task:
        summary = run(config, task)
    print_summary(config.features, summary)


def print_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Report what was merged."""
    counts = summary["utterances"]
    parts = [counted(counts["ok"], "utterance"), counted(counts["failed"], "failure")]
    parts += [f"{counts[state]:,} {state}" for state in ("pending", "missing") if counts[state]]
    echo_info(f"{folder}: {', '.join(parts)}; {summary['audio_hours']:.2f} h of audio, {summary['mode']}")
    if counts["failed"]:
        echo_info(f"what failed, and why: {FeatureDir(folder).failures}")
    for warning in summary["warnings"]:
        echo_info(f"warning: {warning}")
