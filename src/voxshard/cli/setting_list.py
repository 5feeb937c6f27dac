"""Settings as `voxshard encoders NAME`, `classifiers NAME` and `networks NAME` list them."""

from __future__ import annotations

import shutil
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from voxshard.cli.options import echo


def print_names(names: Mapping[str, str], command: str) -> None:
    """Print one line for each name, and how to see its settings."""
    width = max(map(len, names))
    for name, about in names.items():
        echo(f"{name:{width}}  {about}")
    echo(f"\n`voxshard {command} NAME` shows what `--set` takes.")


class Setting(NamedTuple):
    """One key that `--set` takes."""

    key: str
    type: str
    default: str
    description: str


def settings_of(
    model: type[BaseModel], *, common: type[BaseModel], prefix: str = "", only: Sequence[str] | None = None
) -> Iterator[Setting]:
    """Iterate over what `--set` takes for a settings model.

    Parameters
    ----------
    common : its fields, which the model shares with others, come last.
    prefix : of the keys, of a section of a larger model: `training.`.
    only : the fields to list; None: all.
    """
    fields = {key: item for key, item in model.model_fields.items() if only is None or key in only}
    for key in sorted(fields, key=lambda key: key in common.model_fields):
        item = fields[key]
        section = _section(item)
        if section is not None:
            yield from settings_of(section, common=section, prefix=f"{prefix}{key}.")
        else:
            description = " ".join((item.description or "").split())
            yield Setting(f"{prefix}{key}", _spelled(item.annotation), _default_of(item), description)


def print_settings(model: type[BaseModel], *, common: type[BaseModel], only: Sequence[str] | None = None) -> None:
    """Print what `--set` takes for a settings model: key, type, default and description; see `settings_of`."""
    width = min(shutil.get_terminal_size((110, 24)).columns, 110)
    for setting in settings_of(model, common=common, only=only):
        echo(f"--set {setting.key}=   {setting.type}, default {setting.default}")
        if setting.description:
            echo(textwrap.indent(textwrap.fill(setting.description, width - 8), " " * 6))


def _section(item: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a field that is a section and nothing else; single values (`gain=6`) remain one key."""
    kinds = [kind for kind in typing.get_args(item.annotation) or [item.annotation] if kind is not type(None)]
    if item.metadata or len(kinds) != 1 or not isinstance(kinds[0], type) or not issubclass(kinds[0], BaseModel):
        return None
    return kinds[0]


def _default_of(item: FieldInfo) -> str:
    if item.is_required():
        return "none: required"
    default = item.get_default(call_default_factory=True)
    if default is None:
        return "null"
    if isinstance(default, BaseModel):
        return "off"
    if isinstance(default, tuple):
        return f"[{', '.join(map(str, default))}]"
    return str(default).lower() if isinstance(default, bool) else str(default)


def _spelled(annotation: object) -> str:
    """Format a type for users: int, text, a or b, list of ..."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " | ".join(str(value) for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_spelled(part) for part in arguments)
    if origin in (tuple, list):
        return f"list of {_spelled(arguments[0])}"
    if origin is typing.Annotated:
        return _spelled(arguments[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "strength, or {" + ", ".join(annotation.model_fields) + "}"
    names: dict[object, str] = {
        type(None): "null",
        str: "text",
        bool: "true | false",
        float: "number",
        int: "integer",
    }
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))
