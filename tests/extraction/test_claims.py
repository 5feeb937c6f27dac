"""Which shard a task takes next."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from voxshard.extraction.claims import Claims
from voxshard.leases import STALE_AFTER_S
from voxshard.store.layout import FeatureDir


def order(tmp_path: Path, audio_s: dict[int, float] | None, *, index: int = 0, count: int = 2) -> list[int]:
    folder = FeatureDir(tmp_path)
    folder.progress.mkdir(exist_ok=True)
    claims = Claims(folder, range(8), 8, index=index, count=count, audio_s=audio_s)
    found = list(claims)
    claims.release_all()
    return found


def test_a_task_starts_with_its_own_shards_and_goes_on_with_the_others(tmp_path: Path) -> None:
    found = order(tmp_path, None)
    assert found[:4] == [0, 2, 4, 6]
    assert sorted(found) == list(range(8))


def test_shards_of_about_the_same_length_keep_their_order(tmp_path: Path) -> None:
    lengths = {shard: 100.0 + shard for shard in range(8)}
    assert order(tmp_path, lengths) == order(tmp_path, None)


def test_much_longer_shards_come_first_so_that_nobody_starts_one_at_the_end(tmp_path: Path) -> None:
    lengths = {0: 10.0, 1: 10.0, 2: 10.0, 3: 500.0, 4: 60.0, 5: 10.0, 6: 10.0, 7: 60.0}
    found = order(tmp_path, lengths)
    assert found[:4] == [4, 0, 2, 6]
    assert found[4:6] == [3, 7]
    assert sorted(found) == list(range(8))


def test_shards_of_unknown_or_no_length_are_done_too(tmp_path: Path) -> None:
    assert sorted(order(tmp_path, dict.fromkeys(range(8), 0.0))) == list(range(8))


def test_tasks_that_race_through_short_shards_do_none_of_them_twice(tmp_path: Path) -> None:
    folder = FeatureDir(tmp_path)
    folder.progress.mkdir()
    folder.shards.mkdir()
    num_shards, num_tasks = 300, 4
    done: list[int] = []
    start = threading.Barrier(num_tasks)

    def work(index: int) -> None:
        claims = Claims(folder, range(num_shards), num_shards, index=index, count=num_tasks)
        start.wait()
        for shard in claims:
            done.append(shard)
            folder.shard(shard, num_shards).touch()
            claims.release(shard)

    tasks = [threading.Thread(target=work, args=(index,)) for index in range(num_tasks)]
    for task in tasks:
        task.start()
    for task in tasks:
        task.join()
    assert sorted(done) == list(range(num_shards))


def test_a_lease_that_is_being_written_is_held_until_it_is_old(tmp_path: Path) -> None:
    folder = FeatureDir(tmp_path)
    folder.progress.mkdir()
    lease = folder.progress / "shard-00003.lease"
    lease.touch()
    assert sorted(Claims(folder, range(8), 8, index=0, count=1)) == [0, 1, 2, 4, 5, 6, 7]
    long_ago = time.time() - 2 * STALE_AFTER_S
    os.utime(lease, (long_ago, long_ago))
    assert 3 in list(Claims(folder, range(8), 8, index=0, count=1))
