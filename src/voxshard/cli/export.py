"""`voxshard export`: write a feature set in the formats of other programs."""

from __future__ import annotations

from typing import Any

import click

from voxshard.cli.options import INPUT, OUTPUT, echo_info, stage_task
from voxshard.config import validated
from voxshard.locations import AnyLocation
from voxshard.store.export import ExportConfig, export


@click.command()
@click.argument("features", type=INPUT, metavar="DIR")
@click.option("--format", "format", type=click.Choice(["npy", "json", "npz", "parquet", "tsv"]), required=True,
              help="npy: a folder with SPLIT.npy and SPLIT_metadata.csv. The others: one file.")  # fmt: skip
@click.option("--out", type=OUTPUT, required=True, help="The file to write; for npy the folder.")
@click.option("--split", help="Only the utterances of this split.")
@click.option("--label", metavar="COL", help="npz: this column becomes the array Y.")
def command(features: AnyLocation, **options: Any) -> None:
    """Write the merged feature set in DIR as npy, json, npz, parquet or tsv.

    Sets larger than memory are fine. `voxshard ingest` reads all of these formats back.
    """
    config = validated(ExportConfig, {"features": features, **options}, where="export")
    with stage_task() as task:
        written = export(config, task.progress, task.check)
    echo_info("\n".join(str(path) for path in written))
