"""The command line and the environment that run a program in an Apptainer or SingularityCE image."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from voxshard.config import Settings
from voxshard.errors import BackendUnavailableError, EnvironmentProblemError, StorageFullError
from voxshard.runtime import binds, image_command
from voxshard.runtime.binds import RequiredPath

FAILED_TO_START = 255
"""Exit code of the container program itself; its FATAL line gives the reason."""
MIN_FREE_BYTES = 32 << 20
"""Free bytes needed in the folder for temporary files, by decoders and by what the container program unpacks."""


class Container(Settings):
    """How images are run on a site."""

    program: str | None = None
    """Program that runs images: apptainer or singularity; null: the one that is on PATH."""
    module: str | None = None
    """Environment module that provides the program."""
    gpu_flag: str | None = None
    """Option that makes GPUs available, e.g. --nv or --rocm; null: chosen by the GPU. Passed on nodes with a GPU."""
    binds: tuple[str, ...] = ()
    """Folders that jobs need to see in addition to their own; behind a link its target is shown too."""
    options: tuple[str, ...] = ()
    """Further options of the program, e.g. [--containall]."""


def command(
    container: Container,
    image: Path,
    words: Sequence[str],
    *,
    needs: Sequence[RequiredPath],
    environment: Mapping[str, str],
    cache: Path | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Return the command line that runs a program in an image on this node.

    Parameters
    ----------
    words : the program and its arguments.
    needs : what it uses, in addition to the current folder, the site's binds and $VOXSHARD_WEIGHTS.
    environment : variables to set inside. Of our own those of SLURM, GPUs, threads, model hubs and the like pass; all
        of `APPTAINERENV_NAME` do.
    cache : folder for what libraries compile and keep, since $HOME is not shown; None: one in memory, for this run.

    Returns
    -------
    The command line, and variables to add to our environment: they carry those inside.

    Raises
    ------
    BackendUnavailableError : no container program.
    EnvironmentProblemError : a folder to show does not exist.
    StorageFullError : no room for temporary files.
    """
    program = program_of(container)
    check_temporary_folders()
    try:
        return image_command.exec_line(
            image,
            words,
            program=program,
            gpu_flags=gpu_flags(container),
            needed=[(need.path, need.what) for need in [*of_site(container), *needs]],
            environment=environment,
            cache=cache,
            options=container.options,
        )
    except image_command.BindError as exc:
        raise EnvironmentProblemError(str(exc)) from exc


def of_site(container: Container) -> list[RequiredPath]:
    """Return the folders that are bound to every image on a site."""
    return [need for path in container.binds for need in binds.needed(os.path.expandvars(path), "container.binds")]


def program_of(container: Container) -> str:
    """Return the container program to use.

    Raises
    ------
    BackendUnavailableError : none is.
    """
    names = [container.program] if container.program else image_command.PROGRAMS
    program = image_command.find_program(names)
    if program is not None:
        return program
    remedy = f"`module load {container.module}`" if container.module else "load its module, or ask the site"
    where = "container.program of the site selects one" if container.program else "either will do"
    raise BackendUnavailableError(
        f"images need {' or '.join(names)}, not on PATH on {os.uname().nodename}; {remedy} ({where})"
    )


def absent_folders() -> Iterator[tuple[str, str]]:
    """Yield variable and path of the folders that the container program is asked to use and that do not exist."""
    for prefix in ("APPTAINER", "SINGULARITY"):
        for variable in (f"{prefix}_TMPDIR", f"{prefix}_CACHEDIR"):
            value = os.environ.get(variable)
            if value and not Path(value).is_dir():
                yield variable, value
        for variable in (f"{prefix}_BIND", f"{prefix}_BINDPATH"):
            for item in filter(None, os.environ.get(variable, "").split(",")):
                source = item.partition(":")[0]
                if not Path(source).exists():
                    yield variable, source
    for variable in ("TMPDIR", "HF_HOME", "XDG_CACHE_HOME"):
        value = os.environ.get(variable)
        if value and not Path(value).is_dir():
            yield variable, value


def check_temporary_folders() -> None:
    """Check that the folders for temporary files and binds exist and have room.

    Raises
    ------
    EnvironmentProblemError : a folder that a variable names does not exist.
    StorageFullError : no room.
    """
    absent = [(name, path) for name, path in absent_folders() if name.startswith(("APPTAINER", "SINGULARITY"))]
    if absent:
        (variable, path), *_ = absent
        raise EnvironmentProblemError(
            f"{path} (${variable}): does not exist on {os.uname().nodename}, so no image starts; make it, or unset "
            f"{variable}"
        )
    places = {os.environ.get("APPTAINER_TMPDIR") or tempfile.gettempdir(), tempfile.gettempdir()}
    for place in sorted(places):
        free = os.statvfs(place)
        if free.f_bavail * free.f_frsize < MIN_FREE_BYTES:
            raise StorageFullError(
                f"{place}: {free.f_bavail * free.f_frsize / 1e6:,.0f} MB free on {os.uname().nodename}, an image needs "
                f"{MIN_FREE_BYTES / 1e6:,.0f} for temporary files; free some, or set TMPDIR to a folder with room"
            )


def gpu_flags(container: Container) -> list[str]:
    """Return the option that makes the node's GPUs available; none on a node without a GPU."""
    return image_command.gpu_flags(container.gpu_flag)
