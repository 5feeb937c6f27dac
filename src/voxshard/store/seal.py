"""Seals: every byte of a shard or merged file belongs to a block with a digest, and one digest covers all of these.

Format 2. Behind the HDF5 content follows the table: facts (JSON), then per block its end in the file (int64) and its
BLAKE3 digest (32 bytes). Blocks of at most 1 MiB start over at the first byte of every large array, so that a merged
file takes over the blocks of its shards. The user block of 512 bytes names the table and the digest of it:

    voxshard shard 2
    blake3 <64 hex digits>
    table <first byte> <bytes of facts> <number of blocks>

Format 1 had one SHA-256 over everything after the user block. It is read here as a table of a single block.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from voxshard import files
from voxshard.cpus import available_cpus
from voxshard.errors import CorruptFileError, FormatVersionError
from voxshard.store.layout import FORMAT_VERSION

USER_BLOCK_BYTES = 512
BLOCK_BYTES = 1 << 20
"""A single look-up that is checked reads this much; see docs/decisions/format-2.md."""

Kind = Literal["shard", "features"]
Range = tuple[int, int]
"""First byte, and the one after the last."""

_USER_BLOCK = re.compile(
    rb"voxshard (?P<kind>shard|features) (?P<version>\d+)\n"
    rb"(?:sha256 (?P<sha256>[0-9a-f]{64})\n"
    rb"|blake3 (?P<blake3>[0-9a-f]{64})\n(?P<table>table (?P<at>\d+) (?P<facts>\d+) (?P<blocks>\d+)\n))\0*"
)
READ_BYTES = BLOCK_BYTES
"""Read, hashed and written in one go: it stays in a core's cache meanwhile; with 4 MiB a merge took twice the CPU time
in the kernel."""
_CALL_BYTES = 1 << 30
"""One call reads at most 2 GiB on Linux."""
_ENTRY = np.dtype([("stop", "<i8"), ("digest", "V32")])
_MAX_THREADS = 4
_local = threading.local()


@dataclass(frozen=True, eq=False)
class Seal:
    """The digests that a file records about its own bytes."""

    path: Path
    version: int
    digest: str
    """Digest (hex) of the complete content."""
    stops: npt.NDArray[np.int64]
    """(M,) end of each block (exclusive); the first block starts after the user block."""
    digests: npt.NDArray[np.void]
    """(M,) digests of 32 bytes each."""
    facts: Mapping[str, Any]
    """Description of the content by its writer; empty in format 1."""

    @property
    def content_stop(self) -> int:
        """End of the HDF5 content (exclusive), in bytes."""
        return int(self.stops[-1]) if len(self.stops) else USER_BLOCK_BYTES

    def block(self, number: int) -> Range:
        """Return the byte range of one block."""
        return int(self.stops[number - 1]) if number else USER_BLOCK_BYTES, int(self.stops[number])

    def blocks_of(self, start: int, stop: int) -> range:
        """Return the numbers of the blocks that contain bytes `start` to `stop`."""
        if stop <= start:
            return range(0)
        first, last = np.searchsorted(self.stops, [start, stop - 1], side="right").tolist()
        return range(first, last + 1)

    def read_blocks(self, descriptor: int, blocks: range) -> memoryview:
        """Read neighbouring blocks and compare each with its digest.

        Returns
        -------
        Their bytes, in a buffer of this thread that its next read uses again.

        Raises
        ------
        CorruptFileError : a byte has changed, or the file became shorter.
        """
        start, stop = self.block(blocks[0])[0], int(self.stops[blocks[-1]])
        view = _buffer(stop - start)
        if fill(descriptor, view, start) < stop - start:
            raise broken_seal(self.path, f"ends before byte {stop}")
        for number in blocks:
            first, last = self.block(number)
            self.compare(number, view[first - start : last - start])
        return view

    def check(self, descriptor: int, numbers: Iterable[int] | None = None, *, threads: int | None = None) -> None:
        """Compare the given blocks (None: all) with their digests, by default in several threads.

        Raises
        ------
        CorruptFileError : see `read_blocks`.
        """
        if self.version == 1:
            if files.sha256_of(self.path, start=USER_BLOCK_BYTES) != self.digest:
                raise broken_seal(self.path)
            return
        pieces = list(self.pieces(range(len(self.stops)) if numbers is None else numbers))
        if len(pieces) < 2 or threads == 1:
            for piece in pieces:
                self.read_blocks(descriptor, piece)
            return
        with ThreadPoolExecutor(threads or num_threads()) as pool:
            for _ in pool.map(self.read_blocks, [descriptor] * len(pieces), pieces):
                pass

    def pieces(self, numbers: Iterable[int]) -> Iterator[range]:
        """Yield ranges of neighbouring blocks of at most `READ_BYTES` each."""
        run = range(0)
        for number in numbers:
            is_next = len(run) and number == run.stop
            if is_next and self.stops[number] - self.block(run.start)[0] <= READ_BYTES:
                run = range(run.start, number + 1)
                continue
            if len(run):
                yield run
            run = range(number, number + 1)
        if len(run):
            yield run

    def compare(self, number: int, content: memoryview) -> None:
        """Raise CorruptFileError unless the content matches the digest of a block."""
        if blake3(content).digest() != self.digests[number].tobytes():
            start, stop = self.block(number)
            raise broken_seal(self.path, f"bytes {start} to {stop}")


def num_threads() -> int:
    """Return the number of threads that read and hash; more than a few only compete for memory."""
    return min(_MAX_THREADS, available_cpus())


def digest_of(descriptor: int, start: int, stop: int) -> bytes:
    """Return the BLAKE3 digest of bytes `start` to `stop` of an open file.

    Raises
    ------
    CorruptFileError : the file ends before `stop`.
    """
    state = blake3()
    for first in range(start, stop, READ_BYTES):
        view = _buffer(min(READ_BYTES, stop - first))
        if fill(descriptor, view, first) < len(view):
            raise CorruptFileError(f"ends before byte {stop}; truncated")
        state.update(view)
    return state.digest()


def fill(descriptor: int, view: memoryview, start: int) -> int:
    """Read bytes of an open file from `start` on until a view is full or the file ends; return their number."""
    done = 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done : done + _CALL_BYTES]], start + done)
        if not count:
            break
        done += count
    return done


def _buffer(size: int) -> memoryview:
    """Return a buffer that belongs to this thread and is reused by every call."""
    buffer: memoryview = getattr(_local, "buffer", memoryview(b""))
    if len(buffer) < size:
        buffer = _local.buffer = memoryview(bytearray(max(size, READ_BYTES)))
    return buffer[:size]


def block_stops(start: int, stop: int) -> list[int]:
    """Return the ends of the blocks that divide bytes `start` to `stop`."""
    return [*range(start + BLOCK_BYTES, stop, BLOCK_BYTES), stop] if stop > start else []


def blocks_around(ranges: Sequence[Range], stop: int) -> Iterator[list[int]]:
    """Yield the ends of a file's blocks up to `stop`: before, in, between and after the given ranges, in order."""
    position = USER_BLOCK_BYTES
    for first, last in ranges:
        yield block_stops(position, first)
        yield block_stops(first, last)
        position = last
    yield block_stops(position, stop)


