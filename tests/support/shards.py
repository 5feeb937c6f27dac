"""Shards and look-up tables as tests look at them, and shards that are wrong though their seal holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from voxshard.store import hdf5, lookup, seal
from voxshard.store.layout import Identity, Plan
from voxshard.store.shard import Shard, read_shard
from voxshard.store.shard_checks import check_contents, check_shard


def verify_shard(path: Path, *, identity: Identity, plan: Plan) -> Shard:
    """Check everything about one shard: every byte, where it belongs, and every row exactly once, in order."""
    index = int(path.name.removeprefix("shard-").partition("-")[0])
    start, stop = plan.rows(index)
    ids = plan.ids_array.slice(start, stop - start)
    check_shard(path, index=index, identity=identity, ids=ids)
    seal.check_seal(path, "shard")
    check_contents(path, ids=ids)
    return read_shard(path)


@contextmanager
def edited(path: Path) -> Iterator[h5py.File]:
    """Change a shard's content with h5py; its seal holds afterwards, and its table still describes what it had."""
    facts = seal.read_seal(path, "shard").facts
    with h5py.File(path, "r+", locking=False) as file:
        yield file
    with h5py.File(path, "r", locking=False) as file:
        datasets = hdf5.datasets_of(file, hdf5.BULK.values())
    content = path.read_bytes()
    ranges = sorted(hdf5.range_of(dataset) for dataset in datasets.values())
    block, table = seal.seal_bytes(memoryview(content), "shard", [item for item in ranges if item[1]], facts)
    path.write_bytes(block + content[seal.USER_BLOCK_BYTES :] + table)


def lookup_table(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The complete table for rows with these hashes: hash and row of each slot."""
    slot_hash, slot_row = zip(*lookup.pieces(hashes, lookup.order_of(hashes)), strict=True)
    return np.concatenate(slot_hash), np.concatenate(slot_row)
