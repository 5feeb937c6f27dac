"""What of a file libsndfile is given, so that it decodes all of a recording and nothing else.

Each container is read by its own rules (chunks.py, ogg.py, mpeg.py). Most files are given as they are; where a header
is wrong in a known way, libsndfile gets the same samples behind a right one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from voxshard.audio import chunks, containers, mpeg, ogg
from voxshard.audio.sndfile import Part
from voxshard.audio.sources import Source
from voxshard.audio.views import Repeated, Rewritten
from voxshard.errors import TruncatedAudioError

_FLAC_HEADERS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")
"""A STREAMINFO block of 34 bytes is the first in every FLAC file (RFC 9639, section 8.2)."""
_FLAC_TAIL = 1 << 14
"""More than the decoder reads ahead (libFLAC: 8 KiB)."""
_MPEG_COUNT_SLACK = 2
"""Frames by which the number in a Xing header may be wrong: encoders differ in counting the first and the last."""
_LOOKED_THROUGH = 1 << 20
"""Bytes at the start in which MPEG frames are looked for."""
_SHORTEST_MPEG = 8
"""Frames in a row that make bytes of an unknown format an MPEG file."""
_MOST_REPEATS = 64


class Layout(NamedTuple):
    """The streams of one recording, one after the other."""

    parts: tuple[Part, ...]
    warnings: tuple[str, ...] = ()
    format: str | None = None
    """Container, where libsndfile would call it something else."""
    is_short: bool = False
    """Part of the recording is missing, which was accepted."""


def layout_of(source: Source, *, accept_truncated: bool = False, is_probe: bool = False) -> Layout:
    """Find out what libsndfile is to be given.

    Parameters
    ----------
    accept_truncated : bytes that are missing become a warning.
    is_probe : read as little as possible.

    Raises
    ------
    TruncatedAudioError : bytes are missing.
    """
    magic = source.head[:4]
    if magic == b"OggS":
        return _ogg(source, accept_truncated)
    if magic == b".snd" or magic == b"NIST":
        missing = containers.num_missing_bytes(source)
        warnings = _missing(missing, source, missing <= chunks.LARGEST_EXCESS or accept_truncated)
        return Layout((Part(source),), warnings, is_short=bool(missing))
    samples = chunks.samples_of(source)
    if samples is not None:
        return _chunked(source, samples, accept_truncated)
    if magic[:3] == b"ID3" or (magic[:1] == b"\xff" and containers.format_for_ffmpeg(source.head) is None):
        return _mpeg(source, is_probe=is_probe) or Layout((Part(source, is_noisy=True),))
    return Layout((Part(source),))


def _missing(num_bytes: int, source: Source, is_accepted: bool) -> tuple[str, ...]:
    if num_bytes == 0:
        return ()
    promise = f"its header promises {num_bytes} more bytes than the {source.num_bytes} there are"
    if not is_accepted:
        raise TruncatedAudioError(f"truncated: {promise}")
    return (promise,)


def _chunked(source: Source, samples: chunks.Samples, accept_truncated: bool) -> Layout:
    accepted = samples.is_small_excess or accept_truncated
    warnings = _missing(samples.excess, source, accepted) + samples.warnings
    if samples.is_mp3:
        content = source.read_at(samples.start, samples.end - samples.start)
        frames = mpeg.scan(content)
        if frames.parts:
            inner = _of_frames(content, frames, original=None)
            return Layout(inner.parts, warnings + inner.warnings, "wav", inner.is_short)
    part = Part(samples.source, samples.num_frames, can_seek=samples.num_frames is None)
    following = chunks.next_recording(source, samples)
    name = "wav" if samples.source is not source and source.head[:4] == b"RIFF" else None
    if following is None:
        return Layout((part,), warnings, name, bool(samples.excess))
    rest = layout_of(Rewritten(source, b"", following), accept_truncated=accept_truncated)
    first = Part(Source(source.read_at(0, following)), samples.num_frames)
    note = "several recordings one after the other, joined"
    return Layout((first, *rest.parts), (*warnings, note, *rest.warnings), name, rest.is_short)


def _ogg(source: Source, accept_truncated: bool) -> Layout:
    content = source.whole()
    pages = ogg.scan(content)
    warnings = _missing(pages.num_missing_bytes, source, accept_truncated)
    if pages.num_lost_pages:
        warnings += (f"{pages.num_lost_pages} Ogg pages are missing inside",)
    parts = []
    for link in pages.links:
        if link.end == link.start:
            continue
        is_all = len(pages.links) == 1 and link.end == source.num_bytes
        if not link.has_end_flag and link.is_opus:
            parts.append(Part(Source(ogg.with_end_flag(content, link))))
        else:
            parts.append(Part(source if is_all else Source(content[link.start : link.end])))
    if pages.links and not pages.links[-1].has_end_flag and not pages.num_missing_bytes:
        warnings += ("its last page is not marked as the last: the writer was stopped, or the end is missing",)
    if len(parts) > 1:
        warnings += (f"{len(parts)} recordings one after the other, joined",)
    return Layout(tuple(parts) or (Part(source),), warnings, is_short=bool(pages.num_missing_bytes))


def parts_of_flac(source: Source, num_bytes_read: int) -> Layout | None:
    """The recordings in a FLAC file that is several, one after the other; None where it is one.

    Parameters
    ----------
    num_bytes_read : how far the decoder read, which reads ahead, when it had all samples of the first.
    """
    start = max(4, num_bytes_read - _FLAC_TAIL)
    tail = source.read_at(start, source.num_bytes - start)
    if b"fLaC" not in tail or not any(header in tail for header in _FLAC_HEADERS):
        return None
    content = source.whole()
    starts = sorted({at for header in _FLAC_HEADERS for at in _all_offsets(content, header)})
    pieces = [content[a:b] for a, b in zip(starts, [*starts[1:], len(content)], strict=True)]
    return Layout(
        tuple(Part(Source(piece)) for piece in pieces), (f"{len(pieces)} recordings one after the other, joined",)
    )


def _all_offsets(content: bytes, word: bytes) -> list[int]:
    return [match.start() for match in re.finditer(re.escape(word), content)]


def mpeg_after_junk(source: Source) -> Layout | None:
    """An MPEG file whose first bytes are something else; None where it is none."""
    content = source.whole()
    frames = mpeg.scan(content)
    if sum(part.num_frames for part in frames.parts) < _SHORTEST_MPEG or frames.num_leading_bytes > _LOOKED_THROUGH:
        return None
    return _of_frames(content, frames, original=None)


def _mpeg(source: Source, *, is_probe: bool) -> Layout | None:
    if is_probe and _states_right_length(source):
        return Layout((Part(source, is_noisy=True),))
    content = source.whole()
    frames = mpeg.scan(content)
    if not frames.parts:
        return None
    return _of_frames(content, frames, original=source)


def _states_right_length(source: Source) -> bool:
    """Whether an MPEG file has a header whose numbers of frames and of bytes agree with the file's size."""
    offset = 0
    if source.head[:3] == b"ID3":
        size = source.head[6:10]
        offset = 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3])
    first = source.read_at(offset, 256)
    word = max(first.find(b"Xing"), first.find(b"Info"))
    if word < 0 or len(first) < word + 16 or first[word + 7] & 3 != 3:
        return False
    num_frames, num_bytes = (int.from_bytes(first[word + at : word + at + 4], "big") for at in (8, 12))
    tag = 128 if source.read_at(source.num_bytes - 128, 3) == b"TAG" else 0
    return num_frames > 0 and abs(source.num_bytes - offset - tag - num_bytes) <= 1


