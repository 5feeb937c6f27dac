"""`voxshard publish`: upload results to a bucket."""

from __future__ import annotations

from typing import Any

import click

from voxshard.cli.options import EXISTING, OUTPUT, config_of, config_option, echo_info, stage_task
from voxshard.locations import AnyLocation
from voxshard.progress import counted
from voxshard.stages.publish import PublishConfig, run


@click.command()
@click.argument("path", type=EXISTING, required=False)
@click.argument("url", type=OUTPUT, required=False)
@click.option("--replace", is_flag=True, default=None, help="Replace objects that have another content.")
@config_option
def command(config_file: AnyLocation | None, **options: Any) -> None:
    """Upload PATH (a file, feature set, run or experiment) to URL, such as s3://bucket/results or gs://bucket/results.

    Objects are uploaded in parallel, each one complete or not at all, and the digest of every object is compared with
    the local file's. A folder gets the object published.json, which is written last. The same command again uploads
    only what is missing; other content in the bucket is refused without --replace.

    Temporary files and the state of running work (DIR/progress, EXP/jobs) are not uploaded.
    """
    config = config_of(PublishConfig, options, config_file, where="publish")
    with stage_task() as task:
        published = run(config, task)
    echo_info(
        f"{config.url}: {counted(published.num_uploaded, 'object')} uploaded ({published.num_bytes / 1e6:,.1f} MB), "
        f"{published.num_present:,} were there already, all with the right content"
    )
