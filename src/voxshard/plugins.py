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
    return {point.name: point for point in entry_points(group=group) if point.name not in own}


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
            f"{point.name} needs {missing}, which is not installed in this environment; run it where it is (`runtime:` "
            f"venv or image), or `pip install {missing}`"
        ) from exc
    except Exception as exc:  # another package's code: anything can go wrong in it
        raise broken(point, f"{type(exc).__name__}: {exc}") from exc


def broken(point: EntryPoint, problem: str) -> BrokenPluginError:
    """Return the error of an entry point that does not keep to its interface."""
    return BrokenPluginError(
        f"{KINDS[point.group]} {point.name} ({point.value}, from {package_of(point)}): {problem}; report it to that "
        "package's authors"
    )
