"""Frames of MPEG audio (ISO/IEC 11172-3 and 13818-3): how many there are, and what is between them.

libsndfile believes the number of frames in a Xing or Info header, or guesses one from the first bit rate, and stops
there; it also stops at a second header, where two files were put one after the other.
"""

from __future__ import annotations

import functools
import re
import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from voxshard.audio.sources import Source

_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_BITS = {  # (version 1, layer) -> kbit/s by index
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_CONFIRMED_BY = 3
"""Frames in a row that show that a pattern of bits is a frame's header and no accident."""
_DECODER_DELAY = 529
"""Samples by which every decoder of layer III is late (LAME's technical FAQ)."""
_ENCODERS = (b"LAME", b"Lavc", b"Lavf")
"""First letters of the tags that state the encoder's delay and its padding."""
_HEADERS = (b"Xing", b"Info", b"VBRI")
_HEADER_LETTERS = b"XIV"
_FIRST_BYTES = 4000
_LARGEST_RATIO = 1.5
"""The size of frames at the start, of a variable bit rate, may be so different from that of all."""
_SYNC = re.compile(rb"\xff[\xe2-\xff]")


class _Kind(NamedTuple):
    """Properties that all frames of one MPEG stream share."""

    version: int
    layer: int
    sample_rate: int
    num_samples: int
    is_mono: bool
    """One of two streams one after the other may be; a decoder stops at such a change."""


class _Frame(NamedTuple):
    kind: _Kind
    num_bytes: int
    header_offset: int
    """Return the offset of a Xing or Info header in the first frame: after the side information."""


class _Places(dict[bytes, tuple[int, int] | None]):
    """The first four bytes of a frame -> its size and its header's place; None: it is of another kind, or none."""

    def __init__(self, kind: _Kind) -> None:
        super().__init__()
        self._kind = kind

    def __missing__(self, first: bytes) -> tuple[int, int] | None:
        frame = _frame(first)
        if frame is None or frame.kind != self._kind:
            return None
        self[first] = frame[1:]
        return frame[1:]


_places = functools.cache(_Places)


@dataclass
class FrameRun:
    """Consecutive frames of one kind; a second Xing or Info header begins another run."""

    kind: _Kind
    pieces: list[tuple[int, int]]
    """(start, end) of frames that follow each other without a gap."""
    num_frames: int
    """Frames of audio; one with a Xing, Info or VBRI header is none."""
    header_at: int | None = None
    """Offset of the word Xing, Info or VBRI in the file."""
    stated_frames: int | None = None
    """Number of frames as that header states it; None: no header, or it does not count."""
    stated_bytes: int | None = None
    """Size of all frames as that header states it."""
    has_vbri: bool = False
    """Whether that header is a VBRI header, which libsndfile takes for a frame of audio."""

    @property
    def has_stated_bytes(self) -> bool:
        """Whether the file has the number of bytes that the header states, so that nothing is missing."""
        num_bytes = sum(end - start for start, end in self.pieces)
        return self.stated_bytes is not None and num_bytes >= self.stated_bytes - 1

    @property
    def num_samples(self) -> int:
        """Return the number of samples per channel in the frames."""
        return self.num_frames * self.kind.num_samples

    def frames_only(self, source: bytes) -> tuple[bytes, int]:
        """Return its frames of audio, without one that only has a header; and the samples by which they are late.

        A LAME tag states the encoder's delay, to which every decoder adds its own; source: the tag's specification,
        http://gabriel.mp3-tech.org/mp3infotag.html.
        """
        frames = self.content(source)
        if self.header_at is None:
            return frames, 0
        delay = source[self.header_at + 141 : self.header_at + 144]
        has_tag = source[self.header_at + 120 : self.header_at + 124] in _ENCODERS
        late = (int.from_bytes(delay, "big") >> 12) + _DECODER_DELAY if has_tag else 0
        return frames[first_frame_bytes(frames) :], late

    def content(self, source: bytes) -> bytes:
        """Return its frames without what is between them."""
        return b"".join(source[start:end] for start, end in self.pieces)


@dataclass
class Frames:
    """All MPEG frames of a file."""

    parts: list[FrameRun] = field(default_factory=list)
    num_leading_bytes: int = 0
    """Bytes before the first frame that are no tag."""
    num_foreign_bytes: int = 0
    """Bytes after the first frame that are neither frames nor tags."""
    num_cut_bytes: int = 0
    """Number of bytes missing from the last frame."""


def scan(content: bytes, start: int = 0, end: int | None = None) -> Frames:
    """Walk over all frames between two offsets.

    Returns
    -------
    Without parts where there are no frames.
    """
    end = len(content) if end is None else end
    found = Frames()
    part: FrameRun | None = None
    at = start
    while at + 4 <= end:
        if part is not None:
            at = _run(part, content, at, end)
        frame = _frame(content[at : at + 4])
        if part is not None and frame is not None and frame.kind == part.kind:
            following = at + frame.num_bytes
            if following > end and tag_bytes(content, end - 128, end) != 128:
                found.num_cut_bytes = following - end
                at = end
                break
        if tag := tag_bytes(content, at, end):
            at = min(end, at + tag)
            continue
        if frame is None or not _is_confirmed(content, at, end):
            resumed = next((m.start() for m in _SYNC.finditer(content, at + 1, end)
                            if _is_confirmed(content, m.start(), end)), end)  # fmt: skip
            resumed = _tag_between(content, at, resumed)
            if part is None:
                found.num_leading_bytes += resumed - at
            else:
                found.num_foreign_bytes += max(0, resumed - at - _items_before(content, resumed))
            at = resumed
            continue
        part = FrameRun(frame.kind, [(at, at + frame.num_bytes)], 1)
        found.parts.append(part)
        part.header_at, part.stated_frames, part.stated_bytes = _header(content, at, frame)
        if part.header_at is not None:
            part.num_frames, part.has_vbri = 0, content.startswith(b"VBRI", part.header_at)
        at += frame.num_bytes
    if part is not None and 0 < end - at < 4:
        found.num_foreign_bytes += end - at
    found.parts = [item for item in found.parts if item.num_frames]
    return found


def _run(part: FrameRun, content: bytes, at: int, end: int) -> int:
    """Collect consecutive frames of one kind, and return the offset after the last of them."""
    start, num_frames, places = at, 0, _places(part.kind)
    while (place := places[content[at : at + 4]]) is not None:
        num_bytes, header_offset = place
        following, word = at + num_bytes, at + header_offset
        if following > end or (content[word] in _HEADER_LETTERS and content[word : word + 4] in _HEADERS):
            break
        at = following
        num_frames += 1
    if num_frames:
        part.num_frames += num_frames
        if part.pieces[-1][1] == start:
            start = part.pieces.pop()[0]
        part.pieces.append((start, at))
    return at


@functools.lru_cache(1 << 12)
def _frame(header: bytes) -> _Frame | None:
    """Parse the four bytes of a frame header; None if they are not a header, or if the format is free."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bits, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or bits in (0, 15) or rate == 3:
        return None
    is_first = version == 3
    sample_rate, bit_rate = _RATES[version][rate], _BITS[is_first, layer][bits] * 1000
    num_samples = 384 if layer == 1 else 1152 if layer == 2 or is_first else 576
    if layer == 1:
        num_bytes = (12 * bit_rate // sample_rate + padding) * 4
    else:
        num_bytes = num_samples // 8 * bit_rate // sample_rate + padding
    is_mono = header[3] >> 6 == 3
    side_bytes = (17 if is_mono else 32) if is_first else (9 if is_mono else 17)
    return _Frame(_Kind(version, layer, sample_rate, num_samples, is_mono), num_bytes, 4 + side_bytes)


def first_frame_bytes(content: bytes) -> int:
    """Return the size of the frame that begins here; 0 if there is none."""
    frame = _frame(content[:4])
    return frame.num_bytes if frame is not None else 0


def is_free_format(content: bytes) -> bool:
    """Whether the first frame, after tags, states no bit rate: such frames can be of any size."""
    at = 0
    while tag := tag_bytes(content, at, len(content)):
        at += tag
    header = content[at : at + 4]
    return _frame(header) is None and header[2:3] < b"\x10" and _frame(header[:2] + b"\x10" + header[3:]) is not None


def _is_confirmed(content: bytes, at: int, end: int) -> bool:
    """Whether frames of one kind follow each other from this offset on, or end at the end of the file or at a tag.

    A frame with a header that counts the others needs none behind it: that may be damaged.
    """
    kind = None
    first = _frame(content[at : at + 4])
    if first is not None and _header(content, at, first)[0] is not None:
        return True
    for count in range(_CONFIRMED_BY):
        frame = _frame(content[at : at + 4])
        if frame is None or (kind is not None and frame.kind != kind):
            return count > 0 and (at >= end or tag_bytes(content, at, end) > 0)
        kind = frame.kind
        at += frame.num_bytes
    return True


def _header(content: bytes, at: int, frame: _Frame) -> tuple[int | None, int | None, int | None]:
    """Return the offset of a Xing, Info or VBRI header in a frame, and the frames and bytes that it states."""
    word = at + frame.header_offset
    if content[word : word + 4] in (b"Xing", b"Info"):
        flags = content[word + 7]  # 1: frames, 2: bytes, in this order
        numbers = [int.from_bytes(content[word + place : word + place + 4], "big") for place in (8, 12)]
        num_bytes = numbers[flags & 1] if flags & 2 else None
        return word, numbers[0] if flags & 1 else None, num_bytes
    word = at + 36  # VBRI is at a fixed place (Fraunhofer)
    if content[word : word + 4] == b"VBRI":
        num_bytes, num_frames = struct.unpack_from(">II", content, word + 10)
        return word, num_frames, num_bytes
    return None, None, None


class StatedLength(NamedTuple):
    """What the header of a file states."""

    sample_rate: int
    num_channels: int
    num_samples: int | None
    """Samples per channel without the encoder's delay and padding; None: it does not state these."""


def after_tag(source: Source) -> int:
    """Return the offset after an ID3 tag at the start of a file; 0 where it begins with none."""
    return tag_bytes(source.head, 0, len(source.head)) if source.head[:3] == b"ID3" else 0


def stated_length(source: Source) -> StatedLength | None:
    """Return what a header states, if its number of bytes is the file's, and that of frames is likely.

    Frames at the start of the file show how large one is; where the stated numbers make that another size, all frames
    are to be counted.
    """
    at = after_tag(source)
    first = source.read_at(at, _FIRST_BYTES)
    frame = _frame(first[:4])
    if frame is None:
        return None
    word, num_frames, num_bytes = _header(first, 0, frame)
    if word is None or not num_frames or not num_bytes or first.startswith(b"VBRI", word):
        return None
    excess = source.num_bytes - at - num_bytes
    has_tag = abs(excess - 128) <= 1 and source.read_at(source.num_bytes - 128, 3) == b"TAG"
    if abs(excess) > 1 and not has_tag:
        return None
    start = FrameRun(frame.kind, [(0, frame.num_bytes)], 0)
    found_bytes = _run(start, first, frame.num_bytes, len(first)) - frame.num_bytes
    stated = (num_bytes - frame.num_bytes) / num_frames
    if not 1 / _LARGEST_RATIO <= stated * start.num_frames / max(1, found_bytes) <= _LARGEST_RATIO:
        return None
    num_samples = None
    if first[word + 120 : word + 124] in _ENCODERS:
        delays = int.from_bytes(first[word + 141 : word + 144], "big")
        late, padding = (delays >> 12) + _DECODER_DELAY, max(0, (delays & 0xFFF) - _DECODER_DELAY)
        num_samples = num_frames * frame.kind.num_samples - late - padding
    return StatedLength(frame.kind.sample_rate, 1 if frame.kind.is_mono else 2, num_samples)


def tag_bytes(content: bytes, at: int, end: int) -> int:
    """Return the length of the tag that begins here; 0 if there is none."""
    head = content[at : min(at + 32, end)]
    if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 128:
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        return 10 + size + (10 if head[5] & 0x10 else 0)
    if head[:8] == b"APETAGEX" and len(head) == 32:
        is_footer = not head[23] & 0x20
        return 32 if is_footer else 32 + int.from_bytes(head[12:16], "little")
    if head[:3] == b"TAG":
        return min(128, end - at)
    if head[:11] == b"LYRICSBEGIN":
        closing = content.find(b"LYRICS200", at, end)
        return closing + 9 - at if closing >= 0 else 0
    return 0


def _items_before(content: bytes, at: int) -> int:
    """Return the number of bytes of an APE tag before its footer, which is here; 0 if there is none."""
    return (
        max(0, int.from_bytes(content[at + 12 : at + 16], "little") - 32) if content[at : at + 8] == b"APETAGEX" else 0
    )


def _tag_between(content: bytes, at: int, end: int) -> int:
    """Return the offset of the first tag in bytes that are not frames; `end` if there is none."""
    places = [content.find(word, at + 1, end) for word in (b"ID3", b"APETAGEX", b"LYRICSBEGIN")]
    if content[end - 128 : end - 125] == b"TAG" and end == len(content) and end - 128 > at:
        places.append(end - 128)
    return min((place for place in places if place > at and tag_bytes(content, place, end)), default=end)