def seal_bytes(content: memoryview, kind: Kind, ranges: Sequence[Range], facts: Mapping[str, Any]) -> list[bytes]:
    """Seal a file that is in memory.

    Parameters
    ----------
    content : user block and HDF5 content.
    ranges : bytes of its large arrays, in order.

    Returns
    -------
    The user block to write instead of its first 512 bytes, and the table to append.
    """
    stops = [stop for part in blocks_around(ranges, len(content)) for stop in part]
    starts = [USER_BLOCK_BYTES, *stops[:-1]]
    digests = [blake3(content[start:stop]).digest() for start, stop in zip(starts, stops, strict=True)]
    return list(user_block_and_table(kind, len(content), stops, digests, facts))


def user_block_and_table(
    kind: Kind, content_stop: int, stops: Sequence[int], digests: Sequence[bytes], facts: Mapping[str, Any]
) -> tuple[bytes, bytes]:
    """Return the user block and the table of a file whose blocks have these ends and digests."""
    table = np.zeros(len(stops), _ENTRY)
    table["stop"] = stops
    table["digest"] = np.array(digests, "V32")
    text = json.dumps(facts, separators=(",", ":"), default=lambda number: number.item()).encode()
    content = text + table.tobytes()
    line = f"table {content_stop} {len(text)} {len(stops)}\n"
    digest = blake3(line.encode() + content).hexdigest()
    block = f"voxshard {kind} {FORMAT_VERSION}\nblake3 {digest}\n{line}".encode()
    return block.ljust(USER_BLOCK_BYTES, b"\0"), content


