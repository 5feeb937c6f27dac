"""Frames of MPEG audio (ISO/IEC 11172-3 and 13818-3): how many there are, and what is between them.

libsndfile believes the number of frames in a Xing or Info header, or guesses one from the first bit rate, and stops
there; it also stops at a second header, where two files were put one after the other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

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
_HEADERS = (b"Xing", b"Info", b"VBRI")
_SYNC = re.compile(rb"\xff[\xe2-\xff]")


@dataclass(frozen=True)
class _Kind:
    """What stays the same from frame to frame."""

    version: int
    layer: int
    sample_rate: int
    num_samples: int


@dataclass(frozen=True)
class _Frame:
    kind: _Kind
    num_bytes: int
    header_offset: int
    """Where a Xing or Info header is in a first frame: after the side information."""


@dataclass
class FrameRun:
    """Frames of one kind; a second Xing or Info header begins another part."""

    sample_rate: int
    samples_per_frame: int
    pieces: list[tuple[int, int]] = field(default_factory=list)
    """(start, end) of frames that follow each other without a gap."""
    num_frames: int = 0
    """Frames of audio; one with a Xing, Info or VBRI header is none."""
    header_at: int | None = None
    """Offset of the word Xing, Info or VBRI in the file."""
    stated_frames: int | None = None
    """Number of frames as that header states it; None: no header, or it does not count."""

    @property
    def num_samples(self) -> int:
        """Samples per channel in its frames."""
        return self.num_frames * self.samples_per_frame

    def frames_only(self, source: bytes) -> tuple[bytes, int]:
        """Its frames of audio, without one that only has a header; and the samples by which they are late.

        A LAME tag states the encoder's delay, to which every decoder adds its own; source: the tag's specification,
        http://gabriel.mp3-tech.org/mp3infotag.html.
        """
        frames = self.content(source)
        if self.header_at is None:
            return frames, 0
        first = _frame(frames[:4])
        delay = source[self.header_at + 141 : self.header_at + 144]
        has_tag = source[self.header_at + 120 : self.header_at + 124] in (b"LAME", b"Lavc", b"Lavf")
        late = (int.from_bytes(delay, "big") >> 12) + _DECODER_DELAY if has_tag else 0
        return frames[first.num_bytes if first else 0 :], late

    def content(self, source: bytes) -> bytes:
        """Its frames without what is between them."""
        return b"".join(source[start:end] for start, end in self.pieces)


@dataclass
class Frames:
    """All of a file's frames."""

    parts: list[FrameRun] = field(default_factory=list)
    num_leading_bytes: int = 0
    """Bytes before the first frame that are no tag."""
    num_foreign_bytes: int = 0
    """Bytes after the first frame that are neither frames nor tags."""
    num_cut_bytes: int = 0
    """Bytes that the last frame lacks."""


def scan(content: bytes, start: int = 0, end: int | None = None) -> Frames:
    """Walk over all frames between two offsets.

    Returns
    -------
    Without parts where there are no frames.
    """
    end = len(content) if end is None else end
    found = Frames()
    known: dict[bytes, _Frame | None] = {}
    part: FrameRun | None = None
    kind: _Kind | None = None
    at = start
    while at + 4 <= end:
        header = content[at : at + 4]
        frame = known[header] if header in known else known.setdefault(header, _frame(header))
        if frame is not None and frame.kind == kind:
            word = at + frame.header_offset
            following = at + frame.num_bytes
            if following <= end and content[word : word + 4] not in _HEADERS:
                _extend(part, at, following)  # type: ignore[arg-type]
                at = following
                continue
            if following > end and _tag_bytes(content, end - 128, end) != 128:
                found.num_cut_bytes = following - end
                at = end
                break
        if tag := _tag_bytes(content, at, end):
            at = min(end, at + tag)
            continue
        if frame is None or not _is_confirmed(content, at, end):
            resumed = next((m.start() for m in _SYNC.finditer(content, at + 1, end)
                            if _is_confirmed(content, m.start(), end)), end)  # fmt: skip
            resumed = _tag_between(content, at, resumed)
            if part is None:
                found.num_leading_bytes += resumed - at
            else:
                found.num_foreign_bytes += resumed - at
            at = resumed
            continue
        kind = frame.kind
        part = FrameRun(kind.sample_rate, kind.num_samples)
        found.parts.append(part)
        _extend(part, at, at + frame.num_bytes)
        part.header_at, part.stated_frames = _header(content, at, frame)
        if part.header_at is not None:
            part.num_frames = 0
        at += frame.num_bytes
    if part is not None and 0 < end - at < 4:
        found.num_foreign_bytes += end - at
    found.parts = [item for item in found.parts if item.num_frames]
    return found


def _extend(part: FrameRun, start: int, end: int) -> None:
    part.num_frames += 1
    if part.pieces and part.pieces[-1][1] == start:
        part.pieces[-1] = (part.pieces[-1][0], end)
    else:
        part.pieces.append((start, end))


def _frame(header: bytes) -> _Frame | None:
    """What the four bytes of a frame's header state; None where they are none, or in a free format."""
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
    return _Frame(_Kind(version, layer, sample_rate, num_samples), num_bytes, 4 + side_bytes)


def _is_confirmed(content: bytes, at: int, end: int) -> bool:
    """Whether frames of one kind follow each other from here on, or up to the end or a tag."""
    kind = None
    for count in range(_CONFIRMED_BY):
        frame = _frame(content[at : at + 4])
        if frame is None or (kind is not None and frame.kind != kind):
            return count > 0 and (at >= end or _tag_bytes(content, at, end) > 0)
        kind = frame.kind
        at += frame.num_bytes
    return True


def _header(content: bytes, at: int, frame: _Frame) -> tuple[int | None, int | None]:
    """Offset of a Xing, Info or VBRI header in a frame, and the number of frames it states."""
    word = at + frame.header_offset
    if content[word : word + 4] in (b"Xing", b"Info"):
        has_frames = content[word + 7] & 1
        return word, int.from_bytes(content[word + 8 : word + 12], "big") if has_frames else None
    word = at + 36  # VBRI is at a fixed place (Fraunhofer)
    if content[word : word + 4] == b"VBRI":
        return word, int.from_bytes(content[word + 14 : word + 18], "big")
    return None, None


def _tag_bytes(content: bytes, at: int, end: int) -> int:
    """Length of a tag that begins here; 0 where none does."""
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


def _tag_between(content: bytes, at: int, end: int) -> int:
    """Offset of the first tag in bytes that are no frames; `end` where there is none."""
    places = [content.find(word, at + 1, end) for word in (b"ID3", b"APETAGEX", b"LYRICSBEGIN")]
    if content[end - 128 : end - 125] == b"TAG" and end == len(content) and end - 128 > at:
        places.append(end - 128)
    return min((place for place in places if place > at and _tag_bytes(content, place, end)), default=end)
