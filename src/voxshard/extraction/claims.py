"""Select the next shard of a task, so that two tasks rarely work on the same one.

A lease is a small file next to the heartbeats that its owner touches once a minute. It is advice: a lost, stale or
doubled lease costs work, never correctness, because publishing a shard decides alone (the first one wins).
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from voxshard import leases
from voxshard.store.inventory import shard_names
from voxshard.store.layout import FeatureDir, shard_name


class Claims:
    """Shards that one task works on: its own first, then any that is missing."""

    def __init__(
        self,
        folder: FeatureDir,
        shards: Sequence[int],
        num_shards: int,
        *,
        index: int,
        count: int,
        audio_s: Sequence[float] | None = None,
    ) -> None:
        """
        Parameters
        ----------
        shards : those that should exist in the end.
        index, count : this is task `index` of `count`.
        audio_s : seconds of audio of each shard of the plan; much longer ones are done first, so that no task starts
            one at the end that the others then wait for. Shards of about the same length keep their order.
        """
        self._folder = folder
        self._num_shards = num_shards
        own = list(shards[index::count])
        chosen = set(own)
        others = [shard for shard in shards if shard not in chosen]
        start = random.Random(index).randrange(len(others)) if others else 0
        others = others[start:] + others[:start]
        if audio_s is not None:
            own.sort(key=lambda shard: -_length_class(audio_s[shard]))
            others.sort(key=lambda shard: -_length_class(audio_s[shard]))
        self._order = own + others
        self._held: dict[int, Path] = {}
        self._published: set[int] = set()
        """Seen published; a shard never disappears while tasks work."""

    def __iter__(self) -> Iterator[int]:
        """Yield shards to compute, each leased when it is yielded, until some task works on every missing shard."""
        self._look()
        for shard in self._order:
            if shard not in self._published and self._lease(shard):
                yield shard
        # Meanwhile owners may have died; take what they left.
        self._look()
        for shard in self._order:
            if shard not in self._held and shard not in self._published and self._lease(shard):
                yield shard

    def is_published(self, shard: int) -> bool:
        """Whether the shard exists, whichever task made it."""
        return self._folder.shard(shard, self._num_shards).exists()

    def missing(self) -> list[int]:
        """Return the shards that do not exist yet, from one listing of their folder."""
        self._published.clear()
        self._look()
        return sorted(shard for shard in self._order if shard not in self._published)

    def _look(self) -> None:
        names = set(shard_names(self._folder))
        self._published |= {shard for shard in self._order if shard_name(shard, self._num_shards) in names}

    def touch(self) -> None:
        """Report that this task is running."""
        for lease in list(self._held.values()):
            try:
                os.utime(lease)
            except OSError:
                pass  # advice that could not be given

    def release(self, shard: int) -> None:
        """Release the lease of a shard that is published or given up."""
        lease = self._held.pop(shard, None)
        if lease is not None:
            lease.unlink(missing_ok=True)

    def release_all(self) -> None:
        """Release all leases."""
        for shard in list(self._held):
            self.release(shard)

    def _lease(self, shard: int) -> bool:
        path = _lease_file(self._folder, shard)
        try:
            if not leases.take(path):
                return False
        except OSError:
            return True  # no lease can be written, a full disk perhaps: writing the shard will show it
        self._held[shard] = path
        if self.is_published(shard):  # its owner finished between our look at the shard and our lease
            self.release(shard)
            return False
        return True


def is_leased(folder: FeatureDir, shard: int) -> bool:
    """Whether a running task works on this shard, as far as can be determined."""
    path = _lease_file(folder, shard)
    return path.exists() and leases.is_held(path)


def _lease_file(folder: FeatureDir, shard: int) -> Path:
    return folder.progress / f"shard-{shard:05d}.lease"


def _length_class(audio_s: float) -> int:
    """Return the class of a length; lengths within a factor of the square root of two share one."""
    return round(2 * math.log2(max(audio_s, 1e-3)))
