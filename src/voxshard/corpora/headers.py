"""Probing the header of one recording. Light to import: every probing process does."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from voxshard import audio
from voxshard.audio.members import member_of
from voxshard.errors import MissingRecordingError, TransientFaultError, UnreadableAudioError, UtteranceError

_TRIES_AFTER_S = (0.5, 3.0)  # waits before trying again where the storage failed
# Refusals that trying again does not change: they are the file's, not the storage's.
_REFUSALS = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)

Source: TypeAlias = str | bytes
# duration_s, sample_rate, num_channels, num_bytes, problem, format, warning
Row: TypeAlias = tuple[float | None, int | None, int | None, int | None, str | None, str | None, str | None]
ProbeOne: TypeAlias = Callable[[Source, bool], Row]


def probe(source: Source, headers: bool) -> Row:
    """Probe one recording, local or at a URL (then without its size).

    Raises
    ------
    OSError : the storage failed, three times.
    """
    for wait_s in (*_TRIES_AFTER_S, None):
        num_bytes = None
        try:
            if not audio.is_url(source):
                member = member_of(source)
                num_bytes = member.num_bytes if member else os.stat(source).st_size  # noqa: PTH116  bytes, or odd text
            if not headers:
                _check_is_file(source)
                return None, None, None, num_bytes, None, None, None
            header = audio.probe(source)
            measured = (header.duration_s, header.sample_rate, header.num_channels, num_bytes)
            return *measured, None, header.format, header.warning
        except UtteranceError as exc:
            return None, None, None, num_bytes, reason(exc), None, None
        except FileNotFoundError:
            return None, None, None, None, reason(MissingRecordingError("no such file")), None, None
        except OSError as exc:
            if exc.errno in _REFUSALS:
                refused = UnreadableAudioError(f"cannot be opened: {exc.strerror}")
                return None, None, None, num_bytes, reason(refused), None, None
            if wait_s is None:
                raise
            time.sleep(wait_s)
    raise AssertionError("unreachable")


def _check_is_file(source: Source) -> None:
    if not audio.is_url(source) and not member_of(source) and not stat.S_ISREG(os.stat(source).st_mode):  # noqa: PTH116
        raise UnreadableAudioError("not a file but a folder, pipe, socket or device")


def reason(exc: UtteranceError) -> str:
    """Return the content of `problem` for a recording: the class of the error, as in errors.py, and its message."""
    known = next(base for base in type(exc).__mro__ if base.__module__ == UtteranceError.__module__)
    return f"{known.__name__}: {exc}"


def probe_many(root: str, paths: Sequence[Source], *, headers: bool, probe_one: ProbeOne) -> list[Row]:
    """Probe paths below a root, in order.

    Raises
    ------
    TransientFaultError : the storage failed; names the path.
    """
    rows = []
    for path in paths:
        try:
            rows.append(probe_one(audio.resolve(root, path), headers))
        except OSError as exc:
            raise TransientFaultError(
                f"{os.fsdecode(path)}: cannot be read: {exc.strerror or exc}; the storage below {root} fails, "
                "not the recording; run the same command again"
            ) from exc
    return rows
