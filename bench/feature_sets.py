"""Feature sets of random numbers, frozen and cut into shards as an extraction does it, for the benchmarks."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from voxshard import files
from voxshard.manifest import Manifest
from voxshard.store.layout import FeatureDir, Identity, Plan
from voxshard.store.shard import ShardHeader, write_shard
from voxshard.store.shard_table import ShardTable


def make_set(path: Path, *, rows: int, dim: int, num_shards: int, num_frames: int | None = None) -> None:
    """Write the shards of a set of `rows` utterances, not merged: vectors (dim,), or (num_frames, dim) of each.

    Every third utterance has the label `a`, `b` or `c`; the last fifth is the split `test`.
    """
    folder = FeatureDir(path)
    folder.shards.mkdir(parents=True)
    ids = [f"part_{n % 4:03d}/{n:08x}.wav" for n in range(rows)]
    columns = {
        "utterance_id": ids,
        "path": ids,
        "duration_s": np.full(rows, 4.0),
        "split": np.where(np.arange(rows) < rows * 4 // 5, "train", "test"),
        "label": np.array(["a", "b", "c"])[np.arange(rows) % 3],
    }
    manifest = Manifest.from_table(pa.table(columns), root="/corpus", corpus="folder")
    plan = Plan(ids, (np.arange(rows) * num_shards // rows).astype(np.int32))
    manifest.write(folder.manifest)
    table = ShardTable.of(plan, manifest).to_json()
    plan.write(folder.plan, table)
    about: dict[str, Any] = {
        "encoder": "bench",
        "fingerprint": "0" * 64,
        "granularity": "utterance" if num_frames is None else "frames",
        "dim": dim,
        "sample_rate": 16000,
    }
    identity = Identity(
        **about,
        provenance={},
        manifest_hash=manifest.content_digest(),
        plan_hash=plan.digest(),
        num_shards=num_shards,
        num_utterances=rows,
        weights_folder=None,
        weight_files=(),
        manifest_file=files.sha256_of(folder.manifest),
        plan_file=files.sha256_of(folder.plan),
        shard_table=hashlib.sha256(table).hexdigest(),
    )
    identity.write(folder.identity)
    random = np.random.default_rng(0)
    key = "embedding" if num_frames is None else "frames"
    shape = (dim,) if num_frames is None else (num_frames, dim)
    for index in range(num_shards):
        names = plan.ids(index)
        values = random.standard_normal((len(names), *shape), np.float32)
        header = ShardHeader(**about, plan_hash=identity.plan_hash, shard_index=index, num_shards=num_shards)
        outputs = [(name, {key: value}) for name, value in zip(names, values, strict=True)]
        write_shard(folder.shard(index, num_shards), header, outputs, [])
    os.sync()
