"""Keep the working folder out of Python's search path while voxshard runs as a program.

A user's random.py or numpy.py there would be imported in the place of the real one, and the folder wandb/ that Weights
& Biases leaves behind in the place of its package. Imports nothing that such a file could replace.
"""

import os
import sys


def leave_out_working_folder() -> None:
    """Remove the working folder from `sys.path`, and from $PYTHONPATH for child processes, unless it is named there.

    `python -m` puts it first; an empty entry of $PYTHONPATH (`export PYTHONPATH=$PYTHONPATH:/my/code`) means it, too.
    Does nothing in a program that only imports voxshard.
    """
    if not _is_program():
        return
    if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and sys.path:
        del sys.path[0]
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if "" not in entries or entries == [""]:
        return
    named = [entry for entry in entries if entry]
    os.environ["PYTHONPATH"] = os.pathsep.join(named)
    try:
        here = os.getcwd()  # noqa: PTH109 (pathlib imports what a file here could replace)
    except FileNotFoundError:
        return
    if here not in [os.path.abspath(entry) for entry in named]:  # noqa: PTH100
        sys.path[:] = [entry for entry in sys.path if entry not in ("", here)]


def _is_program() -> bool:
    """Whether this process is `voxshard`, or `python -m voxshard` or one of its modules."""
    if sys.argv[:1] == ["-m"]:
        words = sys.orig_argv
        module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
        return module.partition(".")[0] == "voxshard"
    return bool(sys.argv) and os.path.basename(sys.argv[0]) == "voxshard"  # noqa: PTH119
