"""Unexpected exceptions: either a fault of the machine, or a bug to report."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from voxshard import __version__
from voxshard.files import without_temporary

_NO_RESOURCES = (
    "can't start new thread",
    "failed to launch worker thread",
    "unable to allocate",
    "failed to map segment",
    "cannot allocate memory",
)
"""Lower-case parts of messages with which libraries that know no MemoryError report that there is none left."""


def of_the_machine(error: BaseException) -> str | None:
    """Return the message for an exception that the machine caused; None if it is a bug.

    The machine is at fault where memory, threads or a package are missing, or the operating system refused something.
    """
    text = str(error).lower()
    if isinstance(error, MemoryError) or any(part in text for part in _NO_RESOURCES):
        return (
            f"out of memory ({_one_line(error) or 'MemoryError'}); what is finished is kept. Give the job more memory "
            "(--mem, `ulimit -v`) or less to do at a time (--workers, --batch-seconds), and run the same command again"
        )
    if isinstance(error, ImportError) and not _is_ours(error.name):
        return (
            f"a package cannot be imported: {_one_line(error)}; install it where voxshard is installed "
            "(`voxshard doctor` names the extra it belongs to), and run the same command again"
        )
    if isinstance(error, OSError) and error.errno is not None:
        path = error.filename2 or error.filename
        named = isinstance(path, str | bytes)
        what = f"{without_temporary(os.fsdecode(path))}: {error.strerror}" if named else _one_line(error)
        return f"{what}; check the path, its permissions and the disk, and run the same command again"
    return None


def write(error: BaseException, arguments: Sequence[str]) -> str:
    """Write the traceback to a file in the current folder, else in the temporary one; return the line to print."""
    name = f"voxshard-bug-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.getpid()}.txt"
    text = "\n".join(
        (
            f"voxshard {__version__}, Python {platform.python_version()}, {platform.platform()}",
            f"arguments: {shlex.join(arguments)}",
            "".join(traceback.format_exception(error)),
        )
    )
    what = f"this is a bug in voxshard, please report it: {type(error).__name__}: {_one_line(error)}"
    for folder in (Path.cwd, lambda: Path(tempfile.gettempdir())):
        try:
            path = folder() / name
            with open(path, "x", encoding="utf-8", errors="backslashreplace") as stream:
                stream.write(text)
        except OSError:
            continue
        return f"{what}; the traceback is in {path}"
    sys.stderr.write(text)
    return f"{what}; the traceback is above, since no file could be written"


def _is_ours(module: str | None) -> bool:
    return (module or "").partition(".")[0] == "voxshard"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
