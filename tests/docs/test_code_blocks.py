"""The code in the documentation is that of this version: commands, options, configs and names exist."""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from voxshard.cli import cli
from voxshard.config import parse_yaml, validated
from voxshard.experiment.schema import ExperimentConfig

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
PAGES = [page for page in PAGES if page.name != "commands.md"]  # made from the commands, with their usage lines
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.M | re.S)
CALL = re.compile(r"^(?:\$ )?(?:\w+=\S+ )*(?:srun |uvx |\.venv\S*/bin/)?(voxshard(?: .*)?)$")


def blocks(page: Path, *languages: str) -> Iterator[str]:
    return (match[2] for match in FENCE.finditer(page.read_text()) if match[1] in languages)


def words_of(line: str) -> list[str]:
    """Return the words of a command, without a comment, a redirection and what follows a pipe."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();&|>")  # `<` begins a placeholder
    lexer.whitespace_split = True
    return list(itertools.takewhile(lambda word: word[0] not in ";&|>", (word or "''" for word in lexer)))


def calls(page: Path) -> Iterator[list[str]]:
    """Yield the words of each `voxshard ...` line."""
    for block in blocks(page, "", "sh", "bash", "console"):
        for line in re.sub(r" *\\\n *", " ", block).splitlines():
            if match := CALL.match(line.strip()):
                yield words_of(match[1].partition("  ")[0])  # what follows explains the command


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
        content = parse_yaml(block, where=page.name)
        if {"prepare", "extract"} <= content.keys():
            validated(ExperimentConfig, content, where=page.name)


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page, "python"))], ids=lambda page: page.name)
def test_every_name_of_voxshard_in_the_documentation_exists(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "voxshard":
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "voxshard":
                assert hasattr(importlib.import_module("voxshard"), node.attr), ast.unparse(node)
