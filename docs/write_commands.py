"""Write docs/commands.md from the commands themselves: `python docs/write_commands.py`. A test compares them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from voxshard.cli import cli

TARGET = Path(__file__).with_name("commands.md")
HEAD = """# Commands

Written from the commands' own help by `python docs/write_commands.py`. One `--set` per key; values are YAML
(`--set layer=[0,3,12]`). Tasks count from 0.

Exit codes: 0 done; 1 a bug in voxshard, please report it; 2 a setting or option; 3 the data; 4 the machine, its storage
or what is installed; 75 stopped by a signal: finished work was kept, run the same command again.
"""


def reference() -> str:
    """Return the complete page."""
    parts = [HEAD]
    for names, command in _commands(cli, ("voxshard",)):
        parts.append(
            f"## {' '.join(names[1:])}\n\n```\n{_usage(names, command)}\n```\n\n{_help(command)}\n{_options(command)}"
        )
    return "\n".join(parts)


def _commands(group: click.Group, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group, info_name=names[-1])
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command, (*names, name))
        else:
            yield (*names, name), command


def _usage(names: tuple[str, ...], command: click.Command) -> str:
    context = click.Context(command, info_name=" ".join(names))
    return " ".join([*names, *command.collect_usage_pieces(context)])


def _help(command: click.Command) -> str:
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    shown = []
    for paragraph in paragraphs:
        if paragraph.startswith("\b\n"):
            shown.append("```\n" + paragraph.removeprefix("\b\n") + "\n```")
        else:
            shown.append(paragraph)
    return "\n\n".join(shown) + "\n"


def _options(command: click.Command) -> str:
    rows = []
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            context = click.Context(command)
            metavar = "" if parameter.is_flag else " " + parameter.make_metavar(context)
            flags = ", ".join(parameter.opts)
            text = f"{parameter.help or ''}{' Required.' if parameter.required else ''}".replace("|", "\\|")
            shown = f"{flags}{metavar}".replace("|", " / ")
            rows.append(f"| `{shown}` | {text} |")
    return "\n| option | |\n| --- | --- |\n" + "\n".join(rows) + "\n" if rows else ""


if __name__ == "__main__":
    TARGET.write_text(reference())
