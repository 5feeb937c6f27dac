"""Whether a task still reports is decided without the clocks of two machines agreeing."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from voxshard import files, leases
from voxshard.extraction.heartbeat import SILENT_AFTER_S, TaskState, is_silent, progress_file

LONG = 4 * SILENT_AFTER_S


def written(folder: Path, *, content_s: float, file_s: float, **more: object) -> TaskState:
    """The heartbeat of a task on another host; its times are by so many seconds later than now."""
    now = time.time()
    state = TaskState(0, 1, None, "cpu", 1, state="running", host="n7", updated=now + content_s, **more)  # type: ignore[arg-type]
    path = progress_file(folder, 0, 1, None)
    path.write_text(json.dumps(asdict(state)))
    os.utime(path, (now + file_s, now + file_s))
    return state


@pytest.mark.parametrize(
    ("content_s", "file_s", "silent"),
    [
        (0, 0, False),
        (-LONG, 0, False),  # the node's clock is 20 minutes behind
        (LONG, 0, False),  # and ahead
        (0, LONG, False),  # the file system takes times from clocks that are ahead
        (0, -LONG, False),  # touched, or restored from an archive
        (-LONG, -LONG, True),
        (LONG, LONG, True),
        (-LONG, LONG, True),
    ],
)
def test_a_task_is_silent_if_neither_time_is_recent(
    tmp_path: Path, content_s: float, file_s: float, silent: bool
) -> None:
    assert is_silent(tmp_path, written(tmp_path, content_s=content_s, file_s=file_s)) is silent


def test_a_process_that_is_gone_is_silent_at_once(tmp_path: Path) -> None:
    state = written(tmp_path, content_s=0, file_s=0)
    state.host, state.boot = files.host_name(), "another "
    assert is_silent(tmp_path, state)


def test_age_is_measured_with_the_clock_of_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.touch()
    monkeypatch.setattr(time, "time", lambda: 1.0)
    assert abs(files.age_s(path)) < 60
    assert files.age_s(tmp_path / "gone") == float("inf")
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("offset_s", [-LONG, LONG])
def test_a_lease_of_a_wrong_clock_does_not_block_a_shard(tmp_path: Path, offset_s: float) -> None:
    path = tmp_path / "shard.lease"
    path.write_text(json.dumps({"host": "n7", "boot": "12345678", "pid": 1}))
    assert leases.is_held(path)
    now = time.time() + offset_s
    os.utime(path, (now, now))
    assert not leases.is_held(path)
    assert leases.take(path)
