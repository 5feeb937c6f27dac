"""Reading from storage that fails now and then, and distinguishing a missing file from missing storage."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path

from voxshard.audio.clip import ClipPolicy
from voxshard.audio.members import file_of
from voxshard.audio.reading import Clip, read_clip
from voxshard.audio.sources import AudioPath
from voxshard.errors import MissingObjectError, MissingRecordingError, UnreadableAudioError

RETRY_DELAYS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Waits between attempts to read a recording whose storage fails."""
_TRIES_IF_GONE = 2  # a file missing next to others is looked for again only so often: caches of network storage


def read_with_retries(
    path: AudioPath,
    *,
    sample_rate: int | None,
    clip: ClipPolicy,
    utterance_id: str,
    start_s: float | None = None,
    end_s: float | None = None,
    problem: str | None = None,
    retry_delays_s: Sequence[float] = RETRY_DELAYS_S,
) -> Clip:
    """Read a clip with `read_clip`, and retry while the storage fails.

    Parameters
    ----------
    problem : why the recording could not be read when it was probed: it is then not tried again.

    Raises
    ------
    UtteranceError : a verdict on the recording; MissingRecordingError: it is gone, its folder exists.
    OSError : the storage failed, after the last retry.
    """
    for attempt in itertools.count():
        try:
            return read_clip(
                path,
                sample_rate=sample_rate,
                clip=clip,
                utterance_id=utterance_id,
                start_s=start_s,
                end_s=end_s,
            )
        except OSError as exc:
            if problem is not None:  # known to be unreadable since prepare, and it still is
                kind = MissingRecordingError if isinstance(exc, FileNotFoundError) else UnreadableAudioError
                raise kind(f"{exc.strerror or exc}; prepare found: {problem}") from exc
            if isinstance(exc, MissingObjectError):
                raise MissingRecordingError("the object is gone, its bucket answers") from exc
            gone = isinstance(exc, FileNotFoundError) and _folder_exists(path)
            if gone and attempt >= min(_TRIES_IF_GONE, len(retry_delays_s)):
                raise MissingRecordingError("the file is gone, its folder exists") from exc
            if attempt >= len(retry_delays_s):
                raise
            time.sleep(retry_delays_s[attempt])
    raise AssertionError("unreachable")


def _folder_exists(path: AudioPath) -> bool:
    """Whether the real folder of a file exists and is not empty, so that the file alone is missing."""
    try:
        return any(Path(os.fsdecode(file_of(path))).resolve().parent.iterdir())
    except OSError:
        return False
