"""The large arrays of shards, copied into one file: each byte is read once, compared with its digest and written.

Several threads work on pieces of a few blocks, each in the memory of one block. The blocks of the shards become those
of the merged file, so that their digests are taken over and not computed again.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from blake3 import blake3

from voxshard.progress import Progress
from voxshard.store import hdf5, seal
from voxshard.store.merged import Blocks, write_at
from voxshard.store.seal import Range
from voxshard.store.shard import ShardSummary

_BLOCKS_AT_ONCE = 16
_JOBS_PER_THREAD = 4


@dataclass(frozen=True)
class _Job:
    """Some blocks of one shard that belong together: to one of its large arrays, or to the remainder of the file."""

    shard: ShardSummary
    blocks: Sequence[Range]
    digests: Sequence[bytes | None]
    """None: not known before, of a shard of format 1 that was checked as one."""
    target: int | None
    """Where the first byte of `blocks` goes in the merged file; None: it is only checked."""
    dataset: str | None
    is_last: bool
    """True for the last piece of its shard."""


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
    waiting: deque[tuple[_Job, Future[list[bytes]]]] = deque()

    def finish() -> None:
        job, future = waiting.popleft()
        digests = future.result()
        if job.dataset is not None and job.target is not None:
            stops, known = blocks[job.dataset]
            shift = job.target - job.blocks[0][0]
            stops += [stop + shift for _, stop in job.blocks]
            known += digests
        if job.is_last:
            check()
            progress.advance()

    pool = ThreadPoolExecutor(seal.num_threads())
    try:
        for job in _jobs(shards, places):
            waiting.append((job, pool.submit(_run, job, descriptor)))
            if len(waiting) >= _JOBS_PER_THREAD * seal.num_threads():
                finish()
        while waiting:
            finish()
    finally:
        pool.shutdown(cancel_futures=True)
    return blocks


def _jobs(shards: Sequence[ShardSummary], places: Mapping[str, int]) -> Iterator[_Job]:
    position = dict(places)
    for shard in shards:
        ranges = {name: hdf5.range_of(shard.datasets[name]) for name in places if name in shard.datasets}
        jobs = list(_jobs_of_format_1(shard, ranges) if shard.seal.version == 1 else _jobs_of(shard, ranges))
        for number, (dataset, blocks, digests) in enumerate(jobs):
            target = None
            if dataset is not None:
                target = position[dataset] + blocks[0][0] - ranges[dataset][0]
            yield _Job(shard, blocks, digests, target, dataset, number == len(jobs) - 1)
        for name, (start, stop) in ranges.items():
            position[name] += stop - start


_Part = tuple[str | None, list[Range], Sequence[bytes | None]]


def _jobs_of(shard: ShardSummary, ranges: Mapping[str, Range]) -> Iterator[_Part]:
    def dataset_of(number: int) -> str | None:
        start, _ = shard.seal.block(number)
        return next((name for name, (first, last) in ranges.items() if first <= start < last), None)

    for dataset, group in itertools.groupby(range(len(shard.seal.stops)), dataset_of):
        for numbers in _cut(group):
            blocks = [shard.seal.block(number) for number in numbers]
            yield dataset, blocks, [shard.seal.digests[number].tobytes() for number in numbers]


def _cut(numbers: Iterator[int]) -> Iterator[list[int]]:
    while piece := list(itertools.islice(numbers, _BLOCKS_AT_ONCE)):
        yield piece


def _jobs_of_format_1(shard: ShardSummary, ranges: Mapping[str, Range]) -> Iterator[_Part]:
    seal.check_seal(shard.path, "shard")
    yield None, [], []
    for dataset, (start, stop) in ranges.items():
        stops = seal.block_stops(start, stop)
        blocks = list(zip([start, *stops[:-1]], stops, strict=True))
        for first in range(0, len(blocks), _BLOCKS_AT_ONCE):
            piece = blocks[first : first + _BLOCKS_AT_ONCE]
            yield dataset, piece, [None] * len(piece)


def _run(job: _Job, target: int) -> list[bytes]:
    if not job.blocks:
        return []
    found = []
    shift = None if job.target is None else job.target - job.blocks[0][0]
    descriptor = os.open(job.shard.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for (start, stop), wanted in zip(job.blocks, job.digests, strict=True):
            state = blake3()
            position = start
            for view in seal.read_pieces(descriptor, start, stop):
                state.update(view)
                if shift is not None:
                    write_at(target, view, position + shift)
                position += len(view)
            found.append(state.digest())
            if wanted is not None and found[-1] != wanted:
                raise seal.broken_seal(job.shard.path, f"bytes {start} to {stop}")
    finally:
        os.close(descriptor)
    return found
