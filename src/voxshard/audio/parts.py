"""What of a file libsndfile is given, so that it decodes all of a recording and nothing else.

Each container is read by its own rules (chunks.py, ogg.py, mpeg.py). Most files are given as they are; where a header
is wrong in a known way, libsndfile gets the same samples behind a right one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from voxshard.audio import chunks, containers, counted, flac, mpeg, ogg, voc
from voxshard.audio.sndfile import Part, StreamFacts
from voxshard.audio.sources import Source
from voxshard.audio.views import Repeated, Rewritten
from voxshard.errors import TruncatedAudioError, UnreadableAudioError

_MPEG_COUNT_SLACK = 2
"""Frames by which the number in a Xing header may be wrong: encoders differ in counting the first and the last."""
_LOOKED_THROUGH = 1 << 20
"""Bytes at the start in which MPEG frames are looked for."""
_SHORTEST_MPEG = 8
"""Frames in a row that make bytes of an unknown format an MPEG file."""
_MOST_REPEATS = 64
_SHORTEST_FOLLOWING = 44
"""Bytes of the shortest file that can follow another: a WAV's header."""
_SEARCHED = 1 << 26
"""A file whose header does not state where it ends is searched for a second one up to this size, in bytes."""
_WRONG_END = "its last Ogg page states a wrong position: its end may be cut, or have a few samples too many"
_JOINED = "recordings one after the other, joined"


class Layout(NamedTuple):
    """Streams of one recording, in their order."""

    parts: tuple[Part, ...]
    warnings: tuple[str, ...] = ()
    format: str | None = None
    """Name of the container, if libsndfile would report another one."""
    is_short: bool = False
    """Whether part of the recording is missing and `accept_truncated` allows that."""


def layout_of(source: Source, *, accept_truncated: bool = False, is_probe: bool = False) -> Layout:
    """Select the bytes of a file that libsndfile has to decode.

    Parameters
    ----------
    accept_truncated : bytes that are missing become a warning.
    is_probe : read as little as possible.

    Raises
    ------
    TruncatedAudioError : bytes are missing.
    UnreadableAudioError : MPEG frames that no decoder here reads.
    """
    magic = source.head[:4]
    if magic == b"RIFF" and chunks.is_samples_only(source):
        return Layout((Part(source),))
    if magic == b"fLaC":
        return _flac(source, accept_truncated)
    if magic == b"OggS":
        return _ogg(source, accept_truncated, is_probe=is_probe)
    if magic == b".snd" or magic == b"NIST":
        return _counted(source, accept_truncated)
    if source.head.startswith(voc.MAGIC):
        return _voc(source, accept_truncated)
    samples = chunks.samples_of(source)
    if samples is not None:
        return _chunked(source, samples, accept_truncated)
    if magic[:3] == b"ID3" and containers.begins_recording(source, mpeg.after_tag(source)):
        inner = Rewritten(source, b"", mpeg.after_tag(source))
        return layout_of(inner, accept_truncated=accept_truncated, is_probe=is_probe)
    if magic[:3] == b"ID3" or (magic[:1] == b"\xff" and magic[:2] not in containers.AAC):
        return _mpeg(source, is_probe=is_probe) or Layout((Part(source, is_noisy=True),))
    return Layout((Part(source),))


def missing(num_bytes: int, source: Source, is_accepted: bool) -> tuple[str, ...]:
    """Return a warning about bytes that are missing at the end; nothing if there are none.

    Raises
    ------
    TruncatedAudioError : the missing bytes are not accepted.
    """
    if num_bytes == 0:
        return ()
    promise = f"its header promises {num_bytes} more bytes than the {source.num_bytes} there are"
    if not is_accepted:
        raise TruncatedAudioError(f"truncated: {promise}")
    return (promise,)


def _chunked(source: Source, samples: chunks.Samples, accept_truncated: bool) -> Layout:
    accepted = samples.is_small_excess or accept_truncated
    warnings = missing(samples.excess, source, accepted) + samples.warnings
    inner = _mpeg_in_wav(source, samples) if samples.is_mp3 else None
    if inner is not None:
        layout = inner._replace(warnings=warnings + inner.warnings)
    else:
        name = "wav" if samples.source is not source and source.head[:4] == b"RIFF" else None
        part = Part(samples.source, samples.num_frames, can_seek=samples.num_frames is None)
        layout = Layout((part,), warnings, name, bool(samples.excess))
    if inner is None and not samples.has_known_size and source.num_bytes <= _SEARCHED:
        return _split(source, samples.start, accept_truncated, (b"WAVEfmt ",)) or layout
    for offset in sorted({samples.end, samples.after}):
        following = _following(source, offset, accept_truncated)
        if following is not None:
            first = inner or Layout((Part(Source(source.read_at(0, offset)), samples.num_frames),), (), layout.format)
            return _several([first, following])
    return layout


