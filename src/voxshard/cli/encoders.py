"""`voxshard encoders`: which encoders exist, whether they run here, and what can be set."""

from __future__ import annotations

import click

from voxshard.cli.options import NameType, echo
from voxshard.cli.setting_list import print_settings
from voxshard.encoders import registry
from voxshard.encoders.base import EncoderSettings
from voxshard.plugins import unused


@click.command()
@click.argument("name", required=False, type=NameType(registry.available))
def command(name: str | None) -> None:
    """List the encoders; with NAME, its settings with their meanings and defaults."""
    if name is None:
        specs = registry.available()
        width = max(len(key) for key in specs)
        groups: dict[str, list[str]] = {}
        for key, spec in specs.items():
            groups.setdefault(_group_of(spec), []).append(f"  {key:{width}}  {_availability(spec):28}  {spec.summary}")
        for heading, lines in groups.items():
            for line in (heading, *lines, ""):
                echo(line)
        for line in unused(registry.ENTRY_POINT_GROUP, registry.SPECS):
            echo(line)
        echo("`voxshard encoders NAME` shows what `--set` takes.")
        return
    spec = registry.spec_of(name)
    echo(f"{name}: {spec.summary}; {_availability(spec)}\n")
    print_settings(registry.settings_model(name), common=EncoderSettings)


def _group_of(spec: registry.EncoderSpec) -> str:
    """Return the heading of an encoder's group: its framework, and the command that installs it."""
    if spec.requires is None:
        return "Of other packages"
    if not spec.is_supported:
        return "Not supported; `voxshard ingest` reads vectors made elsewhere"
    titles = {"torch": "PyTorch", "tensorflow": "TensorFlow", "onnx": "ONNX", "opensmile": "openSMILE"}
    return f"{titles[spec.extra]}: pip install 'voxshard[{spec.extra}]'" if spec.extra else "Base install"


def _availability(spec: registry.EncoderSpec) -> str:
    if spec.requires is None:
        return "from another package"
    if not spec.is_supported:
        return "not supported"
    if spec.missing:
        return f"needs {', '.join(spec.missing)}"
    return "available"
