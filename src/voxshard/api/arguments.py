"""Conversion of the API's arguments before a stage's config validates them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any, ParamSpec, TypeVar

from voxshard.config import did_you_mean, problems_error
from voxshard.errors import BrokenPluginError, VoxshardError
from voxshard.locations import AnyLocation, parse
from voxshard.manifest import Manifest
from voxshard.progress_display import progress_display
from voxshard.stages.base import Task
from voxshard.store.features import FeatureSet
from voxshard.store.runs import Run

P = ParamSpec("P")
ResultT = TypeVar("ResultT")


def checked(function: Callable[P, ResultT]) -> Callable[P, ResultT]:
    """Decorate a function so that arguments that do not fit its signature raise one ConfigError.

    Errors of voxshard leave it with the caller's part of the traceback alone, since their message is complete; only
    errors in another package's code keep all of it.
    """
    signature = inspect.signature(function)
    names = list(signature.parameters)
    takes_settings = any(item.kind is item.VAR_KEYWORD for item in signature.parameters.values())

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> ResultT:
        unknown = [] if takes_settings else [name for name in kwargs if name not in names]
        problems = [
            f"{name}: unknown argument; valid arguments: {', '.join(names)}{did_you_mean(name, names)}"
            for name in unknown
        ]
        try:
            signature.bind(*args, **{name: value for name, value in kwargs.items() if name not in unknown})
        except TypeError as exc:
            problems.append(str(exc))
        if not isinstance(kwargs.get("progress", False), bool):
            problems.append(f"progress: expected True or False (got {kwargs['progress']!r})")
        if problems:
            raise problems_error(function.__name__, problems)
        try:
            return function(*args, **kwargs)
        except BrokenPluginError:
            raise
        except VoxshardError as exc:
            raise exc.with_traceback(None) from None

    return call


@contextmanager
def task_of(progress: bool) -> Iterator[Task]:
    """Provide the task of a call; progress is displayed on stderr if requested."""
    if not progress:
        yield Task()
        return
    with progress_display() as display:
        yield Task(progress=display)


def or_empty(settings: Mapping[str, Any] | None) -> Any:
    """Return settings, or an empty mapping for None; other types are left for the config to reject."""
    return {} if settings is None else settings


def as_text(value: Any) -> Any:
    """Return a path as text, for fields that also accept a URL or a name."""
    return str(value) if isinstance(value, PathLike) else value


def place_of(where: str, key: str, item: Any) -> Any:
    """Return the path of a run or feature set.

    Raises
    ------
    ConfigError : it is neither, and no path; names the function `where` and its argument `key`.
    """
    if isinstance(item, Run | FeatureSet):
        return item.path
    if not isinstance(item, str | PathLike):
        kind = type(item).__name__
        raise problems_error(where, [f"{key}: expected a feature set, a run, or the path of one (got {kind})"])
    return item


def path_of(where: str, manifest: Any) -> Any:
    """Return the path of a manifest; other values than a manifest are left for the config to validate.

    Raises
    ------
    ConfigError : a manifest in memory.
    """
    if isinstance(manifest, Manifest):
        raise problems_error(where, ["manifest: expected the path that `prepare` wrote, its `out` (got a Manifest)"])
    return manifest


def as_items(items: Any) -> list[Any]:
    """Return the items of a sequence; a single text, path, run or feature set becomes a list of one item."""
    return list(items) if isinstance(items, Sequence) and not isinstance(items, str | bytes) else [items]


def location_of(where: str, value: Any) -> AnyLocation:
    """Return a location from a path or a URL.

    Raises
    ------
    ConfigError : it is neither; names the function `where`.
    """
    if not isinstance(value, str | PathLike):
        raise problems_error(where, [f"path: expected a path (got {value!r})"])
    return parse(value)