def _mpeg_in_wav(source: Source, samples: chunks.Samples) -> Layout | None:
    content = source.read_at(samples.start, samples.end - samples.start)
    frames = mpeg.scan(content)
    return _of_frames(content, frames, original=None)._replace(format="wav") if frames.parts else None


def _counted(source: Source, accept_truncated: bool) -> Layout:
    stated = counted.stated_samples(source)
    if stated is None:
        several = _split(source, 4, accept_truncated, (b".snd",)) if source.num_bytes <= _SEARCHED else None
        return several or Layout((Part(counted.with_unknown_size(source)),))
    num_missing = max(0, stated.end - source.num_bytes)
    warnings = missing(num_missing, source, num_missing <= chunks.LARGEST_EXCESS or accept_truncated)
    following = _following(source, stated.end, accept_truncated)
    if following is not None:
        return _several([Layout((Part(Source(source.read_at(0, stated.end))),)), following])
    left = source.num_bytes - stated.end
    if left > chunks.FEW_BYTES:
        warnings += (f"{left} {chunks.NOT_READ}",)
    num_frames = stated.num_frames if left > 0 else None
    return Layout((Part(source, num_frames, can_seek=num_frames is None),), warnings, is_short=bool(num_missing))


def _voc(source: Source, accept_truncated: bool) -> Layout:
    blocks = voc.scan(source)
    if blocks is None or not blocks.sounds:
        return Layout((Part(source),))
    num_missing = max(0, blocks.end - source.num_bytes)
    warnings = missing(num_missing, source, num_missing <= chunks.LARGEST_EXCESS or accept_truncated)
    parts = tuple(Part(voc.as_wav(*sound)) for sound in blocks.sounds)
    layout = Layout(parts, warnings, "voc", bool(num_missing))
    following = _following(source, blocks.end, accept_truncated)
    if following is not None:
        return _several([layout, following])
    left = source.num_bytes - blocks.end
    return layout._replace(warnings=(f"{left} {chunks.NOT_READ}",)) if left > chunks.FEW_BYTES else layout


def _following(source: Source, offset: int, accept_truncated: bool) -> Layout | None:
    """Return the recordings that begin at an offset, after another recording; None if there are none."""
    if offset + _SHORTEST_FOLLOWING > source.num_bytes:
        return None
    rest = Rewritten(source, b"", offset)
    if containers.begins_recording(source, offset):
        return layout_of(rest, accept_truncated=accept_truncated)
    if rest.head[:3] == b"ID3" or rest.head[:1] == b"\xff":
        return _mpeg(rest, is_probe=False)
    return None


def _split(source: Source, start: int, accept_truncated: bool, words: tuple[bytes, ...]) -> Layout | None:
    """Return the recordings in a file whose headers do not state where each ends; None if there is only one.

    Parameters
    ----------
    start : where the samples of the first begin.
    words : without any of these no second recording is looked for, which would take longer.
    """
    content = source.whole()
    if all(content.find(word, start) < 0 for word in words):
        return None
    starts = [0, *containers.recordings_in(content, start)]
    if len(starts) == 1:
        return None
    pieces = [Source(content[a:b]) for a, b in zip(starts, [*starts[1:], len(content)], strict=True)]
    return _several([layout_of(piece, accept_truncated=accept_truncated) for piece in pieces])


def _several(layouts: Sequence[Layout]) -> Layout:
    parts = tuple(part for layout in layouts for part in layout.parts)
    notes = [note for layout in layouts for note in layout.warnings if not note.endswith(_JOINED)]
    is_short = any(layout.is_short for layout in layouts)
    return Layout(parts, (_joined_note(len(parts)), *notes), layouts[0].format, is_short)


