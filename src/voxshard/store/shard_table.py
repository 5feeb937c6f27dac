"""Facts about each shard of a plan, and access to the utterance_ids of single shards without reading the complete plan.

The table of shards is in the footer of plan.parquet, so that a task opens a set of any size by reading a few kilobytes
per thousand shards.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from voxshard import files
from voxshard.errors import CorruptFileError, IdentityError
from voxshard.manifest import Manifest
from voxshard.no_table import NO_TABLE
from voxshard.store.layout import PLAN_FOOTER, FeatureDir, Identity, Plan, plan_errors

_NO_TABLE = hashlib.sha256(b"").hexdigest()
"""Digest of the table of a plan of format 1 that was frozen before its identity."""


@dataclass(frozen=True)
class ShardTable:
    """The facts about plan and manifest that a task keeps in memory."""

    starts: Sequence[int]
    """First manifest row of each shard, and the number of rows."""
    splits: Sequence[str | None]
    """Split of each shard."""
    audio_s: Sequence[float] | None
    """Seconds of audio in each shard; None if the manifest was not probed."""

    @classmethod
    def of(cls, plan: Plan, manifest: Manifest) -> ShardTable:
        """Collect the facts from a plan and its manifest."""
        starts = plan.starts
        splits = manifest.table["split"].take(pa.array(starts[:-1])).to_pylist()
        audio_s = None
        column = manifest.table["duration_s"]
        if column.null_count < len(manifest):
            seconds = np.asarray(pc.cast(column, "float64").to_numpy(zero_copy_only=False), np.float64)
            audio_s = np.add.reduceat(np.nan_to_num(seconds), starts[:-1]).tolist()
        return cls(starts.tolist(), splits, audio_s)

    @classmethod
    def read(cls, folder: FeatureDir, identity: Identity) -> ShardTable:
        """Read the table of a feature set; in format 1 it is computed from plan and manifest.

        Raises
        ------
        IncompleteError : no plan.
        IdentityError, CorruptFileError : plan, manifest and identity do not belong together, or one is damaged.
        """
        if identity.shard_table is None or identity.shard_table == _NO_TABLE:
            return cls.of(*_rows_of_format_1(folder, identity))
        text = plan_footer(folder.plan)
        if hashlib.sha256(text).hexdigest() != identity.shard_table:
            raise IdentityError(
                f"{folder.plan}: not the plan that {folder.identity} was made with; one of them was replaced or damaged"
            )
        return cls(**json.loads(text))

    def to_json(self) -> bytes:
        """Return the table as JSON, for the footer of the plan."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    def __len__(self) -> int:
        return len(self.splits)

    @property
    def split_names(self) -> list[str]:
        """Names of the splits, in order of first appearance."""
        return [name for name in dict.fromkeys(self.splits) if name is not None]

    def rows(self, shard: int) -> tuple[int, int]:
        """Return the first manifest row of a shard, and the one after its last."""
        return self.starts[shard], self.starts[shard + 1]

    def num_utterances(self, shards: Sequence[int]) -> int:
        """Return the number of utterances in some shards."""
        return sum(self.starts[shard + 1] - self.starts[shard] for shard in shards)

    def total_audio_s(self, shards: Sequence[int]) -> float | None:
        """Return the seconds of audio in some shards; None if the manifest was not probed."""
        return None if self.audio_s is None else sum(self.audio_s[shard] for shard in shards)


def plan_footer(path: Path) -> bytes:
    """Return the table of shards in the footer of a plan; empty in format 1."""
    with _open_plan(path) as file:
        footer: bytes = (file.schema_arrow.metadata or {}).get(PLAN_FOOTER, b"")
    return footer


class PlanFile:
    """The utterance_ids of a plan, read by row group; the row group that was read last is cached."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _open_plan(path)
        about = self._file.metadata
        sizes = (about.row_group(number).num_rows for number in range(about.num_row_groups))
        self._starts = list(itertools.accumulate(sizes, initial=0))
        self._kept: tuple[int, pa.Array] = (-1, pa.array([], pa.string()))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def ids(self, start: int, stop: int) -> pa.Array:
        """Return the utterance_ids of rows `start` to `stop`.

        Raises
        ------
        CorruptFileError : a page of the file is damaged.
        """
        parts = []
        while start < stop:
            group = int(np.searchsorted(self._starts, start, "right")) - 1
            end = min(stop, self._starts[group + 1])
            parts.append(self._group(group).slice(start - self._starts[group], end - start))
            start = end
        if len(parts) == 1:
            return parts[0]
        return pa.concat_arrays(parts) if parts else pa.array([], pa.string())

    def groups(self) -> Iterator[tuple[int, pa.Array]]:
        """Yield (first row, utterance_ids) of each row group."""
        for group, start in enumerate(self._starts[:-1]):
            yield start, self._group(group)

    def _group(self, group: int) -> pa.Array:
        if self._kept[0] != group:
            try:
                table = files.with_retries(
                    self._path, lambda: self._file.read_row_group(group, ["utterance_id"], use_threads=False)
                )
            except (OSError, *NO_TABLE) as exc:
                raise CorruptFileError(f"{self._path}: damaged: {exc}") from exc
            self._kept = (group, table["utterance_id"].combine_chunks())
        return self._kept[1]


def _open_plan(path: Path) -> pq.ParquetFile:
    with plan_errors(path):
        return files.with_retries(path, lambda: pq.ParquetFile(path, page_checksum_verification=True))


def _rows_of_format_1(folder: FeatureDir, identity: Identity) -> tuple[Plan, Manifest]:
    """Read plan and manifest, and validate them against each other and the identity."""
    plan = Plan.read(folder.plan)
    manifest = Manifest.read(folder.manifest)
    if plan.digest() != identity.plan_hash:
        raise IdentityError(
            f"{folder.plan}: not the plan that {folder.identity} was made with; one of them was replaced"
        )
    if not manifest.table["utterance_id"].combine_chunks().equals(plan.ids_array):
        raise IdentityError(
            f"{folder.manifest}: its utterances are not those of {folder.plan}; one of them was replaced"
        )
    return plan, manifest
