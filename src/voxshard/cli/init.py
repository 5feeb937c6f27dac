"""`voxshard init`: write a config for a corpus."""

from __future__ import annotations

from pathlib import Path

import click

from voxshard import files
from voxshard.cli.options import PATH, echo, echo_info
from voxshard.config import parse_yaml, validated
from voxshard.errors import ConfigError
from voxshard.experiment import draft
from voxshard.experiment.schema import ExperimentConfig
from voxshard.locations import check_output


@click.command()
@click.argument("root", type=PATH)
@click.option("--out", type=PATH, default="voxshard.yaml", show_default=True, help="The config to write.")
def command(root: Path, out: Path) -> None:
    """Look at the corpus at ROOT and write a commented config for it.

    It recognises the corpus format, splits, labels and sample rate from names and from a few files; nothing is changed
    in ROOT. Read the config, correct what was guessed wrong, and run it with `voxshard run`.
    """
    if not root.exists():
        raise ConfigError(f"{root}: no such file or folder")
    if out.exists():
        raise ConfigError(f"{out}: there already; give another name with --out")
    check_output(out, (".yaml", ".yml"))
    found = draft.inspected(root)
    text = draft.as_yaml(found, f"experiments/{root.resolve().name}")
    validated(ExperimentConfig, parse_yaml(text, where=str(out)), where=str(out))
    files.publish_bytes(out, text.encode())
    echo(f"format       {found.format}, {found.num_utterances:,} recordings or parts of them")
    echo(f"sample rate  {found.sample_rate or 'unknown: none of the files that were tried can be read'}")
    echo(f"splits       {', '.join(found.splits) or 'none found'}")
    echo(f"label        {f'{found.label}, {found.classes} classes' if found.label else 'none found'}")
    echo_info(f"{out}: written; read it, then: voxshard run {files.quoted(out)}")
