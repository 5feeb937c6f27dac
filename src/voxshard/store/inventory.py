"""List of the shards of a plan that exist, are missing, or have not been requested yet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from voxshard import files
from voxshard.errors import IdentityError, IncompleteError, StaleShardError
from voxshard.files import quoted
from voxshard.store.layout import FeatureDir, Identity, shard_name
from voxshard.store.shard_table import PlanFile, ShardTable

NO_SPLIT = "(no split)"
"""Stands for the rows that belong to no split."""


@dataclass(frozen=True)
class ShardInventory:
    """The existing, pending and missing shards of a plan."""

    folder: FeatureDir
    identity: Identity
    shards: ShardTable
    present: Sequence[int]
    pending: Sequence[int]
    """Shards of splits that have no published shard yet."""
    missing: Sequence[int]
    """Missing shards of splits that have at least one published shard."""
    foreign: Sequence[Path]
    """Shard files whose names belong to another plan."""

    @property
    def is_complete(self) -> bool:
        return len(self.present) == len(self.shards)

    @cached_property
    def plan(self) -> PlanFile:
        """The plan's file, which lists the utterances of each shard."""
        return PlanFile(self.folder.plan)

    def path(self, index: int) -> Path:
        return self._folder_of_shards / shard_name(index, len(self.shards))

    @cached_property
    def _folder_of_shards(self) -> Path:
        return self.folder.shards

    @classmethod
    def scan(cls, folder: FeatureDir) -> ShardInventory:
        """Read the identity and the table of shards, and list the shard files.

        Raises
        ------
        IdentityError, CorruptFileError : the files of DIR do not belong together, or one is damaged.
        """
        identity = Identity.read(folder.identity)
        if not identity.num_shards:
            raise IdentityError(f"{folder.path}: was ingested, so it has no shards: it is merged as it is")
        shards = ShardTable.read(folder, identity)
        count = len(shards)
        names = {shard_name(index, count): index for index in range(count)}
        found = set(shard_names(folder))
        present = [index for name, index in names.items() if name in found]
        split_of_shard = [NO_SPLIT if name is None else name for name in shards.splits]
        begun = {split_of_shard[index] for index in present}
        absent = sorted(set(range(count)) - set(present))
        return cls(
            folder,
            identity,
            shards,
            present,
            pending=[index for index in absent if split_of_shard[index] not in begun],
            missing=[index for index in absent if split_of_shard[index] in begun],
            foreign=[folder.shards / name for name in sorted(found - names.keys())],
        )

    def not_in_plan(self, path: Path) -> StaleShardError:
        """Return the error for a shard whose name belongs to another plan."""
        return StaleShardError(
            f"{path}: a shard of another plan than this one of {len(self.shards)} shards; move it away"
        )

    def check_no_foreign(self) -> None:
        """Raise StaleShardError if a shard file belongs to another plan."""
        if self.foreign:
            raise self.not_in_plan(self.foreign[0])

    def check_complete(self) -> None:
        """Raise IncompleteError, with the command to run, unless every split that has a shard has all of them."""
        if not self.present:
            raise IncompleteError(
                f"{self.folder.path}: no shard is done yet; run `voxshard retry {quoted(self.folder.path)}`"
            )
        if self.missing:
            names = [self.path(index).name for index in self.missing]
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise IncompleteError(
                f"{self.folder.path}: {len(names)} of {len(self.shards)} shards are missing: {shown}; "
                f"run `voxshard retry {quoted(self.folder.path)}`, or merge what exists with --allow-missing"
            )


def shard_names(folder: FeatureDir) -> list[str]:
    """Return the names of the existing shard files of any plan, from one listing of the folder."""

    def names() -> list[str]:
        with os.scandir(folder.shards) as entries:
            return [entry.name for entry in entries if entry.name.startswith("shard-") and entry.name.endswith(".h5")]

    try:
        return files.with_retries(folder.shards, names)
    except FileNotFoundError:
        return []
