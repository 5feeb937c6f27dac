"""The command line and the environment that run a program in an Apptainer or SingularityCE image."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from voxshard.config import Settings
from voxshard.encoders.weight_files import WEIGHTS_VARIABLE
from voxshard.errors import BackendUnavailableError, StorageFullError
from voxshard.runtime import binds
from voxshard.runtime.binds import RequiredPath

FAILED_TO_START = 255
"""Exit code of the container program itself; its FATAL line says why."""
MIN_FREE_BYTES = 32 << 20
"""In the folder for temporary files: for decoders, and for what the container program unpacks."""
DEVICES = Path("/dev")
_PROGRAMS = ("apptainer", "singularity")
ENVIRONMENT_PREFIXES = ("APPTAINERENV_", "SINGULARITYENV_")
"""Of variables that these hand on to what they run."""
_OWN_CACHE = "/voxshard-cache"
"""A folder in memory, of one run alone."""
_PASSED = re.compile(
    r"(SLURM|VOXSHARD|HF|TRANSFORMERS|TORCH|PYTORCH|TF|XLA|NCCL|CUDA|NVIDIA|ROCR|HIP|MIOPEN|OMP|MKL|OPENBLAS|WANDB"
    r"|AWS|FSSPEC|GOOGLE)_\w+|GPU_DEVICE_ORDINAL|NUMBA_NUM_THREADS|(http|https|no|HTTP|HTTPS|NO)_(proxy|PROXY)|TERM|COLUMNS|NO_COLOR"
)
_FOLDERS = (WEIGHTS_VARIABLE, "TMPDIR", "SLURM_TMPDIR", "HF_HOME")
"""Variables that name a folder: it is shown if it exists."""


class Container(Settings):
    """How images are run."""

    program: str | None = None
    """apptainer or singularity; null: whichever is on PATH."""
    module: str | None = None
    """Environment module that provides it."""
    gpu_flag: str | None = None
    """E.g. --nv or --rocm; null: by the GPU. Passed on nodes that have one."""
    binds: tuple[str, ...] = ()
    """Folders that jobs need to see beside their own; behind a link its target is shown too."""
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
    """How a program is run in an image, on this node.

    Parameters
    ----------
    words : the program and its arguments.
    needs : what it uses, besides the current folder, the site's binds and $VOXSHARD_WEIGHTS.
    environment : variables to set inside. Of our own those of SLURM, GPUs, threads, model hubs and the like pass; all
        of `APPTAINERENV_NAME` do.
    cache : folder for what libraries compile and keep, since $HOME is not shown; None: one in memory, for this run.

    Returns
    -------
    The command line, and variables to add to our environment: they carry those inside.

    Raises
    ------
    BackendUnavailableError : no container program.
    EnvironmentProblemError : a folder to show is not there.
    StorageFullError : no room for temporary files.
    """
    program = program_of(container)
    _check_temporary_space()
    cwd = os.getenv("PWD", "")
    cwd = cwd if cwd and Path(cwd).is_dir() and Path(cwd).samefile(".") else str(Path.cwd())
    of_variables = [
        need
        for name in _FOLDERS
        if (value := os.environ.get(name)) and Path(value).is_dir()
        for need in binds.needed(value, f"${name}")
    ]
    here = [] if cwd == "/" else [RequiredPath(Path(cwd), "the current folder")]
    kept = [] if cache is None else [RequiredPath(cache, "compiled code")]
    shown = binds.folders([*of_site(container), *here, *of_variables, *needs, *kept])
    line = [program, "exec", "--cleanenv", "--no-home", "--pwd", cwd, *gpu_flags(container)]
    line += [] if cache else ["--scratch", _OWN_CACHE]
    line += [*(word for place in shown for word in _bind(place)), *container.options]
    inside = {
        **dict.fromkeys(("PYTHONNOUSERSITE", "PYTHONSAFEPATH", "PYTHONUNBUFFERED"), "1"),
        **dict.fromkeys(("XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "MPLCONFIGDIR"), str(cache or _OWN_CACHE)),
        **_passed(),
        **environment,
    }
    return [*line, str(image), *words], {f"{_prefix(program)}{name}": value for name, value in inside.items()}


def of_site(container: Container) -> list[RequiredPath]:
    """The folders every image is shown on a site."""
    return [need for path in container.binds for need in binds.needed(os.path.expandvars(path), "container.binds")]


def program_of(container: Container) -> str:
    """The container program that is there.

    Raises
    ------
    BackendUnavailableError : none is.
    """
    names = [container.program] if container.program else _PROGRAMS
    for name in names:
        if shutil.which(name):
            return name
    mend = f"`module load {container.module}`" if container.module else "load its module, or ask the site"
    where = "container.program of the site says which one is meant" if container.program else "either will do"
    raise BackendUnavailableError(
        f"images need {' or '.join(names)}, not on PATH on {os.uname().nodename}; {mend} ({where})"
    )


def _check_temporary_space() -> None:
    places = {os.environ.get("APPTAINER_TMPDIR") or tempfile.gettempdir(), tempfile.gettempdir()}
    for place in sorted(places):
        free = os.statvfs(place)
        if free.f_bavail * free.f_frsize < MIN_FREE_BYTES:
            raise StorageFullError(
                f"{place}: {free.f_bavail * free.f_frsize / 1e6:,.0f} MB free on {os.uname().nodename}, an image needs "
                f"{MIN_FREE_BYTES / 1e6:,.0f} for temporary files; free some, or set TMPDIR to a folder with room"
            )


def gpu_flags(container: Container) -> list[str]:
    """The flag that shows the node's GPUs; none on a node without."""
    has_nvidia = any(DEVICES.glob("nvidia[0-9]*"))
    has_amd = (DEVICES / "kfd").exists()
    if not (has_nvidia or has_amd):
        return []
    return [container.gpu_flag or ("--nv" if has_nvidia else "--rocm")]


def _bind(place: Path) -> list[str]:
    text = str(place)
    if not re.search(r'[:,\\"]', text):
        return ["--bind", text]
    # --bind splits at commas and colons; --mount takes a line of CSV.
    quoted = text.replace('"', '""')
    return ["--mount", f'type=bind,"source={quoted}","destination={quoted}"']


def _passed() -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if _PASSED.fullmatch(name)}
    if (folder := os.environ.get("TMPDIR")) and Path(folder).is_dir():
        found["TMPDIR"] = folder
    return found


def _prefix(program: str) -> str:
    """Of variables that the program hands on. `--env` would split at commas, and node lists hold some."""
    real = Path(shutil.which(program) or program).resolve().name
    return ENVIRONMENT_PREFIXES[0 if real.startswith("apptainer") else 1]
