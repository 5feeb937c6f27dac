"""Decode audio with libsndfile. Suffixes: N frames, C channels."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile

from voxshard.audio.sources import Source
from voxshard.errors import EmptyAudioError, TooShortError, TruncatedAudioError, UnreadableAudioError

_BLOCK_SAMPLES = 1 << 24
"""Largest array (64 MiB) that is allocated before its samples are read: a damaged header can promise any length."""
_BLOCK_OF_UNKNOWN = 1 << 18
_BLOCK_OF_TRUNCATED = 1 << 10
_MIN_RATE, _MAX_RATE = 100, 10_000_000
"""A header with a sample rate beyond these, in Hz, is damaged; resampling by it would need all the memory there is."""
_MAX_FRAMES_PER_BYTE = 10_000
"""More than the best coding of silence: FLAC's largest block, 65,535 samples, takes about 10 bytes."""
_MPEG_SLACK = 2 * 1152
"""Frames by which an MPEG file may fall short of its own count: encoders differ in counting the first and the last."""
_SPAN_SLACK_S = 0.01
"""Seconds by which a span may end beyond the recording: lists of segments are rounded, usually to hundredths of a
second."""
_UNCHECKED = ("svx", "mat4", "mat5", "mpc2k", "avr", "paf", "pvf", "ircam", "wve", "xi")
"""Formats whose size libsndfile does not compare with that of the file."""


@dataclass(frozen=True)
class Span:
    """Requested part of a recording; None stands for the start, the end, or any length."""

    start_s: float | None = None
    end_s: float | None = None
    at_most_s: float | None = None

    def frames(self, sample_rate: int) -> tuple[int, int | None]:
        """Return the first frame, and the one after the last."""
        first = round((self.start_s or 0.0) * sample_rate)
        last = None if self.end_s is None else round(self.end_s * sample_rate)
        if first < 0 or (last is not None and last <= first):
            raise EmptyAudioError(f"no samples between start_s {self.start_s} and end_s {self.end_s}")
        return first, last

    def check(self, num_frames: int, sample_rate: int) -> None:
        """Check that the span is within a recording of `num_frames`."""
        first, last = self.frames(sample_rate)
        if first >= num_frames or (last is not None and last > num_frames + _SPAN_SLACK_S * sample_rate):
            end = "its end" if self.end_s is None else f"{self.end_s:.3f} s"
            raise TooShortError(
                f"the span from {self.start_s or 0.0:.3f} s to {end} is beyond the end of the recording, "
                f"which is {num_frames / sample_rate:.3f} s long"
            )


WHOLE = Span()


class StreamFacts(NamedTuple):
    """Facts that the header of an audio file states."""

    sample_rate: int
    num_channels: int
    num_frames: int | None
    """Number of frames per channel; None if only decoding shows it."""
    format: str

    @property
    def warning(self) -> str | None:
        """Warning about recordings in this format."""
        if self.format not in _UNCHECKED:
            return None
        return f"the length of {self.format.upper()} files is not checked: the end may be missing, or be other bytes"


class Part(NamedTuple):
    """One stream for libsndfile: a recording, or one of several in a file."""

    source: Source
    num_frames: int | None = None
    """Number of frames per channel; None: the number that libsndfile counts."""
    num_late: int = 0
    """Number of frames at the start that are encoder delay and are left out."""
    can_seek: bool = True
    is_noisy: bool = False
    """Whether its decoder prints messages to the terminal."""
    facts: StreamFacts | None = None
    """Facts from its header, if they are known already."""


class Decoded(NamedTuple):
    """Samples of one recording, or of a span of it, as they were stored."""

    samples_NC: npt.NDArray[np.float32]
    sample_rate: int
    format: str
    warning: str | None = None
    """Irregularity of a recording that was decoded nevertheless."""


class _Stream(soundfile.SoundFile):  # type: ignore[misc]
    """Without the seek that soundfile makes after every read; it fails in FLAC files that do not state their length."""

    def seekable(self) -> bool:
        return False


class CannotOpenError(UnreadableAudioError):
    """libsndfile does not recognize the format; another decoder may."""


def facts(part: Part) -> StreamFacts:
    """Return what the header states.

    Raises
    ------
    CannotOpenError, TruncatedAudioError, UnreadableAudioError
    """
    if part.facts is not None:
        return part.facts
    with _terminal(part), _open(part) as stream:
        return _facts(stream, part)


