"""Other bytes around a recording's own: a corrected header, or the same frames several times over, without a copy."""

from __future__ import annotations

import io
import os

from voxshard.audio.sources import HEAD_BYTES, Source

_COPIED = 1 << 25
"""Up to this number of bytes, repeated bytes are copied."""


class _ViewStream(io.RawIOBase):
    """Source as a file object that `soundfile.SoundFile` opens."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._source.num_bytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        block = self._source.read_at(self._position, len(buffer))
        buffer[: len(block)] = block
        self._position += len(block)
        return len(block)


class Rewritten(Source):
    """Bytes of `source` from `skip` on, with other first bytes before them."""

    def __init__(self, source: Source, first: bytes, skip: int) -> None:
        self._source, self._first, self._skip = source, first, skip
        self.num_bytes = len(first) + source.num_bytes - skip
        self.head = b""
        self.head = self._read(0, HEAD_BYTES)

    def _read(self, offset: int, num_bytes: int) -> bytes:
        block = self._first[offset : offset + num_bytes]
        left = num_bytes - len(block)
        if left and offset + len(block) < self.num_bytes:
            block += self._source.read_at(self._skip + max(0, offset - len(self._first)), left)
        return block

    def whole(self) -> bytes:
        return self._read(0, self.num_bytes)

    def for_libsndfile(self) -> int | io.RawIOBase | io.BytesIO:
        return _ViewStream(self)


class Repeated(Source):
    """Source that repeats the same bytes `times` times."""

    def __init__(self, content: bytes, times: int) -> None:
        self._content = content
        self.num_bytes = len(content) * times
        self.head = content[:HEAD_BYTES]

    def _read(self, offset: int, num_bytes: int) -> bytes:
        num_bytes = min(num_bytes, self.num_bytes - offset)
        block = b""
        while len(block) < num_bytes:
            start = (offset + len(block)) % len(self._content)
            block += self._content[start : start + num_bytes - len(block)]
        return block

    def whole(self) -> bytes:
        return self._content

    def for_libsndfile(self) -> int | io.RawIOBase | io.BytesIO:
        if self.num_bytes <= _COPIED:  # faster: a decoder reads a few hundred bytes at a time
            return io.BytesIO(self._content * (self.num_bytes // len(self._content)))
        return _ViewStream(self)
