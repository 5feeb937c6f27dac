"""What other packages add through entry points: encoders, corpora and classifiers, by name."""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from voxshard.errors import BackendUnavailableError, BrokenPluginError

KINDS = {
    "voxshard.encoders": "encoder",
    "voxshard.corpora": "corpus format",
    "voxshard.classifiers": "classifier",
}
"""Entry point group -> what it adds, for messages."""


def registered(group: str, own: Collection[str]) -> dict[str, EntryPoint]:
    """Return the entry points of other packages by name; a name of our own stays ours. Nothing is imported."""
    return {point.name: point for point in reversed(_points(group)) if point.name not in own}


def unused(group: str, own: Collection[str]) -> list[str]:
    """Return a line for each entry point that is not used, since its name is one of ours or of another package."""
    used = registered(group, own)
    lines = []
    for point in _points(group):
        winner = "voxshard" if point.name in own else package_of(used[point.name])
        if point.name in own or point.value != used[point.name].value:
            lines.append(
                f"{KINDS[group]} {point.name} of {package_of(point)} ({point.value}) is not used: {winner} has one of "
                "that name; register it under another"
            )
    return lines


def _points(group: str) -> list[EntryPoint]:
    return sorted(entry_points(group=group), key=lambda point: (package_of(point), point.value))


def package_of(point: EntryPoint) -> str:
    """Return the name of the package that registers an entry point."""
    return point.dist.name if point.dist else "another package"


def load(point: EntryPoint) -> Any:
    """Import what an entry point names.

    Raises
    ------
    BackendUnavailableError : it needs a package that is not installed in this environment.
    BrokenPluginError : importing it fails otherwise.
    """
    try:
        return point.load()
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing == point.module.partition(".")[0]:
            raise broken(point, f"{type(exc).__name__}: {exc}") from exc
        raise BackendUnavailableError(
            f"{point.name} of {package_of(point)} needs {missing}, which is not installed in this environment; "
            f"run it where it is (`runtime:` venv or image), or `pip install {missing}`"
        ) from exc
    except Exception as exc:  # another package's code: anything can go wrong in it
        raise broken(point, f"{type(exc).__name__}: {exc}") from exc


def broken(point: EntryPoint, problem: str) -> BrokenPluginError:
    """Return the error of an entry point that does not keep to its interface."""
    return BrokenPluginError(
        f"{KINDS[point.group]} {point.name} ({point.value}, from {package_of(point)}): {problem}; report it to that "
        "package's authors"
    )
