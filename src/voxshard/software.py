"""Versions of packages that a stored model was made with, against those installed here, before it is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from voxshard.errors import BackendUnavailableError


def check_release(path: Path, made_with: Mapping[str, str], packages: Mapping[str, int]) -> None:
    """Check that packages are of the release that made a model.

    Parameters
    ----------
    path : of the model, for the error.
    made_with : package -> version, as recorded with the model; a package that is not in it is not compared.
    packages : package -> number of leading parts of the version that must agree: 1 for `2.x`, 2 for `1.9.x`.

    Raises
    ------
    BackendUnavailableError : one is of another release, or is not installed; gives both versions.
    """
    for name, num_parts in packages.items():
        if name in made_with and _release(made_with[name], num_parts) != _release(installed(name), num_parts):
            raise _other_release(path, name, made_with[name])


def check_not_older(path: Path, made_with: Mapping[str, str], name: str) -> None:
    """Check that a package is not older than the one that made a model; packages read their earlier files.

    Raises
    ------
    BackendUnavailableError : it is, or is not installed; gives both versions.
    """
    if name in made_with and _numbers(_release(installed(name), 2)) < _numbers(_release(made_with[name], 2)):
        raise _other_release(path, name, made_with[name])


def differences(made_with: Mapping[str, str], packages: Iterable[str]) -> list[str]:
    """Return `NAME THERE (here HERE)` for each of these packages that is of another version here."""
    return [
        f"{name} {made_with[name]} (here {installed(name)})"
        for name in packages
        if name in made_with and made_with[name] != installed(name)
    ]


def installed(name: str) -> str:
    """Return the version of a package that is installed here, or `none`."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _release(text: str, num_parts: int) -> str:
    """Return the first parts of a version: `1.9` of `1.9.1+cpu`."""
    return ".".join(text.split("+")[0].split(".")[:num_parts])


def _other_release(path: Path, name: str, there: str) -> BackendUnavailableError:
    """Return the error for a model that another release of a package made."""
    return BackendUnavailableError(
        f"{path}: made with {name} {there}, installed here is {installed(name)}; install that version (pip install "
        f"{name}=={there.split('+')[0]}), use the environment or image that made it, or train it again"
    )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in text.split("."))
