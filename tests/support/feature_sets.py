"""Merged feature sets of given arrays, for tests of what comes after the features."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from voxshard import files
from voxshard.manifest import Manifest
from voxshard.progress import Silent
from voxshard.store.layout import FeatureDir, Identity, Plan
from voxshard.store.merge import MergeConfig, merge
from voxshard.store.shard import ShardHeader, write_shard
from voxshard.store.shard_table import ShardTable


def write_set(
    path: Path,
    arrays: Mapping[str, Any],
    columns: Mapping[str, Sequence[Any]] | None = None,
    *,
    granularity: str = "utterance",
    fingerprint: str = "f" * 64,
    mode: str = "packed",
    per_shard: int = 10_000,
) -> Path:
    """Write one shard after the other and merge them.

    Parameters
    ----------
    arrays : utterance_id -> (D,) or (L, D); with another granularity (T, D).
    columns : of the manifest, beyond utterance_id and path.
    """
    columns = columns or {}
    ids = list(arrays)
    key = "embedding" if granularity == "utterance" else "frames"
    shape = np.shape(arrays[ids[0]]) if key == "embedding" else np.shape(arrays[ids[0]])[1:]
    rows = [
        {"utterance_id": name, "path": f"{name}.wav", **{column: values[row] for column, values in columns.items()}}
        for row, name in enumerate(ids)
    ]
    manifest = Manifest.from_rows(rows, root="/corpus", corpus="folder")
    plan = Plan(ids, (np.arange(len(ids)) // per_shard).astype(np.int32))
    folder = FeatureDir(path)
    folder.shards.mkdir(parents=True)
    layers = shape[0] if len(shape) == 2 else None
    facts: dict[str, Any] = {
        "encoder": "mfcc",
        "fingerprint": fingerprint,
        "granularity": granularity,
        "dim": shape[-1],
        "num_layers": layers,
        "sample_rate": 16000,
        "frame_rate_hz": None,
        "window_s": None,
        "hop_s": None,
    }
    table = ShardTable.of(plan, manifest).to_json()
    plan.write(folder.plan, table)
    manifest.write(folder.manifest)
    Identity(
        provenance={"encoder": "mfcc"},
        manifest_hash=manifest.content_digest(),
        plan_hash=plan.digest(),
        num_shards=plan.num_shards,
        num_utterances=len(ids),
        weights_folder=None,
        weight_files=(),
        manifest_file=files.sha256_of(folder.manifest),
        plan_file=files.sha256_of(folder.plan),
        shard_table=hashlib.sha256(table).hexdigest(),
        **facts,
    ).write(folder.identity)
    for index in range(plan.num_shards):
        outputs = [(name, {key: np.asarray(arrays[name])}) for name in plan.ids(index)]
        header = ShardHeader(plan_hash=plan.digest(), shard_index=index, num_shards=plan.num_shards, **facts)
        write_shard(folder.shard(index, plan.num_shards), header, outputs, [])
    merge(MergeConfig.model_validate({"features": path, "mode": mode}), Silent(), lambda: None)
    return path
