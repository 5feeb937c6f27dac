"""Copying of the shards' large arrays into one file: each byte is read once, compared with its digest and written.

Several threads work on some blocks each, in a buffer that is used again. The blocks of the shards become those of the
merged file, so that their digests are taken over and not computed again.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from voxshard import files
from voxshard.progress import Progress
from voxshard.store import hdf5, seal
from voxshard.store.hdf5 import BULK
from voxshard.store.layout import FORMAT_VERSION
from voxshard.store.merged import Blocks, write_at
from voxshard.store.seal import Range, Seal
from voxshard.store.shard import ShardSummary

_JOB_BYTES = 16 << 20
_JOBS_PER_THREAD = 4
_SYNC_BYTES = 128 << 20
"""What has been written goes to the disk in pieces of this size, while the next ones are copied."""


@dataclass(frozen=True)
class _Piece:
    """Some neighbouring blocks of one shard."""

    seal: Seal
    blocks: range
    copies: Sequence[tuple[Range, int]]
    """The byte ranges of the shard to copy, each with its position in the merged file."""

    @property
    def num_bytes(self) -> int:
        return int(self.seal.stops[self.blocks[-1]]) - self.seal.block(self.blocks[0])[0]

    @property
    def is_last(self) -> bool:
        """Whether this piece contains the last block of the shard."""
        return self.blocks.stop == len(self.seal.stops)


def copy_shards(
    shards: Sequence[ShardSummary],
    descriptor: int,
    places: Mapping[str, int],
    progress: Progress,
    check: Callable[[], None],
) -> dict[str, Blocks]:
    """Check every byte of the shards and write their large arrays into an open file, one shard after the other.

    Parameters
    ----------
    places : first byte of each array in the file; empty: nothing is written.
    check : called now and then; raises if the user asked to stop.

    Returns
    -------
    The blocks written, per array.

    Raises
    ------
    CorruptFileError : a shard is truncated, or a byte of it has changed.
    """
    blocks: dict[str, Blocks] = {name: ([], []) for name in places}
    waiting: deque[tuple[list[_Piece], Future[None]]] = deque()
    num_threads = seal.num_threads()
    unsynced = 0
    synced: Future[None] | None = None
    writing = threading.Lock()

    def finish() -> None:
        nonlocal unsynced, synced
        job, future = waiting.popleft()
        future.result()
        check()
        progress.advance(sum(piece.is_last for piece in job))
        unsynced += sum(piece.num_bytes for piece in job) if places else 0
        if unsynced >= _SYNC_BYTES and (synced is None or synced.done()):
            if synced is not None:
                synced.result()
            synced, unsynced = disk.submit(os.fdatasync, descriptor), 0

    pool, disk = ThreadPoolExecutor(num_threads), ThreadPoolExecutor(1)
    try:
        for job in _jobs(shards, places, blocks):
            waiting.append((job, pool.submit(_copy, job, descriptor, writing)))
            if len(waiting) >= _JOBS_PER_THREAD * num_threads:
                finish()
        while waiting:
            finish()
        if synced is not None:
            synced.result()
    finally:
        pool.shutdown(cancel_futures=True)
        disk.shutdown(cancel_futures=True)
    return blocks


def _jobs(
    shards: Sequence[ShardSummary], places: Mapping[str, int], blocks: Mapping[str, Blocks]
) -> Iterator[list[_Piece]]:
    """Yield the pieces that one thread copies at a time: part of a large shard, or several small shards."""
    job: list[_Piece] = []
    size = 0
    for piece in _pieces(shards, places, blocks):
        job.append(piece)
        size += max(piece.num_bytes, _JOB_BYTES // 64)
        if size >= _JOB_BYTES:
            yield job
            job, size = [], 0
    if job:
        yield job


def _pieces(
    shards: Sequence[ShardSummary], places: Mapping[str, int], blocks: Mapping[str, Blocks]
) -> Iterator[_Piece]:
    position = dict(places)
    for shard in shards:
        table = _blocks_of_format_1(shard) if shard.seal.version == 1 else shard.seal
        copies = []
        for name in places:
            start, stop = hdf5.range_of(shard.datasets[name]) if name in shard.datasets else (0, 0)
            if start == stop:
                continue
            numbers = table.blocks_of(start, stop)
            stops, digests = blocks[name]
            stops += (table.stops[numbers.start : numbers.stop] + (position[name] - start)).tolist()
            digests += [table.digests[number].tobytes() for number in numbers]
            copies.append(((start, stop), position[name]))
            position[name] += stop - start
        for run in table.pieces(range(len(table.stops))):
            yield _Piece(table, run, copies)


def _blocks_of_format_1(shard: ShardSummary) -> Seal:
    """Check a complete shard of format 1 and divide its bytes into blocks, as in format 2."""
    seal.check_seal(shard.path, "shard")
    ranges = sorted(hdf5.range_of(dataset) for name, dataset in shard.datasets.items() if name in BULK.values())
    with open(shard.path, "rb", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        around = seal.blocks_around([item for item in ranges if item[1]], size)
        stops = [stop for part in around for stop in part]
        digests = seal.hash_blocks(stream.fileno(), [seal.USER_BLOCK_BYTES, *stops[:-1]], stops)
    return replace(
        shard.seal, version=FORMAT_VERSION, stops=np.array(stops, np.int64), digests=np.array(digests, "V32")
    )


def _copy(job: Sequence[_Piece], target: int, writing: threading.Lock) -> None:
    """Check and copy pieces. Only one thread writes at a time, because the kernel would make the others spin."""
    for path, pieces in itertools.groupby(job, key=lambda piece: piece.seal.path):
        descriptor = files.open_to_read(path)
        try:
            for piece in pieces:
                view = piece.seal.read_blocks(descriptor, piece.blocks)
                begin, end = piece.seal.block(piece.blocks[0])[0], int(piece.seal.stops[piece.blocks[-1]])
                for (start, stop), place in piece.copies:
                    first, last = max(start, begin), min(stop, end)
                    if first < last:
                        with writing:
                            write_at(target, view[first - begin : last - begin], place + first - start)
        finally:
            os.close(descriptor)
