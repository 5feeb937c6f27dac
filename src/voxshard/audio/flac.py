"""FLAC files that are several streams one after the other (RFC 9639); libFLAC stops after the first."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

from voxshard.audio.containers import recordings_in
from voxshard.audio.sources import Source
from voxshard.audio.views import Rewritten

_MAGIC = (b"fLaC\0\0\0\x22", b"fLaC\x80\0\0\x22")
"""First bytes of a stream: its marker and the header of a STREAMINFO block, which is 34 bytes long."""
OTHERS = (b"fLaC", b"WAVE")
"""Words in a file that may belong to a second one."""
_SYNC = b"\xff\xf8"
"""First bytes of a frame in a stream whose blocks are of one size; 8 bits of checksum end its header."""
_STREAM_INFO_END = 42
_BITS = (8, 16, 24)
"""Bits per sample of what libsndfile reads."""
_NUMBER_BYTES = 7
_HEADER_BYTES = 4 + _NUMBER_BYTES + 5
_SIZE_BYTES = {6: 1, 7: 2}
_RATE_BYTES = {12: 1, 13: 2, 14: 2}
"""Bytes for a size of blocks, or a sample rate, that has no code of its own."""
_TAG_BYTES = 1024
"""A tag at the end of a file is rarely longer."""


class StreamInfo(NamedTuple):
    """Content of STREAMINFO, the first metadata block of a stream."""

    sample_rate: int
    num_channels: int
    num_samples: int
    """Number of samples per channel."""
    block_samples: int
    """Number of samples per channel in every frame but the last."""
    num_frames: int
    largest_frame: int
    """Size of the largest frame, in bytes."""


class _BlockFrame(NamedTuple):
    offset: int
    number: int
    num_samples: int

    def is_beyond(self, about: StreamInfo) -> bool:
        """Whether the frame ends after the last sample that the stream's header counts."""
        return self.number * about.block_samples + self.num_samples > about.num_samples


def only_stream(source: Source) -> StreamInfo | None:
    """Return the header of a file that is one intact stream; None if it may be cut or contain several streams.

    Only two places of a long file are read: the last frame must be the last of the first stream, and no more bytes
    can be before and behind the frame in the middle than its number leaves.
    """
    about = _stream_info(source.head)
    if about is None:
        return None
    largest, first = about.largest_frame, first_frame(source)
    if source.num_bytes <= 2 * largest + _TAG_BYTES:
        content = source.read_at(0, source.num_bytes)
        is_longer = any(frame.is_beyond(about) for frame in _frames(content[first:]))
        return None if is_longer or recordings_in(content, first) else about
    tail_bytes = largest + _TAG_BYTES
    tail = source.read_at(source.num_bytes - tail_bytes, tail_bytes)
    last = [frame for frame in _frames(tail) if frame.number >= about.num_frames - 1]
    if any(word in tail for word in OTHERS) or not last or any(frame.is_beyond(about) for frame in last):
        return None
    middle = (first + source.num_bytes) // 2
    found = next(_frames(source.read_at(middle, largest + _HEADER_BYTES)), None)
    if found is None:
        return None
    at, number = middle + found.offset, found.number
    num_behind = source.num_bytes - _TAG_BYTES - at
    fits = at - first <= number * largest and num_behind <= (about.num_frames - number) * largest
    return about if fits else None


def with_all_samples(source: Source) -> Source | None:
    """Return the file with an unknown length in its header if more blocks exist than it states; else None.

    libFLAC stops where the header's count ends.
    """
    about = _stream_info(source.head)
    if about is None:
        return None
    tail = source.read_at(max(0, source.num_bytes - about.largest_frame - _TAG_BYTES), source.num_bytes)
    if not any(frame.is_beyond(about) for frame in _frames(tail)):
        return None
    head = bytearray(source.head[:_STREAM_INFO_END])
    head[21:26] = bytes((head[21] & 0xF0, 0, 0, 0, 0))
    return Rewritten(source, bytes(head), _STREAM_INFO_END)


def _stream_info(head: bytes) -> StreamInfo | None:
    """Return the content of STREAMINFO; None if it leaves a field unknown or if the block size varies."""
    if len(head) < _STREAM_INFO_END or not head.startswith(_MAGIC):
        return None
    smallest_block, largest_block = (int.from_bytes(head[at : at + 2], "big") for at in (8, 10))
    largest_frame = int.from_bytes(head[15:18], "big")
    fields = int.from_bytes(head[18:26], "big")  # 20 bits of rate, 3 of channels, 5 of bits per sample, 36 of samples
    num_samples = fields & 0xFFFFFFFFF
    bits = (fields >> 36 & 31) + 1
    known = bits in _BITS and largest_block and largest_frame and num_samples
    if not known or smallest_block != largest_block:
        return None
    num_frames = -(-num_samples // largest_block)
    return StreamInfo(fields >> 44, (fields >> 41 & 7) + 1, num_samples, largest_block, num_frames, largest_frame)


def first_frame(source: Source) -> int:
    """Return the offset after the metadata blocks."""
    at = 4
    while len(header := source.read_at(at, 4)) == 4:
        at += 4 + int.from_bytes(header[1:], "big")
        if header[0] & 0x80:
            break
    return at


def _frames(content: bytes) -> Iterator[_BlockFrame]:
    """Yield the frames whose header is in `content`."""
    at = -1
    while (at := content.find(_SYNC, at + 1)) >= 0:
        header = content[at : at + _HEADER_BYTES]
        num_bytes, number = _coded_number(header[4:])
        if not num_bytes:
            continue
        size_code, rate_code = header[2] >> 4, header[2] & 15
        if size_code == 0 or rate_code == 15 or header[3] & 1 or header[3] >> 4 > 10:  # not defined
            continue
        size_bytes = _SIZE_BYTES.get(size_code, 0)
        end = 4 + num_bytes + size_bytes + _RATE_BYTES.get(rate_code, 0)
        if end < len(header) and _checksum(header[:end]) == header[end]:
            stored = int.from_bytes(header[4 + num_bytes : 4 + num_bytes + size_bytes], "big") + 1
            yield _BlockFrame(at, number, stored if size_bytes else _block_samples(size_code))


def _block_samples(code: int) -> int:
    """Return the number of samples that the block size code stands for (RFC 9639, section 9.1.1)."""
    return 192 if code == 1 else 576 << code - 2 if 2 <= code <= 5 else 256 << code - 8 if code >= 8 else 0


def _coded_number(content: bytes) -> tuple[int, int]:
    """Return size and value of a number coded as UTF-8, extended to 36 bits; size 0 if it is not one."""
    if not content:
        return 0, 0
    num_bytes = 8 - (content[0] ^ 0xFF).bit_length()
    if num_bytes == 0:
        return 1, content[0]
    following = content[1:num_bytes]
    if num_bytes == 1 or num_bytes > _NUMBER_BYTES or len(following) < num_bytes - 1:
        return 0, 0
    value = content[0] & (0x7F >> num_bytes)
    for byte in following:
        if byte & 0xC0 != 0x80:
            return 0, 0
        value = value << 6 | byte & 0x3F
    return num_bytes, value


@functools.cache
def _table() -> bytes:
    """Return the CRC-8 of each byte for the polynomial x^8 + x^2 + x + 1 (RFC 9639, section 9.1.8)."""
    values = bytearray()
    for value in range(256):
        for _ in range(8):
            value = (value << 1 ^ 0x07) & 0xFF if value & 0x80 else value << 1
        values.append(value)
    return bytes(values)


def _checksum(header: bytes) -> int:
    table = _table()
    value = 0
    for byte in header:
        value = table[value ^ byte]
    return value
