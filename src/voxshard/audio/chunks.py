"""Containers of chunks (WAV and its relatives, AIFF, CAF): where the samples are, and whether the header is right.

libsndfile takes the sizes in a header as they are: a size of 0 means no samples to it, a size that wrapped at 4 GiB
means a short recording, and a size beyond the end of the file means that the file ends there.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Literal, NamedTuple

from voxshard.audio.sources import Source
from voxshard.audio.views import Rewritten

_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_MAX_CHUNKS = 1000
_WRAP = 1 << 32
_WRAP_SLACK = 1 << 20
"""A size that wrapped at 4 GiB may leave this many bytes for the chunks that follow the samples."""
LARGEST_EXCESS = 44
"""A header may promise as many bytes too much as a usual WAV header has: writers count themselves (cryptix/wav#10)."""
_SHORTEST_WAV = 44
_FEW_BYTES = 4096
"""Trailing bytes of a program's own, at most this many, are no samples."""


@dataclass(frozen=True)
class _Layout:
    """How a container of chunks is laid out."""

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
_MULTIPLE = (b"RIFF", b"RIFX", b"RF64", b"BW64")
_MP3_TAG = 0x55
_BLOCK_CODINGS = (0x02, 0x11, 0x31)  # Microsoft ADPCM, IMA ADPCM, GSM 6.10: blocks of bytes, each a number of samples
_GSM_TAG = 0x31
_EXTENSIBLE_TAG = 0xFFFE
_PLAIN_TAGS = (1, 3, 6, 7)  # integers, floats, A-law, u-law
_PLAIN_WORDS = (b"lpcm", b"NONE", b"sowt", b"fl32", b"alaw", b"ulaw")  # of CAF and AIFF-C


class Format(NamedTuple):
    """The format chunk of a WAV."""

    tag: int
    block_bytes: int
    block_samples: int
    """Samples per block of a block coding; 0 otherwise."""


class DataChunk(NamedTuple):
    """The chunk with the samples."""

    size_offset: int
    start: int
    size: int
    """Size as the header states it."""
    format: Format | None
    """None where the container is no WAV."""


class Samples(NamedTuple):
    """Where a container's samples really are."""

    source: Source
    """The file, or the file with a header whose size is right."""
    start: int
    """Offset of the samples in the file, not in `source`."""
    end: int
    """Offset of their end in the file."""
    format: Format | None
    excess: int
    """Bytes that the header promises beyond the end of the file."""
    num_frames: int | None
    """Frames in complete blocks, where libsndfile counts wrongly; None: its count is right."""
    warnings: tuple[str, ...] = ()

    @property
    def is_small_excess(self) -> bool:
        """Whether nothing needs to be missing: writers of headers make such mistakes."""
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
    excess = max(0, size - available)
    size = min(size, available)
    end = chunk.start + size
    # BW64 and RF64 have their size in the ds64 chunk, which states -1 where the writer could not seek back.
    opened = _with_size(source, layout, chunk, size) if is_rewritten and size else source
    warnings = _after_samples(source, end) if magic in _MULTIPLE and not is_rewritten and not excess else ()
    return Samples(opened, chunk.start, end, chunk.format, excess, _frames(magic, chunk, size, excess), warnings)


def _real_size(source: Source, layout: _Layout, chunk: DataChunk, available: int) -> tuple[int, bool]:
    """Size of the samples in bytes, and whether the header needs another one than it has."""
    if layout.size_bytes == 8:
        unknown = chunk.size < 0 or chunk.size >= 1 << 63
        return (available, available > 0) if unknown else (chunk.size, False)
    if chunk.size == 0:
        unknown = available > 0 and not _is_chunk(source, chunk.start)
        return (available, True) if unknown else (0, False)
    if chunk.size >= _WRAP:  # from ds64
        return (available, True) if chunk.size >= 1 << 63 else (chunk.size, False)
    if is_streamed(chunk.size) and chunk.size != available:
        return available, chunk.size < available
    if available >= _WRAP and chunk.size < available:
        wrapped = chunk.size + round((available - chunk.size) / _WRAP) * _WRAP
        if abs(available - wrapped) <= _WRAP_SLACK:
            return min(wrapped, available), True
    return chunk.size, False


def is_streamed(size: int) -> bool:
    """Whether a 32-bit size is what writers leave that cannot seek back (a pipe).

    ffmpeg writes 0xFFFFFFFF, arecord 0x80000000, SoX 0x7FFFF000; others subtract the size of their header.
    """
    return 0x7FFF0000 <= size <= 0x80010000 or size >= 0xFFFF0000


def _data_chunk(source: Source, layout: _Layout) -> DataChunk | None:
    """The chunk with the samples; None where there is none."""
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


def _frames(magic: bytes, chunk: DataChunk, size: int, excess: int) -> int | None:
    """Frames in the complete blocks, where libsndfile makes one more of what follows the last (libsndfile#482)."""
    about = chunk.format
    if magic == b"FORM":
        return None
    if about is None or not about.block_bytes or not about.block_samples:
        return None
    if about.tag == _GSM_TAG or (excess and about.tag in _BLOCK_CODINGS):
        return size // about.block_bytes * about.block_samples
    return None


def _is_chunk(source: Source, offset: int) -> bool:
    """Whether a chunk that fits into the file begins at an offset."""
    header = source.read_at(offset, 8)
    if len(header) < 8 or not re.fullmatch(rb"[A-Za-z0-9 _]{4}", header[:4]):
        return False
    order: Literal["little", "big"] = "big" if source.head[:4] in (b"RIFX", b"FORM") else "little"
    return offset + 8 + int.from_bytes(header[4:], order) <= source.num_bytes


def _after_samples(source: Source, end: int) -> tuple[str, ...]:
    """What a person should know of the bytes that follow the samples; nothing where they are chunks of notes."""
    end += end % 2
    left = source.num_bytes - end
    if left < 8 or source.read_at(end, 4) in _MULTIPLE:
        return ()
    if source.read_at(end, 4) == b"data" and _is_chunk(source, end):
        return (f"a second data chunk after the first is not read ({left} bytes)",)
    if left > _FEW_BYTES and not _is_chunk(source, end):
        return (f"{left} bytes after the samples are not read: its header counts only those before them",)
    return ()


def next_recording(source: Source, samples: Samples) -> int | None:
    """Offset of a second WAV that follows the first; None where there is none."""
    if samples.end + _SHORTEST_WAV > source.num_bytes:
        return None
    end = samples.end + samples.end % 2
    for offset in {samples.end, end}:
        if source.head[:4] in _MULTIPLE and source.read_at(offset, 4) in _MULTIPLE:
            return offset if source.read_at(offset + 8, 4) == b"WAVE" else None
    return None


def _with_size(source: Source, layout: _Layout, chunk: DataChunk, size: int) -> Source:
    """The file, with `size` in its header; a WAV of more than 2 GiB becomes RF64 (EBU Tech 3306)."""
    header = bytearray(source.read_at(0, chunk.start))
    if layout.size_bytes == 4 and size >= 1 << 31 and layout.order == "little":
        ds64 = b"ds64" + struct.pack("<IQQQI", 28, len(header) + 36 + size - 8, size, 0, 0)
        fields = bytes(header[12 : chunk.size_offset])
        if source.head[:4] in (b"RF64", b"BW64"):  # in place of its own
            fields = re.sub(rb"^ds64.{4}.{24,}?(?=fmt |bext|JUNK|data)", b"", fields, flags=re.DOTALL)
        new = b"RF64\xff\xff\xff\xffWAVE" + ds64 + fields + b"\xff\xff\xff\xff"
        return Rewritten(source, new, chunk.start)
    stored = size + layout.id_bytes + layout.size_bytes if layout.size_counts_header else size
    field = slice(chunk.size_offset, chunk.size_offset + layout.size_bytes)
    header[field] = stored.to_bytes(layout.size_bytes, layout.order)
    if source.head[:4] in (b"RIFF", b"RIFX"):
        header[4:8] = (chunk.start + size - 8).to_bytes(4, layout.order)
    return Rewritten(source, bytes(header), chunk.start)
