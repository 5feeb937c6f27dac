"""`voxshard ingest`: make a feature set from features that other programs computed."""

from __future__ import annotations

from pathlib import Path

import click

from voxshard.cli.merge import print_summary
from voxshard.cli.options import PATH, stage_task
from voxshard.config import validated
from voxshard.store.ingest import IngestConfig, ingest


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="[SPLIT=]FILE...")
@click.option("--out", type=PATH, required=True, help="Folder of the feature set.")
def command(inputs: tuple[str, ...], out: Path) -> None:
    """Make a feature set of npy, npz, json, parquet or tsv files that other programs wrote.

    Each FILE may be given a split: train=a.npy test=b.npy. A npy needs a csv with the ids next to it (NAME_metadata.csv
    or NAME.csv), a npz the arrays X and ids (or X, Y and IDS, one row per window). If there is a SHA256SUMS file next
    to it, it is checked. Nothing is ever unpickled.
    """
    config = validated(IngestConfig, {"inputs": inputs, "out": out}, where="ingest")
    with stage_task() as task:
        summary = ingest(config, task.progress, task.check)
    print_summary(out, summary)
