"""Which shards of a plan there are, which are missing, and which nobody has asked for yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from voxshard.errors import IdentityError, IncompleteError, StaleShardError
from voxshard.manifest import Manifest
from voxshard.store.layout import FeatureDir, Identity, Plan

NO_SPLIT = "(no split)"
"""Stands for the rows that belong to no split."""


@dataclass(frozen=True)
class ShardInventory:
    """Which shards of the plan there are."""

    folder: FeatureDir
    identity: Identity
    plan: Plan
    manifest: Manifest
    split_of_shard: Sequence[str]
    present: Sequence[int]
    pending: Sequence[int]
    """Of splits of which no shard was published yet."""
    missing: Sequence[int]
    """Of splits that were begun."""
    foreign: Sequence[Path]
    """Shards whose names are of another plan."""

    @property
    def is_complete(self) -> bool:
        return len(self.present) == self.plan.num_shards

    def path(self, index: int) -> Path:
        return self.folder.shard(index, self.plan.num_shards)

    @classmethod
    def scan(cls, folder: FeatureDir) -> ShardInventory:
        """Read identity, plan and manifest, hold them against each other, and list the shards.

        Raises
        ------
        IdentityError : the files of DIR do not belong together.
        """
        identity = Identity.read(folder.identity)
        if not identity.num_shards:
            raise IdentityError(f"{folder.path}: was ingested, so it has no shards: it is merged as it is")
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
        names = {folder.shard(index, plan.num_shards).name: index for index in range(plan.num_shards)}
        found = {path.name for path in folder.shards.glob("shard-*.h5")}
        present = [index for name, index in names.items() if name in found]
        splits = manifest.table["split"].take(pa.array(plan.starts[:-1])).to_pylist()
        split_of_shard = [NO_SPLIT if name is None else name for name in splits]
        begun = {split_of_shard[index] for index in present}
        absent = sorted(set(range(plan.num_shards)) - set(present))
        return cls(
            folder,
            identity,
            plan,
            manifest,
            split_of_shard,
            present,
            pending=[index for index in absent if split_of_shard[index] not in begun],
            missing=[index for index in absent if split_of_shard[index] in begun],
            foreign=[folder.shards / name for name in sorted(found - names.keys())],
        )

    def not_in_plan(self, path: Path) -> StaleShardError:
        """The error for a shard whose name is of another plan."""
        return StaleShardError(
            f"{path}: a shard of another plan than this one of {self.plan.num_shards} shards; move it away"
        )

    def check_no_foreign(self) -> None:
        """Raise StaleShardError if shards of another plan lie among these."""
        if self.foreign:
            raise self.not_in_plan(self.foreign[0])

    def check_complete(self) -> None:
        """Raise IncompleteError, with the line that mends it, unless every split that was begun is whole."""
        if not self.present:
            raise IncompleteError(f"{self.folder.path}: no shard is done yet; run `voxshard retry {self.folder.path}`")
        if self.missing:
            names = [self.path(index).name for index in self.missing]
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise IncompleteError(
                f"{self.folder.path}: {len(names)} of {self.plan.num_shards} shards are missing: {shown}; "
                f"run `voxshard retry {self.folder.path}`, or merge what is there with --allow-missing"
            )
