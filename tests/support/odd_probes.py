"""Things that can happen to a process that probes; importable in a fresh one."""

from __future__ import annotations

import os
from pathlib import Path

from voxshard.corpora.headers import Row, Source


def count_bytes(source: Source, headers: bool) -> Row:
    return 1.0, 8000, 1, len(os.fsencode(source)), None, "wav", None


def die_on_bad(source: Source, headers: bool) -> Row:
    """As a decoder that crashes on one file."""
    if b"bad" in os.fsencode(source):
        os._exit(13)
    return count_bytes(source, headers)


def fail_on_bad(source: Source, headers: bool) -> Row:
    """As a file system that fails."""
    if b"bad" in os.fsencode(source):
        raise OSError(5, "Input/output error")
    return count_bytes(source, headers)


def note_pid_and_wait(source: Source, headers: bool) -> Row:
    """As storage that hangs; leaves the process's number next to the source."""
    import time

    (Path(os.fsdecode(source)).parent / f"{os.getpid()}.pid").touch()
    time.sleep(600)
    return count_bytes(source, headers)
