"""`voxshard networks`: which networks exist, and what can be set."""

from __future__ import annotations

import click

from voxshard.cli.options import NameType, echo
from voxshard.cli.setting_list import print_names, print_settings
from voxshard.config import did_you_mean
from voxshard.errors import ConfigError
from voxshard.learning.network_config import SET_KEYS, NetworkOptions
from voxshard.networks.settings import FAMILIES, SUMMARIES, NetworkSettings


@click.command()
@click.argument("name", required=False, type=NameType(lambda: FAMILIES))
def command(name: str | None) -> None:
    """List the networks; with NAME, its settings and those of its training, with their meanings and defaults.

    Settings go to `voxshard train --network NAME --set KEY=VALUE`; in a config each section is a separate key.
    """
    if name is None:
        print_names(SUMMARIES, "networks")
        return
    if name not in FAMILIES:
        raise ConfigError(f"no network {name!r}; networks: {', '.join(FAMILIES)}{did_you_mean(name, FAMILIES)}")
    echo(f"{name}: {SUMMARIES[name]}\n")
    print_settings(FAMILIES[name], common=NetworkSettings)
    echo("\nOf the training:\n")
    print_settings(NetworkOptions, common=NetworkOptions, only=SET_KEYS)
