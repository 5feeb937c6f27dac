"""`voxshard prepare`: make the manifest of a corpus."""

from __future__ import annotations

from typing import Any

import click

from voxshard.cli.options import (
    OUTPUT,
    NameType,
    config_of,
    config_option,
    echo_info,
    next_step,
    set_option,
    stage_task,
)
from voxshard.config import parse_assignments
from voxshard.corpora.formats import available
from voxshard.files import quoted
from voxshard.locations import AnyLocation
from voxshard.stages.prepare import PrepareConfig, run, summary

_HELP = "\n\n".join(
    [
        "Describe the corpus at ROOT: one row per utterance, with duration, labels and splits.",
        "\b\nFORMAT is one of\n" + "\n".join(f"  {name:13} {about.summary}" for name, about in available().items()),
        "What cannot be read (empty, damaged, missing) is reported now, and is in the manifest's column `problem`.",
        "docs/corpora.md shows each format's tree and commands.",
    ]
)


@click.command(help=_HELP)
@click.argument("format", metavar="FORMAT", required=False, type=NameType(available))
@click.argument("root", required=False)
@click.option("--out", type=OUTPUT, help="The manifest to write, manifest.parquet.")
@click.option("--glob", help="Only paths that match, such as '**/*.wav'; * stays in one folder.")
@click.option("--part", help="Only what is below this folder of ROOT, such as part_003; ids stay relative to ROOT.")
@click.option(
    "--split", multiple=True, metavar="NAME=FILE", help="Assign the ids or paths that FILE lists to split NAME."
)
@click.option(
    "--split-from",
    multiple=True,
    metavar="REGEX=NAME",
    help="Assign paths that match REGEX to split NAME; the first match wins.",
)
@click.option("--labels", metavar="FILE", help="CSV, TSV or Parquet whose columns are joined by id or path.")
@click.option("--label-from", metavar="REGEX", help="Each named group, (?P<digit>...), becomes a column.")
@click.option("--study", help="Fill a column `study`; in uid-folders also the folder that holds the uids.")
@click.option("--limit", type=click.IntRange(1), help="Only the first N utterances.")
@click.option(
    "--no-probe", is_flag=True, help="Do not open the files: durations stay unknown, and shards are cut by size."
)
@set_option
@config_option
def command(assignments: tuple[str, ...], no_probe: bool, config_file: AnyLocation | None, **options: Any) -> None:
    values = {**options, "probe": False if no_probe else None, "settings": parse_assignments(assignments)}
    config = config_of(PrepareConfig, values, config_file, where="prepare")
    with stage_task() as task:
        manifest = run(config, task)
    for line in summary(manifest):
        echo_info(line)
    following = next_step(f"voxshard extract {quoted(config.out)} --encoder NAME --out DIR")
    echo_info(f"{config.out}: written{following}")