def _of_frames(content: bytes, frames: mpeg.Frames, original: Source | None) -> Layout:
    """MPEG frames as libsndfile decodes all of them.

    Parameters
    ----------
    original : the file, where it begins with the frames or a tag: it is given as it is if nothing is wrong with it.
    """
    warnings = []
    if frames.num_foreign_bytes:
        warnings.append(f"{frames.num_foreign_bytes} bytes between MPEG frames are skipped")
    if frames.num_cut_bytes:
        warnings.append(f"the last MPEG frame lacks {frames.num_cut_bytes} bytes")
    if len(frames.parts) > 1:
        warnings.append(f"{len(frames.parts)} recordings one after the other, joined")
    is_plain = len(frames.parts) == 1 and not warnings and not frames.num_leading_bytes
    parts = []
    for part in frames.parts:
        stated = part.stated_frames
        if stated is not None and part.header_at is not None and stated >= part.num_frames - _MPEG_COUNT_SLACK > 0:
            parts.append(Part(original if is_plain and original else Source(part.content(content)), is_noisy=True))
            continue
        if stated:
            warnings.append(f"its header counts {stated} MPEG frames, there are {part.num_frames}")
        parts.append(_uncounted(content, part))
    return Layout(tuple(parts), tuple(warnings), "mp3")


def _uncounted(content: bytes, part: mpeg.FrameRun) -> Part:
    """Frames that no header counts, or that one counts wrongly.

    libsndfile then guesses a length from the size and the first bit rate, and stops there. It is given the frames
    several times over, so that its guess is too long, and reads exactly those there are.
    """
    frames, late = part.frames_only(content)
    return Part(Repeated(frames, _MOST_REPEATS), part.num_samples, late, can_seek=False, is_noisy=True)
