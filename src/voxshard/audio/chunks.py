"""Containers of chunks (WAV and its relatives, AIFF, CAF): where the samples are, and whether the header is right.

libsndfile takes the sizes in a header as they are: a size of 0 means no samples to it, a size that wrapped at 4 GiB
means a short recording, and a size beyond the end of the file means that the file ends there.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Literal, NamedTuple

from voxshard.audio.containers import begins_recording
from voxshard.audio.sources import Source
from voxshard.audio.views import Rewritten

_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_MAX_CHUNKS = 1000
_WRAP = 1 << 32
_LARGEST = 1 << 62
"""A size of 64 bits from here on means that the writer did not know it."""
_WRAP_SLACK = 1 << 20
"""A size that wrapped at 4 GiB may leave this many bytes for the chunks that follow the samples."""
LARGEST_EXCESS = 44
"""A header may promise as many bytes too much as a usual WAV header has: writers count themselves (cryptix/wav#10)."""
_SHORTEST_WAV = 44
_USUAL_HEADER = struct.Struct("<8x12sH14x4sI")
"""Header of a WAV with the two chunks it needs: their names, the format's tag, the size of the samples."""
NOT_READ = "bytes after the samples are not read: its header counts only those before them"
FEW_BYTES = 4096
"""Trailing bytes of a program's own, at most this many, are no samples."""
_TAIL_BYTES = 1 << 16
_TAIL_CHUNK = re.compile(rb"LIST|id3 |ID3 |bext|iXML|_PMX|cue |smpl|afsp|fact|PEAK|JUNK")
"""Chunks that follow samples, looked for in the last bytes of a file whose header does not state where they end."""


@dataclass(frozen=True)
class _Layout:
    """Differences between the formats of a chunked container (RIFF, RF64, AIFF, CAF)."""

    order: Literal["little", "big"]
    data_id: bytes
    id_bytes: int = 4
    size_bytes: int = 4
    first_chunk: int = 12
    align: int = 2
    size_counts_header: bool = False


_RIFF = _Layout("little", b"data")
_LAYOUTS = {
    b"RIFF": _RIFF,
    b"RIFX": _Layout("big", b"data"),
    b"RF64": _RIFF,
    b"BW64": _RIFF,
    b"FORM": _Layout("big", b"SSND"),
    b"riff": _Layout("little", _W64_DATA, 16, 8, 40, 8, size_counts_header=True),
    b"caff": _Layout("big", b"data", 4, 8, 8, 1),
}
_MP3_TAG = 0x55
_BLOCK_CODINGS = (0x02, 0x11, 0x31)  # Microsoft ADPCM, IMA ADPCM, GSM 6.10: blocks of bytes, each a number of samples
_GSM_TAG = 0x31
_EXTENSIBLE_TAG = 0xFFFE
_PLAIN_TAGS = (1, 3, 6, 7)  # integers, floats, A-law, u-law
_PLAIN_WORDS = (b"lpcm", b"NONE", b"sowt", b"fl32", b"alaw", b"ulaw")  # of CAF and AIFF-C


class Format(NamedTuple):
    """Content of the format chunk of a WAV file."""

    tag: int
    block_bytes: int
    block_samples: int
    """Samples per block of a block coding; 0 otherwise."""


class DataChunk(NamedTuple):
    """Place and size of the chunk that contains the samples."""

    size_offset: int
    start: int
    size: int
    """Size as the header states it."""
    format: Format | None
    """The format chunk; None if the container is not a WAV file."""


class Samples(NamedTuple):
    """Actual place of a container's samples in the file."""

    source: Source
    """The file, or the file with a header whose size is right."""
    start: int
    """Offset of the samples in the file, not in `source`."""
    end: int
    """Offset of their end in the file."""
    format: Format | None
    excess: int
    """Number of bytes that the header states beyond the end of the file."""
    num_frames: int | None
    """Number of frames in complete blocks if libsndfile counts them wrongly; None if its count is right."""
    after: int
    """Offset after the chunks that follow the samples."""
    has_known_size: bool
    """Whether the header states where the samples end."""
    warnings: tuple[str, ...] = ()

    @property
    def is_small_excess(self) -> bool:
        """Whether the header states so few bytes too many that nothing need be missing; writers make such mistakes."""
        return self.is_plain and (self.excess <= LARGEST_EXCESS or self.excess in (self.start, self.start - 8))

    @property
    def is_plain(self) -> bool:
        """Whether every few bytes are a sample; of other codings, a few missing bytes are many samples."""
        if self.format is not None:
            return self.format.tag in _PLAIN_TAGS
        head = self.source.head
        return head[8:12] == b"AIFF" or any(word in head[:512] for word in _PLAIN_WORDS)

    @property
    def is_mp3(self) -> bool:
        """Whether a WAV contains MPEG frames."""
        return self.format is not None and self.format.tag == _MP3_TAG


def is_samples_only(source: Source) -> bool:
    """Whether a file is a plain WAV: a header of 44 bytes, and samples up to the end of the file."""
    if source.num_bytes < _SHORTEST_WAV:
        return False
    first, tag, second, size = _USUAL_HEADER.unpack_from(source.head)
    usual = first == b"WAVEfmt \x10\0\0\0" and second == b"data" and tag in _PLAIN_TAGS
    return usual and size == source.num_bytes - _SHORTEST_WAV


def samples_of(source: Source) -> Samples | None:
    """Find the samples of a container of chunks; None where it is something else, or has no samples."""
    magic = source.head[:4]
    layout = _LAYOUTS.get(magic)
    if layout is None:
        return None
    chunk = _data_chunk(source, layout)
    if chunk is None:
        return None
    available = source.num_bytes - chunk.start
    size, is_rewritten = _real_size(source, layout, chunk, available)
    is_known = size == chunk.size
    excess = max(0, size - available)
    size = min(size, available)
    end = chunk.start + size
    # BW64 and RF64 have their size in the ds64 chunk, which states -1 where the writer could not seek back.
    opened = _with_size(source, layout, chunk, size) if is_rewritten and size else source
    after, warnings = _after_samples(source, layout, end) if end < source.num_bytes else (end, ())
    num_frames = _frames(magic, chunk, size, source.num_bytes > end, excess)
    return Samples(opened, chunk.start, end, chunk.format, excess, num_frames, after, is_known, warnings)


def _real_size(source: Source, layout: _Layout, chunk: DataChunk, available: int) -> tuple[int, bool]:
    """Return the actual size of the samples in bytes, and whether the header has to be corrected."""
    unknown = available > 0 and (chunk.size < 0 or chunk.size >= _LARGEST)
    if chunk.size == 0 and available > 0:
        unknown = _chunk_bytes(source, layout, chunk.start) is None
    if unknown:
        return _end_of_unsized(source, layout, chunk.start) - chunk.start, True
    if layout.size_bytes == 8 or chunk.size == 0:
        return max(chunk.size, 0), False
    if chunk.size >= _WRAP:  # from ds64
        return chunk.size, False
    if is_streamed(chunk.size) and chunk.size != available:
        end = _end_of_unsized(source, layout, chunk.start)
        return end - chunk.start, chunk.size < available or end < source.num_bytes
    if available >= _WRAP and chunk.size < available:
        wrapped = chunk.size + round((available - chunk.size) / _WRAP) * _WRAP
        if abs(available - wrapped) <= _WRAP_SLACK:
            return min(wrapped, available), True
    return chunk.size, False


def _end_of_unsized(source: Source, layout: _Layout, start: int) -> int:
    """Return where samples of an unknown size end: at the end of the file, or where chunks begin that end there."""
    at = max(start, source.num_bytes - _TAIL_BYTES)
    tail = source.read_at(at, source.num_bytes - at)
    for match in _TAIL_CHUNK.finditer(tail):
        end = found = at + match.start()
        while end < source.num_bytes and (size := _chunk_bytes(source, layout, end)) is not None:
            end += size
        if end == source.num_bytes:
            return found
    return source.num_bytes


def is_streamed(size: int) -> bool:
    """Whether a 32-bit size is one that programs write to a pipe, where they cannot correct it later.

    ffmpeg writes 0xFFFFFFFF, arecord 0x80000000, SoX 0x7FFFF000; others subtract the size of their header.
    """
    return 0x7FFF0000 <= size <= 0x80010000 or size >= 0xFFFF0000


def _data_chunk(source: Source, layout: _Layout) -> DataChunk | None:
    """Return the chunk that contains the samples; None if no such chunk exists."""
    offset = layout.first_chunk
    header_bytes = layout.id_bytes + layout.size_bytes
    size_from_ds64 = None
    format_of = None
    for _ in range(_MAX_CHUNKS):
        header = source.read_at(offset, header_bytes)
        if len(header) < header_bytes:
            return None
        size = int.from_bytes(header[layout.id_bytes :], layout.order)
        if layout.size_counts_header:
            size -= header_bytes
        start = offset + header_bytes
        name = header[: layout.id_bytes]
        if name == layout.data_id:
            if size_from_ds64 is not None and size == 0xFFFFFFFF:
                size = size_from_ds64
            return DataChunk(offset + layout.id_bytes, start, size, format_of)
        if name[:4] == b"ds64":  # EBU Tech 3306: RIFF size, then data size, 64 bits each
            size_from_ds64 = int.from_bytes(source.read_at(start + 8, 8), "little")
        elif name[:4] == b"fmt " and layout.order == "little":
            format_of = _format(source.read_at(start, min(max(size, 0), 40)))
        offset = start + max(size, 0)
        offset += -offset % layout.align
    return None


def _format(content: bytes) -> Format | None:
    if len(content) < 16:
        return None
    tag, _, _, _, block_bytes, _ = struct.unpack_from("<HHIIHH", content)
    if tag == _EXTENSIBLE_TAG and len(content) >= 26:
        tag = struct.unpack_from("<H", content, 24)[0]
    block_samples = struct.unpack_from("<H", content, 18)[0] if tag in _BLOCK_CODINGS and len(content) >= 20 else 0
    return Format(tag, block_bytes, block_samples)


def _frames(magic: bytes, chunk: DataChunk, size: int, is_followed: bool, excess: int) -> int | None:
    """Return the number of frames in complete blocks; libsndfile may count more than exist (libsndfile#482)."""
    about = chunk.format
    if magic == b"FORM" or about is None or not about.block_bytes:
        return None
    if magic == b"riff" and is_followed and about.tag in _PLAIN_TAGS:
        return size // about.block_bytes
    is_longer = excess or (magic == b"riff" and is_followed)
    if about.block_samples and (about.tag == _GSM_TAG or (is_longer and about.tag in _BLOCK_CODINGS)):
        return size // about.block_bytes * about.block_samples
    return None


def _chunk_bytes(source: Source, layout: _Layout, offset: int) -> int | None:
    """Return the size of the chunk at an offset, with header and padding; None if no chunk fits there."""
    header = source.read_at(offset, layout.id_bytes + layout.size_bytes)
    if len(header) < layout.id_bytes + layout.size_bytes or not re.match(rb"[A-Za-z0-9 _]{4}", header):
        return None
    size = int.from_bytes(header[layout.id_bytes :], layout.order)
    if not layout.size_counts_header:
        size += len(header)
    return size + -size % layout.align if len(header) <= size <= source.num_bytes - offset else None


def _after_samples(source: Source, layout: _Layout, end: int) -> tuple[int, tuple[str, ...]]:
    """Return the offset after the chunks that follow the samples, and a warning about the bytes found there."""
    at = end
    if not begins_recording(source, end) and _chunk_bytes(source, layout, end) is None:
        at += -end % layout.align  # few writers omit the padding
    while at < source.num_bytes and not begins_recording(source, at):
        size = _chunk_bytes(source, layout, at)
        if size is None:
            break
        if source.read_at(at, layout.id_bytes) == layout.data_id:
            return at, (f"a second data chunk after the first is not read ({source.num_bytes - at} bytes)",)
        at += size
    if source.num_bytes - at > FEW_BYTES and not begins_recording(source, at):
        return at, (f"{source.num_bytes - at} {NOT_READ}",)
    return at, ()


def _with_size(source: Source, layout: _Layout, chunk: DataChunk, size: int) -> Source:
    """Return the file with `size` in its header; a WAV of more than 2 GiB becomes RF64 (EBU Tech 3306)."""
    header = bytearray(source.read_at(0, chunk.start))
    magic = source.head[:4]
    if magic in (b"RF64", b"BW64") or (layout.size_bytes == 4 and size >= 1 << 31 and layout.order == "little"):
        ds64 = b"ds64" + struct.pack("<IQQQI", 28, len(header) + 36 + size - 8, size, 0, 0)
        fields = bytes(header[12 : chunk.size_offset])
        if magic in (b"RF64", b"BW64"):  # in place of its own
            fields = re.sub(rb"^ds64.{4}.{24,}?(?=fmt |bext|JUNK|data)", b"", fields, flags=re.DOTALL)
        new = b"RF64\xff\xff\xff\xffWAVE" + ds64 + fields + b"\xff\xff\xff\xff"
        return Rewritten(source, new, chunk.start)
    stored = size + layout.id_bytes + layout.size_bytes if layout.size_counts_header else size
    field = slice(chunk.size_offset, chunk.size_offset + layout.size_bytes)
    header[field] = stored.to_bytes(layout.size_bytes, layout.order)
    if magic in (b"RIFF", b"RIFX"):
        header[4:8] = (chunk.start + size - 8).to_bytes(4, layout.order)
    return Rewritten(source, bytes(header), chunk.start)
