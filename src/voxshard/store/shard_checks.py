"""Checks of one shard: of its seal against plan and identity, or of every row and number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from voxshard.errors import CorruptFileError, DuplicateIdError, IncompleteError, StaleShardError
from voxshard.files import quoted
from voxshard.store import hdf5, structure
from voxshard.store.hdf5 import BULK, PER_FRAME
from voxshard.store.layout import Identity
from voxshard.store.mapped import MappedFile, PackedRows
from voxshard.store.seal import USER_BLOCK_BYTES
from voxshard.store.shard import (
    Failure,
    Shard,
    ShardSummary,
    facts_of,
    ids_digest,
    read_shard,
    summarize_shard,
)


def check_shard(path: Path, *, index: int, identity: Identity, ids: pa.Array) -> ShardSummary:
    """Validate the facts in a shard's seal against identity and plan, without reading its arrays.

    Parameters
    ----------
    ids : utterances of shard `index` in the plan.

    Raises
    ------
    StaleShardError : of another fingerprint or plan, or it has another shard's name.
    DuplicateIdError : an utterance appears in it twice.
    IncompleteError : an utterance of the plan is missing, or one too many is in it.
    CorruptFileError, FormatVersionError : see `read_shard`.
    """
    summary = summarize_shard(path)
    header, run_dir = summary.header, path.parent.parent
    again = f"move it away and run `voxshard retry {quoted(run_dir)}`"
    if header.fingerprint != identity.fingerprint:
        raise StaleShardError(
            f"{path}: made with fingerprint {header.fingerprint[:12]} ({header.encoder}), "
            f"{run_dir} is {identity.fingerprint[:12]} ({identity.encoder}); {again}"
        )
    if header.plan_hash != identity.plan_hash:
        raise StaleShardError(
            f"{path}: made for plan {header.plan_hash[:12]}, {run_dir} has {identity.plan_hash[:12]}; {again}"
        )
    if (header.shard_index, header.num_shards) != (index, identity.num_shards):
        raise StaleShardError(
            f"{path}: holds shard {header.shard_index} of {header.num_shards}, "
            f"its name states {index} of {identity.num_shards}; {again}"
        )
    good = ids.filter(ok_rows(ids, summary.failures)) if summary.failures else ids
    if ids_digest(good) != summary.ids or not _counts_match(summary, len(ids)):
        _check_ids(read_shard(path), ids.to_pylist(), again)
        raise CorruptFileError(f"{path}: its table does not describe its utterances; {again}")
    wrong = _wrong_array(summary, identity)
    if wrong:
        raise CorruptFileError(f"{path}: {wrong}; {again}")
    return summary


def _wrong_array(summary: ShardSummary, identity: Identity) -> str | None:
    """Describe the first array whose recorded type, shape or position does not fit the identity."""
    for name, (shape, dtype, at) in summary.datasets.items():
        types, row = structure.TYPES[name], () if name == "codes" else identity.row_shape
        is_row = len(shape) in (1, 2) if name == "codes" else shape[1:] == (() if name == "offsets" else row)
        if dtype.str not in types or not is_row:
            return f"/{name} is {dtype} of shape {shape}, {' or '.join(types)} in rows of {row} is wanted"
        start, stop = hdf5.range_of((shape, dtype, at))
        if stop and not USER_BLOCK_BYTES <= start <= stop <= summary.seal.content_stop:
            return f"/{name} is at bytes {start} to {stop}, its content ends at {summary.seal.content_stop}"
    return None


def ok_rows(ids: pa.Array, failures: Sequence[Failure]) -> pa.Array:
    """Return whether each utterance is not among the failures, (N,)."""
    failed = pa.array([failure.utterance_id for failure in failures], ids.type)
    return pc.invert(pc.is_in(ids, value_set=failed))


def _counts_match(summary: ShardSummary, num_utterances: int) -> bool:
    sizes = {name: shape[0] for name, (shape, _, _) in summary.datasets.items()}
    frames = {size for name, size in sizes.items() if name in PER_FRAME}
    rows_match = sizes.get("embeddings", summary.num_rows) == summary.num_rows
    offsets_match = sizes.get("offsets", summary.num_rows + 1) == summary.num_rows + 1
    all_there = summary.num_rows + len(summary.failures) == num_utterances
    return rows_match and offsets_match and all_there and len(frames) < 2


def _check_ids(shard: Shard, wanted: list[str], again: str) -> None:
    found = [*shard.ids, *(failure.utterance_id for failure in shard.failures)]
    seen: set[str] = set()
    for name in found:
        if name in seen:
            raise DuplicateIdError(f"{shard.path}: utterance {name!r} appears in it twice; {again}")
        seen.add(name)
    missing = [name for name in wanted if name not in seen]
    if missing:
        raise IncompleteError(
            f"{shard.path}: {len(missing)} of its {len(wanted)} utterances are missing, first {missing[0]!r}; {again}"
        )
    if len(found) != len(wanted):
        extra = sorted(seen - set(wanted))
        raise IncompleteError(f"{shard.path}: {len(extra)} utterances are not in its plan, first {extra[0]!r}; {again}")
    failed = {failure.utterance_id for failure in shard.failures}
    if shard.ids != [name for name in wanted if name not in failed]:
        raise StaleShardError(f"{shard.path}: its utterances are not in the order of the manifest; {again}")


def check_contents(path: Path, *, ids: pa.Array) -> None:
    """Open a shard and compare its content with its seal and, row by row, with the plan.

    Raises
    ------
    CorruptFileError : see `read_shard`; or the two differ, or a number is not finite, or a code is negative.
    DuplicateIdError, IncompleteError, StaleShardError : see `check_shard`.
    """
    shard = read_shard(path)
    _check_ids(shard, ids.to_pylist(), f"move it away and run `voxshard retry {quoted(path.parent.parent)}`")
    summary = summarize_shard(path)
    found = facts_of(shard.header, shard.ids, shard.failures, shard.datasets, shard.warnings)
    if summary.seal.version > 1 and found != dict(summary.seal.facts):
        names = [name for name in found if found[name] != summary.seal.facts.get(name)]
        raise CorruptFileError(f"{path}: its table does not describe its {', '.join(names)}; move it away")
    file = MappedFile(path, summary.seal)
    large = {name: shard.datasets[name] for name in BULK.values() if name in shard.datasets}
    rows = {name: PackedRows(file, at, shape, dtype, checks=False) for name, (shape, dtype, at) in large.items()}
    structure.check_numbers(path, rows)
