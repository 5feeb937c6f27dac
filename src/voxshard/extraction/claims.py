"""Which shard a task takes next, without two tasks usually taking the same.

A lease is a small file beside the heartbeats that its owner touches once a minute. It is advice: a lost, stale or
doubled lease costs work, never correctness, because publishing a shard decides alone (the first one wins).
"""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from voxshard import files
from voxshard.store.layout import FeatureDir

STALE_AFTER_S = 300.0
"""A lease not touched for so long has lost its owner (heartbeats come once a minute)."""


class Claims:
    """The shards one task works on: its own first, then whatever is missing."""

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

    def __iter__(self) -> Iterator[int]:
        """Shards to do, each leased when it is handed out; ends when nothing is missing that nobody is working on."""
        for shard in self._order:
            if not self.is_published(shard) and self._lease(shard):
                yield shard
        # Meanwhile owners may have died; take what they left.
        for shard in self._order:
            if shard not in self._held and not self.is_published(shard) and self._lease(shard):
                yield shard

    def is_published(self, shard: int) -> bool:
        """Whether the shard exists, whoever made it."""
        return self._folder.shard(shard, self._num_shards).exists()

    def missing(self) -> list[int]:
        """Shards that do not exist yet."""
        return sorted(shard for shard in self._order if not self.is_published(shard))

    def touch(self) -> None:
        """Say that this task is alive."""
        for lease in list(self._held.values()):
            try:
                os.utime(lease)
            except OSError:
                pass  # advice that could not be given

    def release(self, shard: int) -> None:
        """The shard is published, or given up."""
        lease = self._held.pop(shard, None)
        if lease is not None:
            lease.unlink(missing_ok=True)

    def release_all(self) -> None:
        """Give up whatever is held."""
        for shard in list(self._held):
            self.release(shard)

    def _lease(self, shard: int) -> bool:
        path = _lease_file(self._folder, shard)
        try:
            if not _take(path):
                return False
        except OSError:
            return True  # no lease can be written, a full disk perhaps: the shard itself will say
        self._held[shard] = path
        if self.is_published(shard):  # its owner finished between our look at the shard and our lease
            self.release(shard)
            return False
        return True


def is_leased(folder: FeatureDir, shard: int) -> bool:
    """Whether a living task is at this shard, as far as can be told."""
    path = _lease_file(folder, shard)
    return path.exists() and _is_held(path)


def _lease_file(folder: FeatureDir, shard: int) -> Path:
    return folder.progress / f"shard-{shard:05d}.lease"


def _length_class(audio_s: float) -> int:
    """Lengths within a factor of the square root of two are alike."""
    return round(2 * math.log2(max(audio_s, 1e-3)))


def _take(path: Path) -> bool:
    """Write a lease, unless a living owner holds it; of two that try at the same moment one gets it.

    The lease appears with its content: an empty one, left by a task that was killed while it wrote, would block the
    shard until it is stale.
    """
    owner = json.dumps({"host": files.host_name(), "boot": files.boot_id(), "pid": os.getpid()})
    if path.exists():
        if _is_held(path):
            return False
        path.unlink(missing_ok=True)
    temporary = files.temp_path_for(path)
    try:
        temporary.write_text(owner)
        return files.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _is_held(path: Path) -> bool:
    """Whether a living owner holds this lease, as far as can be told."""
    try:
        age_s = _now(path.parent) - path.stat().st_mtime
    except OSError:
        return False
    try:
        owner = json.loads(path.read_text())
        if files.is_dead(owner["host"], owner["boot"], owner["pid"]):
            return False
    except (OSError, ValueError, KeyError, TypeError):
        pass  # another host's boot, or damaged: its age tells
    return age_s < STALE_AFTER_S


def _now(folder: Path) -> float:
    """The file system's clock: on network storage the server's, which leases are stamped with."""
    probe = files.temp_path_for(folder / "clock")
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
