"""Read the headers of a complete corpus in parallel: sizes, durations, and what cannot be read.

Processes, not threads: opening a file through libsndfile is mostly Python, and threads that share one interpreter are
slower than a plain loop (measured: `bench/prepare.py --threads`). Only URLs are probed by threads, which wait for the
network most of the time.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeAlias

import pyarrow as pa

from voxshard import audio
from voxshard.corpora.headers import ProbeOne, Row, Source, probe, probe_many, reason
from voxshard.corpora.process import begin_process
from voxshard.cpus import available_cpus
from voxshard.errors import WorkerCrashedError
from voxshard.manifest import COLUMNS

SCHEMA = pa.schema(
    [pa.field(name, COLUMNS[name]) for name in ("duration_s", "sample_rate", "num_channels", "num_bytes", "problem")]
    + [pa.field("format", pa.string()), pa.field("warning", pa.string())]
)

_CHUNK = 256  # files per message between processes
_FEW = 4000  # up to here starting processes takes longer than the probing
_MOST_PROCESSES = 16
_URL_THREADS, _URL_CHUNK = 32, 4
Work: TypeAlias = Callable[[Sequence[Source]], list[Row]]


def probe_all(
    root: str,
    paths: pa.Array,
    *,
    headers: bool = True,
    on_rows: Callable[[int, float], None] = lambda items, audio_s: None,
    num_processes: int | None = None,
    probe_one: ProbeOne | None = None,
) -> pa.Table:
    """Probe every recording.

    Parameters
    ----------
    root, paths : as in a manifest.
    headers : False finds sizes and missing files only, without opening anything.
    on_rows : called after each bunch with how many files and seconds of audio it held; may raise to stop.
    num_processes : default as many as there are CPUs here, at most 16; none for up to 4,000 files, or for sizes only.
    probe_one : for tests: what to do with one full path, importable in a fresh process.

    Returns
    -------
    Table with SCHEMA's columns, one row per path, in order. `problem` is `<error class>: <reason>`, or null;
    `warning` what is odd about a recording that can be decoded.

    Raises
    ------
    TransientFaultError : the storage failed for reasons outside the recording, and kept failing.
    """
    work = functools.partial(probe_many, root, headers=headers, probe_one=probe_one or probe)
    has_urls = audio.is_url(root) or any(audio.is_url(path) for path in paths.to_pylist())
    chunk = _URL_CHUNK if has_urls else _CHUNK
    bunches = (paths.slice(start, chunk).to_pylist() for start in range(0, len(paths), chunk))
    if num_processes is None:
        num_processes = 0 if len(paths) <= _FEW or not headers else min(available_cpus(), _MOST_PROCESSES)
    if has_urls:
        results = _in_pool(bunches, work, functools.partial(ThreadPoolExecutor, _URL_THREADS), 2 * _URL_THREADS)
    elif num_processes:
        results = _in_pool(bunches, work, functools.partial(_processes, num_processes), 4 * num_processes)
    else:
        results = (work(bunch) for bunch in bunches)
    batches = []
    for rows in results:
        batches.append(pa.record_batch([list(column) for column in zip(*rows, strict=True)], schema=SCHEMA))
        on_rows(len(rows), sum(row[0] or 0.0 for row in rows))
    return pa.Table.from_batches(batches, schema=SCHEMA)


def _in_pool(
    bunches: Iterator[list[Source]], work: Work, pool: Callable[[], Executor], most_waiting: int
) -> Iterator[list[Row]]:
    """Yield results in order; bunches that a dying process took with it are probed again."""
    waiting: deque[tuple[list[Source], Future[list[Row]] | None]] = deque()
    executor = pool()
    try:
        while True:
            try:
                for bunch in bunches:
                    waiting.append((bunch, None))  # first the bunch: submitting to a pool that just broke raises
                    waiting[-1] = (bunch, executor.submit(work, bunch))
                    if len(waiting) >= most_waiting:
                        yield _first(waiting)
                while waiting:
                    yield _first(waiting)
                return
            except BrokenProcessPool:
                for bunch, _ in waiting:
                    yield _carefully(bunch, work)
                waiting.clear()
                executor = pool()
    finally:
        executor.shutdown(cancel_futures=True)


def _first(waiting: deque[tuple[list[Source], Future[list[Row]] | None]]) -> list[Row]:
    future = waiting[0][1]
    assert future is not None
    rows = future.result()
    waiting.popleft()
    return rows


def _carefully(bunch: list[Source], work: Work) -> list[Row]:
    """Probe a bunch that may contain a recording which kills the process: halve it until that one is isolated."""
    rows: list[Row] = []
    todo = [bunch]
    executor = _processes(1)
    try:
        while todo:
            some = todo.pop()
            try:
                rows += executor.submit(work, some).result()
            except BrokenProcessPool:
                executor.shutdown()
                executor = _processes(1)
                middle = len(some) // 2
                if middle:
                    todo += [some[middle:], some[:middle]]
                else:
                    crash = WorkerCrashedError("reading its header kills the process")
                    rows.append((None, None, None, None, reason(crash), None, None))
    finally:
        executor.shutdown(cancel_futures=True)
    return rows


def _processes(count: int) -> Executor:
    # Spawned, not forked: whoever calls may have threads, and a forked lock stays locked.
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=begin_process)
