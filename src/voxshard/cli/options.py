"""Options and helpers that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from voxshard import urls
from voxshard.config import SettingsT, load_yaml, merged, validated
from voxshard.locations import AnyLocation, local_copy, parse
from voxshard.progress import STEP_VARIABLE, printable
from voxshard.progress_display import progress_display
from voxshard.signals import stop_on_signals
from voxshard.stages.base import Task

Command = TypeVar("Command", bound=Callable[..., Any])


class LocationType(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.3
    """A path or a URL."""

    name = "path or URL"

    def __init__(self, *, exists: bool = False, local: bool = False) -> None:
        """
        Parameters
        ----------
        exists : a path has to exist.
        local : URLs are refused, because existing files are changed or resumed in place.
        """
        self.local = local
        self._path = click.Path(exists=exists, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> AnyLocation:
        try:
            location = parse(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)
        if isinstance(location, Path):
            return self._path.convert(location, param, ctx)
        if self.local:
            self.fail(
                f"{location} is a URL; expected a local path, because files there are changed or resumed in place; to "
                "copy them to a bucket: `voxshard publish PATH URL`",
                param,
                ctx,
            )
        urls.require(location)
        return location

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Let the shell complete paths."""
        return [CompletionItem(incomplete, type="file")]


class NameType(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.3
    """Parameter type for a name that the shell completes; unknown names are refused later, with a better message."""

    name = "name"

    def __init__(self, names: Callable[[], Iterable[str]]) -> None:
        """`names` is called when the shell completes."""
        self._names = names

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """List the names that begin with the incomplete word."""
        return [CompletionItem(name) for name in self._names() if name.startswith(incomplete)]


INPUT = LocationType(exists=True)
OUTPUT = LocationType()
EXISTING = LocationType(exists=True, local=True)
PATH = LocationType(local=True)


def set_option(command: Command) -> Command:
    """Add `--set key=value`, handed over as a tuple `assignments`; see `voxshard.config.parse_assignments`."""
    option = click.option(
        "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A setting, YAML value; once per key."
    )
    return option(command)


def config_option(command: Command) -> Command:
    """Add `--config FILE`, handed over as `config_file`; see `config_of`."""
    option = click.option(
        "--config",
        "config_file",
        type=INPUT,
        help="Read all options from a YAML file; options of the command line win.",
    )
    return option(command)


def config_of(
    model: type[SettingsT], values: Mapping[str, Any], config_file: AnyLocation | None, *, where: str
) -> SettingsT:
    """Validate the options of a command line, put over those of its `--config FILE` if there is one.

    Parameters
    ----------
    values : the options that were given; those that are None or empty were not.
    where : name of the command, for errors where no file is read.
    """
    content = load_yaml(local_copy(config_file), where=str(config_file)) if config_file else {}
    given = {key: value for key, value in values.items() if value is not None and value not in ((), {})}
    if config_file:
        return validated(model, merged(content, given), where=str(config_file))
    return validated(model, given, where=where, names=names_on_command_line())


def names_on_command_line() -> dict[str, str]:
    """Return what the user types for each parameter of the current command, such as `--out` or `MANIFEST`."""
    parameters = {item.name: item for item in click.get_current_context().command.params if item.name}
    return {
        name: item.opts[0] if isinstance(item, click.Option) else item.metavar or name.upper()
        for name, item in parameters.items()
    }


def echo(message: object = "") -> None:
    """Print results to stdout, with control characters shown as escapes."""
    click.echo(printable(str(message)))


def echo_info(message: str) -> None:
    """Print a message for the user to stderr, with control characters shown as escapes."""
    click.echo(printable(message), err=True)


def next_step(command: str) -> str:
    """Return `; next: COMMAND` for the end of a message; nothing in a step of `run`, which does that itself."""
    return "" if is_step() else f"; next: {command}"


def is_step() -> bool:
    """Whether this command is one of those that `voxshard run` starts one after the other."""
    return bool(os.environ.get(STEP_VARIABLE))


@contextmanager
def stage_task(index: int = 0, count: int = 1) -> Iterator[Task]:
    """Provide the task of a command: signals stop it, and its progress is displayed while the block runs."""
    stop = stop_on_signals()
    with progress_display() as progress:
        yield Task(index, count, stop, progress)