def _ogg(source: Source, accept_truncated: bool, *, is_probe: bool) -> Layout:
    content = source.whole()
    pages = ogg.scan(content)
    warnings = missing(pages.num_missing_bytes, source, accept_truncated)
    num_damaged = 0 if is_probe else sum(ogg.num_damaged_pages(content, link) for link in pages.links)
    if num_damaged:
        warnings += (f"{num_damaged} damaged Ogg pages are left out",)
    if pages.num_foreign_bytes:
        warnings += (f"{pages.num_foreign_bytes} bytes that belong to no Ogg page are left out",)
    if pages.num_lost_pages:
        warnings += (f"{pages.num_lost_pages} Ogg pages are missing inside",)
    parts = []
    for link in pages.links:
        start, end = link.pages[0][0], link.pages[-1][1]
        is_all = len(pages.links) == 1 and end == source.num_bytes
        is_wrong, repaired = ogg.has_wrong_end(content, link), None
        if link.is_opus and link.num_streams == 1 and not pages.num_lost_pages:
            repaired = ogg.repaired_opus(content, link)
        if repaired is not None:
            parts.append(Part(Source(repaired[0])))
            is_wrong = repaired[1]
        else:
            parts.append(Part(source if is_all else Source(content[start:end])))
        if is_wrong:
            warnings += (_WRONG_END,)
    if pages.links and not pages.links[-1].has_end_flag and not pages.num_missing_bytes:
        warnings += ("its last page is not marked as the last: the writer was stopped, or the end is missing",)
    if len(parts) > 1:
        warnings += (_joined_note(len(parts)),)
    return Layout(tuple(parts) or (Part(source),), warnings, is_short=bool(pages.num_missing_bytes))


def _flac(source: Source, accept_truncated: bool) -> Layout:
    about = flac.only_stream(source)
    if about is not None:
        stated = StreamFacts(about.sample_rate, about.num_channels, about.num_samples, "flac")
        return Layout((Part(source, facts=stated),))
    several = _split(source, flac.first_frame(source), accept_truncated, flac.OTHERS)
    if several is not None:
        return several
    complete = flac.with_all_samples(source)
    if complete is not None:
        return Layout((Part(complete),), ("its header counts fewer samples than there are",))
    return Layout((Part(source),))


def _joined_note(num_recordings: int) -> str:
    return f"{num_recordings} {_JOINED}"


def mpeg_after_junk(source: Source) -> Layout | None:
    """Return the MPEG stream of a file that begins with other bytes; None if it contains none."""
    content = source.whole()
    frames = mpeg.scan(content)
    if sum(part.num_frames for part in frames.parts) < _SHORTEST_MPEG or frames.num_leading_bytes > _LOOKED_THROUGH:
        return None
    return _of_frames(content, frames, original=None)


def _mpeg(source: Source, *, is_probe: bool) -> Layout | None:
    stated = mpeg.stated_length(source) if is_probe else None
    if stated is not None:
        is_known = stated.num_samples is not None and stated.num_samples > 0
        return Layout((Part(source, is_noisy=True, facts=StreamFacts(*stated, "mp3") if is_known else None),))
    content = source.whole()
    frames = mpeg.scan(content)
    if sum(part.num_frames for part in frames.parts) < _SHORTEST_MPEG and mpeg.is_free_format(content):
        raise UnreadableAudioError("MPEG audio of a free bit rate, which the decoders here do not read")
    if not frames.parts:
        return None
    return _of_frames(content, frames, original=source)


def _of_frames(content: bytes, frames: mpeg.Frames, original: Source | None) -> Layout:
    """Return MPEG frames in the form in which libsndfile decodes all of them.

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
        warnings.append(_joined_note(len(frames.parts)))
    is_plain = len(frames.parts) == 1 and not warnings and not frames.num_leading_bytes
    parts = []
    for part in frames.parts:
        stated = part.stated_frames
        num_lacking = (stated or 0) - part.num_frames
        if abs(num_lacking) > _MPEG_COUNT_SLACK and stated:
            warnings.append(f"its header counts {stated} MPEG frames, there are {part.num_frames}")
        is_counted = stated is not None and num_lacking >= -_MPEG_COUNT_SLACK and not part.has_vbri
        if is_counted and not (num_lacking > _MPEG_COUNT_SLACK and part.has_stated_bytes):
            parts.append(Part(original if is_plain and original else Source(part.content(content)), is_noisy=True))
            continue
        parts.append(_uncounted(content, part))
    return Layout(tuple(parts), tuple(warnings), "mp3")


def _uncounted(content: bytes, part: mpeg.FrameRun) -> Part:
    """Return frames that the header does not count, or counts wrongly.

    libsndfile then guesses a length from the size and the first bit rate, and stops there. It is given the frames
    several times over, so that its guess is too long, and reads exactly those there are.
    """
    frames, late = part.frames_only(content)
    times = min(_MOST_REPEATS, part.num_frames * mpeg.first_frame_bytes(frames) // len(frames) + 2)
    return Part(Repeated(frames, times), part.num_samples, late, can_seek=False, is_noisy=True)
