"""Where a framework lives: this interpreter, a virtual environment, or an image.

A stage is always started as `<runtime> -m voxshard STAGE ...`; the process that starts it imports no framework.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from voxshard.errors import BackendUnavailableError, ConfigError
from voxshard.files import expanded, storage_errors
from voxshard.runtime import apptainer, images
from voxshard.runtime.apptainer import Container
from voxshard.runtime.binds import RequiredPath
from voxshard.runtime.image_command import DIGEST_VARIABLE


@dataclass(frozen=True)
class Invocation:
    """Command line, and the variables to add to our environment for it."""

    words: list[str]
    environment: dict[str, str] = field(default_factory=dict)


def command(
    runtime: str,
    arguments: Sequence[str],
    *,
    program: Sequence[str] = ("-m", "voxshard"),
    environment: Mapping[str, str] | None = None,
    needs: Sequence[RequiredPath] = (),
    site: Container | None = None,
    kept: Path | None = None,
) -> Invocation:
    """Return the command that runs `voxshard` with these arguments in a runtime, from this folder on this node.

    Parameters
    ----------
    runtime : `here`, `venv:PATH`, or `image:PATH` (a .sif file or an unpacked folder).
    program : what Python is to run.
    environment : variables to set for it.
    needs : the folders and files it uses; an image is shown these.
    site : how images are run here.
    kept : folder for what is worth keeping of an image: the code that libraries compile, and its digest where that
        cannot be noted next to it.

    Raises
    ------
    ConfigError : no such kind of runtime.
    BackendUnavailableError : the environment, the image or the container program is missing.
    EnvironmentProblemError : something an image must be shown does not exist.
    """
    image = image_of(runtime)
    if image is None:
        return Invocation([_interpreter(runtime), "-P", *program, *arguments], dict(environment or {}))
    images.check(image)
    digest = images.digest(image, kept)
    cache = None if kept is None else Path(os.path.abspath(kept), "cache", digest.partition(":")[2][:12])  # noqa: PTH100
    if cache is not None:
        with storage_errors(cache):
            cache.mkdir(parents=True, exist_ok=True)
    line, carried = apptainer.command(
        site or Container(),
        image,
        ["python", *program, *arguments],
        needs=needs,
        environment={DIGEST_VARIABLE: digest, **(environment or {})},
        cache=cache,
    )
    return Invocation(line, carried)


def image_of(runtime: str) -> Path | None:
    """Return the image that a runtime names; None for the other kinds."""
    kind, place = split(runtime)
    return expanded(place).absolute() if kind == "image" else None


def split(runtime: str) -> tuple[str, str]:
    """Split a runtime into its kind and its place.

    Raises
    ------
    ConfigError : no such kind.
    """
    kind, _, place = runtime.partition(":")
    if (kind == "here") != (not place) or kind not in ("here", "venv", "image"):
        raise ConfigError(f"runtime {runtime!r}: expected here, venv:PATH or image:PATH")
    return kind, place


def _interpreter(runtime: str) -> str:
    kind, place = split(runtime)
    if kind == "here":
        return sys.executable
    python = expanded(place).absolute() / "bin" / "python"
    if not python.exists():
        raise BackendUnavailableError(
            f"runtime {runtime}: no {python}; make the environment (`make setup-torch`, `make setup-tf`), "
            "or name the one you have"
        )
    return str(python)