def read_digest(path: Path, kind: Kind) -> str:
    """Return the digest (hex) that a file records for its complete content; only 512 bytes are read.

    Raises
    ------
    CorruptFileError : too short, or not a file of this kind.
    FormatVersionError : written by a newer voxshard.
    """
    descriptor = files.open_to_read(path)
    try:
        match = _parse(path, kind, os.pread(descriptor, USER_BLOCK_BYTES, 0))
    finally:
        os.close(descriptor)
    return (match["sha256"] or match["blake3"]).decode()


def read_seal(path: Path, kind: Kind, descriptor: int | None = None) -> Seal:
    """Read the user block and the table of a file, and check the table.

    Raises
    ------
    CorruptFileError : too short, not a file of this kind, or its table was changed.
    FormatVersionError : written by a newer voxshard.
    """
    if descriptor is None:
        descriptor = files.open_to_read(path)
        try:
            return read_seal(path, kind, descriptor)
        finally:
            os.close(descriptor)
    match = _parse(path, kind, os.pread(descriptor, USER_BLOCK_BYTES, 0))
    size = os.fstat(descriptor).st_size
    if match["sha256"]:
        digest = match["sha256"].decode()
        digests = np.array([bytes.fromhex(digest)], "V32")
        return Seal(path, 1, digest, np.array([size], np.int64), digests, {})
    at, facts_bytes, count = int(match["at"]), int(match["facts"]), int(match["blocks"])
    digest = match["blake3"].decode()
    if at + facts_bytes + count * _ENTRY.itemsize != size:
        raise broken_seal(path)
    content = bytearray(size - at)
    fill(descriptor, memoryview(content), at)
    if blake3(match["table"] + content).hexdigest() != digest:
        raise broken_seal(path)
    table = np.frombuffer(content, _ENTRY, count, facts_bytes)
    return Seal(path, 2, digest, table["stop"], table["digest"], json.loads(content[:facts_bytes]))


def _parse(path: Path, kind: Kind, block: bytes) -> re.Match[bytes]:
    match = _USER_BLOCK.fullmatch(block)
    header = re.match(rb"voxshard (shard|features) (\d+)\n", block)
    if header and header[1].decode() == kind and int(header[2]) > FORMAT_VERSION:
        raise newer_format(path, int(header[2]))
    is_known = match and match["kind"].decode() == kind and bool(match["sha256"]) == (match["version"] == b"1")
    if len(block) < USER_BLOCK_BYTES or not match or not is_known:
        raise CorruptFileError(
            f"{path}: does not start with the 512 bytes of a voxshard {kind} file; damaged, or something else"
        )
    return match


def check_seal(path: Path, kind: Kind, *, threads: int | None = None) -> Seal:
    """Read every byte of a file and compare it with its digests, by default in several threads.

    Raises
    ------
    CorruptFileError : truncated, or a byte has changed.
    """
    descriptor = files.open_to_read(path)
    try:
        seal = read_seal(path, kind, descriptor)
        seal.check(descriptor, threads=threads)
    finally:
        os.close(descriptor)
    return seal


def hash_blocks(descriptor: int, starts: Sequence[int], stops: Sequence[int]) -> list[bytes]:
    """Return the digests of the blocks of an open file, computed in several threads."""
    with ThreadPoolExecutor(num_threads()) as pool:
        return list(pool.map(partial(digest_of, descriptor), starts, stops))


def newer_format(path: Path, version: int) -> FormatVersionError:
    """Return the error for a file whose format is newer than this program supports."""
    return FormatVersionError(f"{path}: format {version}, this voxshard reads up to {FORMAT_VERSION}; update it")


ADVICE = "run `voxshard verify` on its set"
"""What to do about a file with a broken seal; `voxshard verify` has its own advice."""


def broken_seal(path: Path, where: str = "") -> CorruptFileError:
    """Return the error for a file whose bytes do not match its digests."""
    at = f" ({where})" if where else ""
    return CorruptFileError(
        f"{path}: truncated or changed: its {path.stat().st_size} bytes do not match the digests it was sealed "
        f"with{at}; {ADVICE}"
    )
