"""`voxshard encoders`: which encoders exist, whether they run here, and what can be set."""

from __future__ import annotations

import click

from voxshard.cli.options import echo
from voxshard.cli.setting_list import print_names, print_settings
from voxshard.encoders import registry
from voxshard.encoders.base import EncoderSettings


@click.command()
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List the encoders; with NAME, its settings, what they mean and their defaults."""
    if name is None:
        specs = registry.available()
        print_names({key: f"{_availability(spec):28}  {spec.summary}" for key, spec in specs.items()}, "encoders")
        return
    spec = registry.spec_of(name)
    echo(f"{name}: {spec.summary}; {_availability(spec)}\n")
    print_settings(registry.settings_model(name), common=EncoderSettings)


def _availability(spec: registry.EncoderSpec) -> str:
    if spec.requires is None:
        return "from another package"
    if spec.missing:
        return f"needs {', '.join(spec.missing)}"
    return "available"
