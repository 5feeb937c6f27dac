"""`voxshard publish`: upload results to a bucket."""

from __future__ import annotations

from pathlib import Path

import click

from voxshard.cli.options import EXISTING, OUTPUT, echo_info, stage_task
from voxshard.config import validated
from voxshard.locations import AnyLocation
from voxshard.stages.publish import PublishConfig, run


@click.command()
@click.argument("path", type=EXISTING)
@click.argument("url", type=OUTPUT)
@click.option("--replace", is_flag=True, help="Replace objects that have another content.")
def command(path: Path, url: AnyLocation, replace: bool) -> None:
    """Upload PATH (a file, feature set, run or experiment) to URL, such as s3://bucket/results or gs://bucket/results.

    Objects are uploaded in parallel, each one complete or not at all, and the digest of every object is compared with
    the local file's. A folder gets the object published.json, which is written last. The same command again uploads
    only what is missing; other content in the bucket is refused without --replace.

    Temporary files and the state of running work (DIR/progress, EXP/jobs) are not uploaded.
    """
    config = validated(PublishConfig, {"path": path, "url": url, "replace": replace}, where="publish")
    with stage_task() as task:
        published = run(config, task)
    echo_info(
        f"{url}: {published.num_uploaded:,} objects uploaded ({published.num_bytes / 1e6:,.1f} MB), "
        f"{published.num_present:,} were there already, all with the right content"
    )
