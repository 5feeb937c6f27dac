"""Everything that is wrong with a feature set on disk, named one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from voxshard import files
from voxshard.errors import CorruptFileError, DataError, DuplicateIdError, IncompleteError, StaleShardError
from voxshard.files import quoted
from voxshard.progress import Progress
from voxshard.store import hdf5, merged, seal, structure
from voxshard.store.features import FeatureSet, is_stale
from voxshard.store.inventory import ShardInventory
from voxshard.store.layout import FeatureDir, Identity
from voxshard.store.shard import check_contents, check_shard

_ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Problem:
    """Something wrong with one file."""

    path: Path
    error: DataError
    is_bad_file: bool = True
    """The file itself is wrong, and made again once it is out of the way; else something is missing."""


@dataclass(frozen=True)
class Verdict:
    """What `verify` found."""

    num_shards: int
    """Checked."""
    num_pending: int
    """Shards of splits nobody has begun."""
    is_merged: bool
    problems: list[Problem]
    temporaries: list[Path]
    """What interrupted (or running) writers have left."""


def verify(folder: FeatureDir, progress: Progress, check: Callable[[], None]) -> Verdict:
    """Read every byte of a feature set and hold it against its checksums, its plan and its identity.

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
        for index in inventory.present:
            check()
            path = inventory.path(index)
            problems += [Problem(path, error) for error in _of_shard(path, index, inventory)]
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
    return Verdict(num_shards, num_pending, summary is not None, problems, temporaries)


def quarantine(problems: list[Problem]) -> list[Path]:
    """Rename bad files to NAME.corrupt, so that they count as missing; what was renamed."""
    moved = []
    for path in dict.fromkeys(problem.path for problem in problems if problem.is_bad_file):
        path.replace(path.with_name(f"{path.name}.corrupt"))
        moved.append(path)
        files.fsync_folder(path.parent)
    return moved


def _of_shard(path: Path, index: int, inventory: ShardInventory) -> Iterator[DataError]:
    """A shard with changed bytes is looked into all the same: what else is wrong may show how that came about."""
    is_sealed = True
    ids = inventory.plan.ids(*inventory.shards.rows(index))
    try:
        seal.check_seal(path, "shard")
    except FileNotFoundError:
        yield IncompleteError(f"{path}: gone while it was checked")
        return
    except DataError as exc:
        is_sealed = False
        yield exc
    try:
        if is_sealed:
            check_shard(path, index=index, identity=inventory.identity, ids=ids)
        check_contents(path, ids=ids)
    except DataError as exc:
        if is_sealed or not isinstance(exc, CorruptFileError):
            yield exc


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
    """The rows of the merged files against each other."""
    try:
        features = FeatureSet(folder.path)
        with hdf5.reading(folder.features) as file, pq.ParquetFile(folder.utterances) as table:
            start = 0
            for batch in table.iter_batches(_ROWS_AT_ONCE, columns=["utterance_id"]):
                stop = start + len(batch)
                names = [text.decode() for text in file["utterance_id"][start:stop]]
                yield from _of_row_range(features, folder, start, names)
                if batch["utterance_id"].to_pylist() != names:
                    error = CorruptFileError(f"{folder.utterances}: its rows are not those of {folder.features.name}")
                    yield Problem(folder.utterances, error)
                    return
                start = stop
            if start != len(features) or len(file["utterance_id"]) != start:
                error = CorruptFileError(f"{folder.utterances}: {start} rows, {folder.features} has {len(features)}")
                yield Problem(folder.utterances, error)
                return
        for error in structure.check_numbers(features, features.offsets):
            yield Problem(folder.features, error)
    except DataError as exc:
        yield Problem(folder.features, exc)


def _of_row_range(features: FeatureSet, folder: FeatureDir, start: int, names: list[str]) -> Iterator[Problem]:
    """Rows from `start` on: the look-up of each name leads to its row, and both lists of names agree."""
    rows = np.arange(start, start + len(names))
    found = features.rows(names)
    wrong = np.flatnonzero(found != rows)
    if len(wrong) and found[wrong[0]] >= 0:
        name = names[wrong[0]]
        yield Problem(folder.features, DuplicateIdError(f"{folder.features}: utterance {name!r} appears in it twice"))
    elif len(wrong) or features.ids_of(rows[rows < len(features)]) != names:
        error = CorruptFileError(f"{folder.features}: its look-up table does not lead to its rows")
        yield Problem(folder.features, error)
