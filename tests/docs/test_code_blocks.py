"""The code in the documentation is that of this version: commands, options, configs and names exist."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from support.doc_blocks import PAGES, ROOT, blocks, calls
from voxshard.cli import cli
from voxshard.config import parse_yaml, validated
from voxshard.experiment.schema import ExperimentConfig


def problems(words: list[str]) -> Iterator[str]:
    """Yield what is wrong with a call: commands and options that do not exist."""
    command: click.Command = cli
    context = click.Context(cli)
    words = words[1:]
    while isinstance(command, click.Group) and words and re.fullmatch(r"[a-z][a-z-]+", words[0]):
        found = command.get_command(context, words[0])
        if found is None:
            yield f"no command {words[0]!r}"
            return
        command, words = found, words[1:]
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
    for word in words:
        name = word.partition("=")[0]
        if re.fullmatch(r"--?[a-z][\w-]*", name) and name not in known:
            yield f"no option {name}"


def test_every_command_and_option_in_the_documentation_exists() -> None:
    checked = [(page, words) for page in PAGES for words in calls(page)]
    found = [
        f"{page.relative_to(ROOT)}: {shlex.join(words)}: {what}" for page, words in checked for what in problems(words)
    ]
    assert not found, "\n".join(found)
    assert len(checked) > 100


def test_a_command_or_option_that_does_not_exist_is_found() -> None:
    assert list(problems(["voxshard", "extrakt", "m.parquet"])) == ["no command 'extrakt'"]
    assert list(problems(["voxshard", "merge", "DIR", "--pakced"])) == ["no option --pakced"]


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page, "yaml"))], ids=lambda page: page.name)
def test_every_config_in_the_documentation_is_valid(page: Path) -> None:
    for block in blocks(page, "yaml"):
        content = parse_yaml(block.code, where=page.name)
        if {"prepare", "extract"} <= content.keys():
            validated(ExperimentConfig, content, where=page.name)


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page, "python"))], ids=lambda page: page.name)
def test_every_name_of_voxshard_in_the_documentation_exists(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block.code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "voxshard":
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "voxshard":
                assert hasattr(importlib.import_module("voxshard"), node.attr), ast.unparse(node)
