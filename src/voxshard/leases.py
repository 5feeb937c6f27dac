"""Leases: small files that ask other processes to keep off something for a while.

A lease is advice: a lost, stale or doubled one costs work, never correctness. Locks of the kernel are not used, since
those of parallel file systems fail in their own ways.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from voxshard import files

STALE_AFTER_S = 300.0
"""A lease not touched for so long has lost its owner (heartbeats come once a minute)."""


def take(path: Path) -> bool:
    """Write a lease, unless a living process has it; if two try at the same moment, one gets it.

    The lease appears with its content: an empty one, left by a task that was killed while it wrote, would block the
    shard until it is stale.
    """
    owner = json.dumps({"host": files.host_name(), "boot": files.boot_id(), "pid": os.getpid()})
    if path.exists():
        if is_held(path):
            return False
        path.unlink(missing_ok=True)
    temporary = files.temp_path_for(path)
    try:
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        try:
            os.write(descriptor, owner.encode())
        finally:
            os.close(descriptor)
        return files.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def is_held(path: Path) -> bool:
    """Whether a living process has this lease, as far as can be determined."""
    try:
        age_s = files.age_s(path)
    except OSError:
        return False
    try:
        owner = json.loads(path.read_text())
        if files.is_dead(owner["host"], owner["boot"], owner["pid"]):
            return False
    except (OSError, ValueError, KeyError, TypeError):
        pass  # another host's boot, or damaged: its age decides
    return abs(age_s) < STALE_AFTER_S  # a time far in the future is of a wrong clock, and would never pass
