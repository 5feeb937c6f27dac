"""Verification of a feature set on disk; every problem is reported separately."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from voxshard import files
from voxshard.errors import CorruptFileError, DataError, DuplicateIdError, IncompleteError, StaleShardError
from voxshard.files import quoted
from voxshard.progress import Progress
from voxshard.store import hdf5, lookup, merged, seal, structure
from voxshard.store.features import FeatureSet, is_stale
from voxshard.store.hdf5 import BULK
from voxshard.store.inventory import ShardInventory
from voxshard.store.layout import FeatureDir, Identity
from voxshard.store.mapped import MappedFile
from voxshard.store.shard_checks import check_contents, check_shard

_ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Problem:
    """A problem with one file."""

    path: Path
    error: DataError
    is_bad_file: bool = True
    """Whether the file itself is bad, so that it is made again after it was moved; otherwise something is missing."""


@dataclass(frozen=True)
class Verdict:
    """Result of `verify`."""

    num_shards: int
    """Number of shards that were checked."""
    num_pending: int
    """Number of shards of splits that no task has started."""
    is_merged: bool
    problems: list[Problem]
    temporaries: list[Path]
    """Temporary files that interrupted (or running) writers have left."""


def verify(folder: FeatureDir, progress: Progress, check: Callable[[], None]) -> Verdict:
    """Read every byte of a feature set and validate it against its checksums, its plan and its identity.

    Parameters
    ----------
    check : called now and then; raises if a stop was requested.

    Raises
    ------
    IncompleteError : no feature set here.
    IdentityError, CorruptFileError : identity, plan and manifest do not belong together, so nothing can be judged.
    """
    problems: list[Problem] = []
    summary = None
    with suppress(CorruptFileError):  # named below, among the merged files
        summary = merged.read_summary(folder)
    identity = Identity.read(folder.identity)
    try:
        identity.check_files(folder)
    except DataError as exc:
        problems.append(Problem(folder.manifest, exc, is_bad_file=False))
    num_shards = num_pending = 0
    if identity.num_shards and not (summary and summary["shards"]["deleted"]):
        inventory = ShardInventory.scan(folder)
        num_shards, num_pending = len(inventory.present), len(inventory.pending)
        progress.begin("verify shards", items=num_shards)
        for found in _of_shards(inventory, check):
            problems += found
            progress.advance()
        problems += [Problem(path, inventory.not_in_plan(path)) for path in inventory.foreign]
        for path in map(inventory.path, inventory.missing):
            error = IncompleteError(f"{path}: missing; run `voxshard retry {quoted(folder.path)}`")
            problems.append(Problem(path, error, is_bad_file=False))
    if folder.summary.exists() or folder.features.exists():
        progress.begin("verify merged files", items=1)
        problems += _of_merged(folder)
        progress.advance()
    places = (folder.path, folder.shards, folder.progress)
    temporaries = sorted(path for place in places for path in place.glob("*.tmp"))
    problems = [_with_own_advice(problem, folder) for problem in problems]
    return Verdict(num_shards, num_pending, summary is not None, problems, temporaries)


def quarantine(problems: list[Problem]) -> list[Path]:
    """Rename bad files to NAME.corrupt, so that they count as missing, and return their original paths."""
    moved = []
    for path in dict.fromkeys(problem.path for problem in problems if problem.is_bad_file):
        path.replace(path.with_name(f"{path.name}.corrupt"))
        moved.append(path)
        files.fsync_folder(path.parent)
    return moved


def _with_own_advice(problem: Problem, folder: FeatureDir) -> Problem:
    """Return the problem with what comes after `verify`, if its advice is to run that."""
    text = str(problem.error)
    if not text.endswith(seal.ADVICE):
        return problem
    command, path = "merge" if problem.path == folder.features else "retry", quoted(folder.path)
    advice = f"`voxshard verify --quarantine {path}` moves it away, then `voxshard {command} {path}` makes it again"
    return replace(problem, error=CorruptFileError(text.removesuffix(seal.ADVICE) + advice))


def _of_shards(inventory: ShardInventory, check: Callable[[], None]) -> Iterator[list[Problem]]:
    """Yield the problems of each shard, in order; several shards are checked at the same time."""
    waiting: deque[Future[list[Problem]]] = deque()
    pool = ThreadPoolExecutor(seal.num_threads())
    try:
        for index in inventory.present:
            ids = inventory.plan.ids(*inventory.shards.rows(index))
            waiting.append(pool.submit(_of_shard, inventory.path(index), index, inventory.identity, ids))
            if len(waiting) > 2 * seal.num_threads():
                yield waiting.popleft().result()
            check()
        while waiting:
            yield waiting.popleft().result()
            check()
    finally:
        pool.shutdown(cancel_futures=True)


def _of_shard(path: Path, index: int, identity: Identity, ids: pa.Array) -> list[Problem]:
    """Return the problems of one shard. The content of a shard with changed bytes is checked, too: it may show the
    cause."""
    found: list[DataError] = []
    try:
        seal.check_seal(path, "shard", threads=1)
    except FileNotFoundError:
        return [Problem(path, IncompleteError(f"{path}: gone while it was checked"))]
    except DataError as exc:
        found.append(exc)
    is_sealed = not found
    try:
        if is_sealed:
            check_shard(path, index=index, identity=identity, ids=ids)
        check_contents(path, ids=ids)
    except DataError as exc:
        if is_sealed or not isinstance(exc, CorruptFileError):
            found.append(exc)
    return [Problem(path, error) for error in found]


def _of_merged(folder: FeatureDir) -> Iterator[Problem]:
    again = f"run `voxshard merge {quoted(folder.path)}`"
    try:
        summary = merged.read_summary(folder)
    except DataError as exc:
        yield Problem(folder.summary, exc)
        return
    absent = [
        path for path in (folder.features, folder.utterances, folder.failures, folder.summary) if not path.exists()
    ]
    for path in absent:
        yield Problem(path, IncompleteError(f"{path}: missing; {again}"), is_bad_file=False)
    if absent or summary is None:
        return
    try:
        seal.check_seal(folder.features, "features")
    except DataError as exc:
        yield Problem(folder.features, exc)
        return
    if is_stale(folder.path):
        error = StaleShardError(f"{folder.path}: shards were added or rewritten after the merge; {again}")
        yield Problem(folder.path, error, is_bad_file=False)
    damaged = merged.differs_from_summary(folder, summary)
    for path in damaged:
        yield Problem(path, CorruptFileError(f"{path}: does not match its SHA-256 in summary.json; {again}"))
    if not damaged and not summary["stale"]:
        yield from _of_rows(folder)


def _of_rows(folder: FeatureDir) -> Iterator[Problem]:
    """Compare the rows of the merged files piece by piece; this needs about 9 bytes of memory per row."""
    try:
        features = FeatureSet(folder.path)
        arrays = _Arrays(folder.features)
        hashes = np.empty(len(features), np.uint64)
        with hdf5.reading(folder.features) as file, _opened(folder.utterances) as table:
            texts = file["utterance_id"]
            if not len(texts) == table.metadata.num_rows == len(features):
                error = f"{table.metadata.num_rows} rows, {folder.features} has {len(features)} and {len(texts)}"
                yield Problem(folder.utterances, CorruptFileError(f"{folder.utterances}: {error}"))
                return
            start = 0
            for batch in table.iter_batches(_ROWS_AT_ONCE, columns=["utterance_id"], use_threads=False):
                stop = start + len(batch)
                names = batch["utterance_id"].cast(pa.binary()).to_pylist()
                if texts[start:stop].tolist() != names:
                    error = f"{folder.utterances}: its rows are not those of {folder.features.name}"
                    yield Problem(folder.utterances, CorruptFileError(error))
                    return
                if arrays.names(start, stop) != names:
                    error = f"{folder.features}: /id_text does not hold its utterance_ids"
                    yield Problem(folder.features, CorruptFileError(error))
                    return
                hashes[start:stop] = lookup.hash_texts(names)
                start = stop
        if not lookup.leads_to_rows(hashes, arrays.slots()):
            error = f"{folder.features}: its look-up table does not lead to its rows"
            yield Problem(folder.features, CorruptFileError(error))
        for name in _twice(folder, hashes):
            error = f"{folder.features}: utterance {name!r} appears in it twice"
            yield Problem(folder.features, DuplicateIdError(error))
        offsets = features.offsets
        if offsets is not None and (offsets[0] != 0 or (np.diff(offsets) < 0).any()):
            yield Problem(folder.features, CorruptFileError(f"{folder.features}: /offsets does not rise from 0"))
        elif features.mode == "packed":
            rows = {name: features.large(name) for name in BULK.values() if features.has(name)}
            structure.check_numbers(folder.features, rows, threads=seal.num_threads())
    except DataError as exc:
        yield Problem(folder.features, exc)


class _Arrays:
    """Sequential reader of a features file's index; a memory map of all of it would count as memory of this process."""

    def __init__(self, path: Path) -> None:
        self._file = MappedFile(path, seal.read_seal(path, "features"))
        _, self._layout = structure.structure_of(self._file)

    def _read(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        _, dtype, at = self._layout[name]
        return self._file.read(at + start * dtype.itemsize, (stop - start,), dtype)

    def names(self, start: int, stop: int) -> list[bytes]:
        """Read the utterance_ids of rows `start` to `stop`, in UTF-8."""
        ends = self._read("id_text_offsets", start, stop + 1)
        if ends[0] < 0 or (np.diff(ends) < 0).any():
            return []
        text = self._read("id_text", int(ends[0]), int(ends[-1])).tobytes()
        return [text[first:last] for first, last in itertools.pairwise((ends - ends[0]).tolist())]

    def slots(self) -> Iterator[tuple[lookup.Hashes, lookup.RowNumbers]]:
        """Yield the hash and row of each slot of the look-up table, piece by piece."""
        count = self._layout["id_hash"][0][0]
        for start in range(0, count, _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, count)
            yield self._read("id_hash", start, stop), self._read("id_row", start, stop)


def _twice(folder: FeatureDir, hashes: lookup.Hashes) -> list[str]:
    """Return the utterance_ids that occur in several rows; `hashes` is sorted in place."""
    hashes.sort()
    suspects = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    counts: Counter[str] = Counter()
    if len(suspects):
        with _opened(folder.utterances) as table:
            for batch in table.iter_batches(_ROWS_AT_ONCE, columns=["utterance_id"], use_threads=False):
                names = np.array(batch["utterance_id"].to_pylist(), object)
                counts.update(names[np.isin(lookup.hash_ids(names), suspects)].tolist())
    return [name for name, count in counts.items() if count > 1]


def _opened(path: Path) -> pq.ParquetFile:
    return files.with_retries(path, lambda: pq.ParquetFile(path))
