"""The command line that runs Python in an Apptainer or SingularityCE image: program, folders, variables, GPU, digest.

This file alone decides what an image sees. `voxshard run`, `submit` and `doctor` import it; the plain scripts in slurm/
run it with the node's own python3, which may be old and has no voxshard. It therefore imports the standard library
only, and works with Python 3.9:

    python3 image_command.py IMAGE [--folder PATH]... [--result PATH]... -- WORDS

replaces itself by `python WORDS` in the image. It ends with exit code 4 and one line if that is not possible.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import struct
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

PROGRAMS = ("apptainer", "singularity")
ENVIRONMENT_PREFIXES = ("APPTAINERENV_", "SINGULARITYENV_")
"""Apptainer and SingularityCE hand on variables that start with these, without the prefix."""
RESERVED_IMAGE_DIRS = tuple(map(Path, ("/opt/venv", "/usr", "/etc", "/dev", "/proc", "/sys")))
PASSED = re.compile(
    r"(SLURM|VOXSHARD|HF|TRANSFORMERS|TORCH|PYTORCH|TF|XLA|NCCL|CUDA|NVIDIA|ROCR|HIP|MIOPEN|OMP|MKL|OPENBLAS|WANDB"
    r"|AWS|FSSPEC|GOOGLE|CLOUDSDK|STORAGE_EMULATOR)_\w+|GPU_DEVICE_ORDINAL|NUMBA_NUM_THREADS|(http|https|no|HTTP|HTTPS|NO)_(proxy|PROXY)|TERM|COLUMNS|NO_COLOR"
)
"""Variables of ours that are set in the image, too."""
FOLDER_VARIABLES = (
    "VOXSHARD_WEIGHTS", "VOXSHARD_CACHE", "TMPDIR", "SLURM_TMPDIR", "HF_HOME", "CUDA_CACHE_PATH",
    "GOOGLE_APPLICATION_CREDENTIALS",
)  # fmt: skip
"""Variables that name a folder or a file. It is bound if it exists."""
DIGEST_VARIABLE = "VOXSHARD_IMAGE_DIGEST"
"""Shards record the image that wrote them by the value of this variable."""
DEVICES = Path("/dev")
_MEMORY_CACHE = "/voxshard-cache"
"""A folder in memory that lasts as long as the program."""
_MAX_LINKS = 40
"""Linux follows at most this number of symbolic links in one path."""
_SIF_MAGIC = b"SIF_MAGIC"
_SIF_HEADER = struct.Struct("<112x2q")
"""The end of a SIF file's header: where the data begin, and their number of bytes (sylabs/sif, pkg/sif: `header`)."""
_HEAD_BYTES = 64 << 10
_NOTE_LINE = re.compile(r"([0-9a-f]{64})\s")
_LABELS = Path(".singularity.d") / "labels.json"

Needed = tuple[Path, str]
"""A path that a program uses, and the setting that names it."""


class ImageError(Exception):
    """An image, or the program that runs images, is missing or not usable."""


class BindError(Exception):
    """A path cannot be bound."""


