"""`voxshard classifiers`: which classifiers exist, and what can be set."""

from __future__ import annotations

import click

from voxshard.cli.options import NameType, echo
from voxshard.cli.setting_list import print_names, print_settings
from voxshard.learning.train_config import ENTRY_POINT_GROUP, SETTINGS, TrainingSettings, available, settings_model
from voxshard.plugins import unused


@click.command()
@click.argument("name", required=False, type=NameType(available))
def command(name: str | None) -> None:
    """List the classifiers; with NAME, its settings with their meanings and defaults.

    Settings go to `voxshard train --classifier NAME --set KEY=VALUE`, or into `train.settings` of a config.
    """
    if name is None:
        print_names(available(), "classifiers")
        for line in unused(ENTRY_POINT_GROUP, SETTINGS):
            echo(line)
        return
    model = settings_model(name)
    echo(f"{name}: {available()[name]}\n")
    print_settings(model, common=TrainingSettings)