def decode(part: Part, span: Span = WHOLE, *, accept_truncated: bool = False) -> Decoded:
    """Decode the frames of a span; seek to it if the format can do that exactly.

    Parameters
    ----------
    accept_truncated : a recording that ends early is decoded up to there, with a warning.

    Raises
    ------
    CannotOpenError : not a format of libsndfile.
    UtteranceError : a verdict on the content.
    """
    with _terminal(part), _open(part) as stream:
        about = _facts(stream, part)
        rate = about.sample_rate
        first, last = span.frames(rate)
        if about.num_frames is not None:
            span.check(about.num_frames, rate)
        ends = [end for end in (last, about.num_frames) if end is not None]
        if span.at_most_s is not None:
            ends.append(first + round(span.at_most_s * rate))
        wanted = min(ends) - first if ends else None
        blocks: list[npt.NDArray[np.float32]] = []
        warning = about.warning
        try:
            _skip(stream, part.num_late, about)
            # Seeks fail beyond the end of what does not state its length; in Ogg they land on wrong samples near the
            # end (Vorbis) or lack the run-up (Opus).
            if first and (about.num_frames is None or about.format == "ogg" or not part.can_seek):
                first = _skip(stream, first, about)
            elif first:
                stream.seek(first)
            # What was decoded before a fault is kept only block by block.
            for block in _blocks(stream, wanted, about, _BLOCK_OF_TRUNCATED if accept_truncated else None):
                blocks.append(block)
        except soundfile.LibsndfileError as exc:
            warning = f"truncated or damaged: decoding stops before the end ({_reason(exc)})"
            if not accept_truncated or not blocks:
                raise TruncatedAudioError(warning) from exc
    samples_NC = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    found = len(samples_NC)
    if about.num_frames is None:
        if found == 0 and first == 0:
            raise EmptyAudioError("no samples in it")
        if wanted is None or found < wanted:
            span.check(first + found, rate)
    elif wanted is not None and found < wanted - (_MPEG_SLACK if about.format == "mp3" else 0):
        warning = (
            f"truncated: its header states {about.num_frames / rate:.3f} s, "
            f"the samples end at {(first + found) / rate:.3f} s"
        )
        if not accept_truncated or found == 0:
            raise TruncatedAudioError(warning)
    return Decoded(samples_NC, rate, about.format, warning)


def _open(part: Part) -> _Stream:
    try:
        return _Stream(part.source.for_libsndfile(), closefd=False)
    except soundfile.LibsndfileError as exc:
        raise CannotOpenError(f"not audio that libsndfile can read ({_reason(exc)})") from exc


def _facts(stream: _Stream, part: Part) -> StreamFacts:
    name = stream.format.lower()
    if stream.frames == 0:
        raise EmptyAudioError("no samples in it, only a header")
    if name == "sds":
        raise UnreadableAudioError("a MIDI sample dump, whose length libsndfile does not check: convert it to WAV")
    if not _MIN_RATE <= stream.samplerate <= _MAX_RATE:
        raise UnreadableAudioError(f"damaged header: a sample rate of {stream.samplerate} Hz")
    if sys.maxsize > stream.frames > _MAX_FRAMES_PER_BYTE * part.source.num_bytes:
        raise UnreadableAudioError(f"damaged header: {stream.frames} samples in {part.source.num_bytes} bytes")
    num_frames = stream.frames if stream.frames < sys.maxsize else None
    if part.num_frames is not None:
        num_frames = part.num_frames - part.num_late
    return StreamFacts(stream.samplerate, stream.channels, num_frames, name)


class _Quiet(AbstractContextManager[None]):
    """Context in which nothing reaches standard error; libmpg123 prints notes that name no file."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_users = 0
        self._null = self._real = -1  # opened once: such calls are slow next to decoding a second of sound

    def __enter__(self) -> None:
        with self._lock:
            if self._num_users == 0:
                if self._null < 0:
                    self._null, self._real = os.open(os.devnull, os.O_WRONLY), os.dup(2)
                else:
                    os.dup2(2, self._real, inheritable=False)
                os.dup2(self._null, 2)
            self._num_users += 1

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._num_users -= 1
            if self._num_users == 0:
                os.dup2(self._real, 2)


_QUIET = _Quiet()
_AS_IS = nullcontext()


def _terminal(part: Part) -> AbstractContextManager[None]:
    return _QUIET if part.is_noisy else _AS_IS


def _reason(exc: soundfile.LibsndfileError) -> str:
    return exc.error_string.removeprefix("Error : ").rstrip(".") or f"libsndfile error {exc.code}"


def _skip(stream: _Stream, num_frames: int, about: StreamFacts) -> int:
    """Decode and drop up to `num_frames` frames, and return their number."""
    return sum(len(block) for block in _blocks(stream, num_frames, about))


def _blocks(
    stream: _Stream, wanted: int | None, about: StreamFacts, largest: int | None = None
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield blocks (N, C) of up to `wanted` frames from the current position; all remaining frames if None."""
    if largest is None:
        largest = max(1, _BLOCK_SAMPLES // about.num_channels) if wanted is not None else _BLOCK_OF_UNKNOWN
    remaining = sys.maxsize if wanted is None else wanted
    while remaining > 0:
        num_frames = min(remaining, largest)
        block = stream.read(num_frames, dtype="float32", always_2d=True)
        yield block
        remaining -= len(block)
        if len(block) < num_frames:
            break
