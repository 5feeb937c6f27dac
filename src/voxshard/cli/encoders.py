"""`voxshard encoders`: which encoders there are, whether they run here, and what can be set."""

from __future__ import annotations

import shutil
import textwrap
import types
import typing

import click
from pydantic.fields import FieldInfo

from voxshard.cli.options import echo
from voxshard.encoders import registry
from voxshard.encoders.base import EncoderSettings


@click.command()
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List the encoders; with NAME, its settings, what they mean and their defaults."""
    if name is None:
        specs = registry.available()
        width = max(len(key) for key in specs)
        for key, spec in specs.items():
            echo(f"{key:{width}}  {_availability(spec):28}  {spec.summary}")
        echo("\n`voxshard encoders NAME` shows what `--set` takes.")
        return
    spec = registry.spec_of(name)
    echo(f"{name}: {spec.summary}; {_availability(spec)}\n")
    fields = type(registry.settings_of(name, {})).model_fields
    for key in sorted(fields, key=lambda key: key in EncoderSettings.model_fields):  # its own first
        item = fields[key]
        echo(f"--set {key}=   {_type_of(item)}, default {_default_of(item)}")
        width = min(shutil.get_terminal_size((110, 24)).columns, 110)
        echo(textwrap.indent(textwrap.fill(" ".join((item.description or "").split()), width - 8), " " * 6))


def _availability(spec: registry.EncoderSpec) -> str:
    if spec.requires is None:
        return "from another package"
    if spec.missing:
        return f"needs {', '.join(spec.missing)}"
    return "available"


def _default_of(item: FieldInfo) -> str:
    if item.is_required():
        return "none: required"
    if item.default is None:
        return "null"
    return str(item.default).lower() if isinstance(item.default, bool) else str(item.default)


def _type_of(item: FieldInfo) -> str:
    return _spelled(item.annotation)


def _spelled(annotation: object) -> str:
    """A type as a user reads it: int, text, a or b, list of ..."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " | ".join(str(value) for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_spelled(part) for part in arguments)
    if origin in (tuple, list):
        return f"list of {_spelled(arguments[0])}"
    if origin is typing.Annotated:
        return _spelled(arguments[0])
    names: dict[object, str] = {
        type(None): "null",
        str: "text",
        bool: "true | false",
        float: "number",
        int: "whole number",
    }
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))
