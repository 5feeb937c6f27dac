"""A path that looks like a URL is never a local folder."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import voxshard
from voxshard.cli import COMMANDS, cli
from voxshard.config import Settings
from voxshard.locations import Location, Url, parse

SOURCES = Path(voxshard.__file__).parent


def test_a_location_is_a_path_or_a_url_and_never_both() -> None:
    assert parse("s3://bucket/a") == Url("s3://bucket/a")
    assert not isinstance(parse("s3://bucket/a"), Path)
    assert parse("file:///a/b") == Path("/a/b")
    assert parse("a/b") == Path("a/b")
    assert parse(Path("a")) == Path("a")
    with pytest.raises(ValueError, match="expected a path or a URL, not an empty text"):
        parse("")


def classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                yield path, node


def test_no_setting_takes_a_bare_path() -> None:
    """A field of type Path would make a folder named `s3:` of a URL; Location and LocalPath do not."""
    found = list(classes())
    models = {"Settings"}
    while more := {node.name for _, node in found if {ast.unparse(base) for base in node.bases} & models} - models:
        models |= more
    assert {"PrepareConfig", "TrainConfig", "ExperimentConfig", "Site"} <= models
    bare = [
        f"{path.relative_to(SOURCES)}: {node.name}.{ast.unparse(item.target)}"
        for path, node in found
        if node.name in models
        for item in node.body
        if isinstance(item, ast.AnnAssign) and re.search(r"\bPath\b", ast.unparse(item.annotation))
    ]
    assert bare == []


def parameters(command: click.Command) -> Iterator[tuple[str, Any]]:
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from parameters(inner)
    for parameter in command.params:
        yield f"{command.name} {parameter.name}", parameter.type


def test_no_command_takes_a_bare_path() -> None:
    context = click.Context(cli)
    found = []
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        found += [where for where, kind in parameters(command) if isinstance(kind, click.Path)]
    assert found == []


def test_locations_are_written_to_configs_as_text() -> None:
    class Example(Settings):
        place: Location

    assert Example(place="gs://bucket/a").model_dump(mode="json") == {"place": "gs://bucket/a"}
    assert Example(place=Path("a")).model_dump(mode="json") == {"place": "a"}