def exec_line(
    image: Path,
    words: Sequence[str],
    *,
    program: str,
    gpu_flags: Sequence[str],
    needed: Iterable[Needed],
    environment: Mapping[str, str],
    cache: Path | None = None,
    options: Sequence[str] = (),
) -> tuple[list[str], dict[str, str]]:
    """Return the command line that runs a program in an image, and the variables to add to our environment for it.

    Parameters
    ----------
    words : the program and its arguments.
    program : apptainer or singularity.
    needed : paths to bind, in addition to the current folder and those of `FOLDER_VARIABLES`.
    environment : variables to set in the image. Variables of ours that match `PASSED` are set, too.
    cache : folder for what libraries compile, since $HOME is not bound; None: a folder in memory.
    options : further options of the program.

    Raises
    ------
    BindError : a path does not exist or would hide files of the image.
    """
    cwd = _current_folder()
    wanted = [] if cwd == "/" else [(Path(cwd), "the current folder")]
    for name in FOLDER_VARIABLES:
        value = os.environ.get(name)
        if value and Path(value).is_dir():
            wanted.append((Path(os.path.abspath(value)), f"${name}"))  # noqa: PTH100
    wanted += needed
    if cache is not None:
        wanted.append((cache, "compiled code"))
    line = [program, "exec", "--cleanenv", "--no-home", "--pwd", cwd, *gpu_flags]
    line += [] if cache else ["--scratch", _MEMORY_CACHE]
    line += [*(word for place in folders(wanted) for word in _bind(place)), *options]
    inside = {
        **dict.fromkeys(("PYTHONNOUSERSITE", "PYTHONSAFEPATH", "PYTHONUNBUFFERED"), "1"),
        **dict.fromkeys(("XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "MPLCONFIGDIR"), str(cache or _MEMORY_CACHE)),
        "CUDA_CACHE_PATH": f"{cache or _MEMORY_CACHE}/cuda",
        **_passed(),
        **environment,
    }
    prefix = _prefix(program)
    return [*line, str(image), *words], {f"{prefix}{name}": value for name, value in inside.items()}


def find_program(names: Sequence[str] = PROGRAMS) -> str | None:
    """Return the first of these container programs that is on PATH."""
    return next((name for name in names if shutil.which(name)), None)


def gpu_flags(flag: str | None = None) -> list[str]:
    """Return the option that makes the node's GPUs available in an image; none on a node without a GPU."""
    has_nvidia = any(DEVICES.glob("nvidia[0-9]*"))
    has_amd = (DEVICES / "kfd").exists()
    if not (has_nvidia or has_amd):
        return []
    return [flag or ("--nv" if has_nvidia else "--rocm")]


def folders(needed: Iterable[Needed]) -> list[Path]:
    """Return the paths to bind: real paths before links to them, a folder before its subfolders, none twice.

    Where /projects/x is a link into /gpfs, an image to which only one of the two is bound does not have the other.
    Therefore each path is bound by every name on the way to its real one.

    Raises
    ------
    BindError : a path does not exist or would hide files of the image.
    """
    wanted: set[Path] = set()
    for given, what in needed:
        path = Path(os.path.normpath(given))
        if not path.exists():
            raise BindError(
                f"{path} ({what}): does not exist on {os.uname().nodename}, so it cannot be shown to an image"
            )
        for place in names_of(path):
            if any(part.is_relative_to(place) for part in RESERVED_IMAGE_DIRS):
                raise BindError(
                    f"{place} ({what}): to bind it would hide the image's own files; name a folder below it"
                )
            wanted.add(place)
    bound: list[Path] = []
    for place in sorted(wanted, key=lambda place: (place != place.resolve(), len(place.parts), place)):
        if not is_bound(place, bound):
            bound.append(place)
    return bound


def names_of(path: Path) -> list[Path]:
    """Return every name that leads to a path: its own, one for each symbolic link on the way, its real one last."""
    names = [path]
    while len(names) < _MAX_LINKS:
        last = names[-1]
        link = next((place for place in (*reversed(last.parents), last) if place.is_symlink()), None)
        if link is None:
            break
        target = link.parent / link.readlink()
        names.append(Path(os.path.normpath(target / last.relative_to(link))))
    return list(dict.fromkeys(names))


def is_bound(path: Path, bound: Iterable[Path]) -> bool:
    """Return whether a path, by this name, is in one of the bound folders."""
    return any(path.is_relative_to(place) for place in bound)


def check(image: Path) -> None:
    """Raise ImageError, with what was found instead, unless this is a complete SIF file or an unpacked image."""
    remedy = "build it (`make image-pytorch`, `make image-tensorflow`), or copy it here (docs/images.md)"
    try:
        if image.is_dir():
            if not (image / _LABELS.parent).is_dir():
                raise ImageError(f"image {image}: a folder, but no unpacked image; {remedy}")
            return
        with open(image, "rb") as stream:
            head = stream.read(_SIF_HEADER.size)
            num_bytes = stream.seek(0, os.SEEK_END)
    except FileNotFoundError as exc:
        raise ImageError(f"image {image}: no such file; {remedy}") from exc
    except OSError as exc:
        raise ImageError(f"image {image}: cannot be read: {exc.strerror}; {remedy}") from exc
    if len(head) < _SIF_HEADER.size or _SIF_MAGIC not in head:
        raise ImageError(f"image {image}: not a SIF file; {remedy}")
    wanted = sum(_SIF_HEADER.unpack(head))
    if num_bytes < wanted:
        raise ImageError(f"image {image}: {num_bytes:,} of {wanted:,} bytes, an incomplete copy; {remedy}")


def digest(image: Path, notes: Path | None = None) -> str:
    """Return `sha256:...` of a SIF file, or of an unpacked image's labels, which record when it was built.

    Hashing gigabytes takes a while. Therefore `IMAGE.sha256` keeps the sum, in the format of sha256sum, and in a
    comment below it what distinguishes this image from others. The times of the two files decide nothing.

    Parameters
    ----------
    notes : folder for that file if the folder of the image is not writable.
    """
    if image.is_dir():
        labels = image / _LABELS
        return f"sha256:{_sha256_of(labels)}" if labels.exists() else "sha256:unknown"
    name = f"{image.name}.sha256"
    mark = _mark_of(image)
    places = [image.with_name(name), *([] if notes is None else [notes / name])]
    for place in places:
        try:
            note = place.read_text()
            match = _NOTE_LINE.match(note)
            if match and mark in note.splitlines():
                return f"sha256:{match[1]}"
        except (OSError, UnicodeDecodeError):
            continue
    sum_of_image = _sha256_of(image)
    for place in places:
        try:
            _publish(place, f"{sum_of_image}  {image.name}\n{mark}\n")
        except OSError:
            continue
        break
    return f"sha256:{sum_of_image}"


def _mark_of(image: Path) -> str:
    """A line that differs for every build: the size, and a digest of the first bytes, which hold the image's UUID and
    the time of its build (sylabs/sif, pkg/sif: `type header`)."""
    with open(image, "rb") as stream:
        head = hashlib.sha256(stream.read(_HEAD_BYTES)).hexdigest()
    return f"# of {image.stat().st_size} bytes that begin with {head}"


def _sha256_of(path: Path) -> str:
    sum_of_file = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(8 << 20), b""):
            sum_of_file.update(block)
    return sum_of_file.hexdigest()


def _publish(target: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=target.parent, prefix=f"{target.name}.")
    try:
        with open(descriptor, "w") as stream:
            stream.write(text)
        os.chmod(draft, 0o644)  # noqa: PTH101
        os.replace(draft, target)
    except BaseException:
        os.unlink(draft)  # noqa: PTH108
        raise


def _current_folder() -> str:
    """Return the current folder by the name the user has for it, which may contain links."""
    cwd = os.environ.get("PWD", "")
    return cwd if cwd and Path(cwd).is_dir() and Path(cwd).samefile(".") else os.getcwd()  # noqa: PTH109


def _bind(place: Path) -> list[str]:
    text = str(place)
    if not re.search(r'[:,\\"]', text):
        return ["--bind", text]
    # --bind splits at commas and colons; --mount takes a line of CSV.
    quoted = text.replace('"', '""')
    return ["--mount", f'type=bind,"source={quoted}","destination={quoted}"']


def _passed() -> dict[str, str]:
    passed = {name: value for name, value in os.environ.items() if PASSED.fullmatch(name)}
    folder = os.environ.get("TMPDIR")
    if folder and Path(folder).is_dir():
        passed["TMPDIR"] = folder
    return passed


def _prefix(program: str) -> str:
    """Return the prefix of variables that the program hands on. Its option `--env` would split node lists at commas."""
    real = Path(shutil.which(program) or program).resolve().name
    return ENVIRONMENT_PREFIXES[0 if real.startswith("apptainer") else 1]


def _parent_that_exists(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())


def main(words: Sequence[str]) -> None:
    """Replace this process by `python WORDS` in an image."""
    parser = argparse.ArgumentParser(description="Run Python in an image.", allow_abbrev=False)
    parser.add_argument("image", type=Path)
    parser.add_argument("--folder", type=Path, action="append", default=[], help="a folder or file that must be bound")
    parser.add_argument("--result", type=Path, action="append", default=[], help="a path that may not exist yet")
    own, program_words = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    given = parser.parse_args(own)
    needed = [(Path(os.path.abspath(path)), "BINDS") for path in given.folder]  # noqa: PTH100
    results = [_parent_that_exists(Path(os.path.abspath(path))) for path in given.result]  # noqa: PTH100
    needed += [(path, "results") for path in results if path != Path("/")]
    program = find_program()
    try:
        check(given.image)
        if program is None:
            names = " and no ".join(PROGRAMS)
            raise ImageError(f"no {names} on PATH on {os.uname().nodename}; load its module")
        line, carried = exec_line(
            given.image, ["python", *program_words], program=program, gpu_flags=gpu_flags(), needed=needed,
            environment={DIGEST_VARIABLE: digest(given.image)},
        )  # fmt: skip
    except (ImageError, BindError) as exc:
        print(exc, file=sys.stderr)
        sys.exit(4)
    os.environ.update(carried)
    os.execvp(line[0], line)


if __name__ == "__main__":
    main(sys.argv[1:])
