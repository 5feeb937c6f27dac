"""Heartbeats: one small file per task with its progress, which `voxshard status` reads."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from voxshard import files

EVERY_S = 60.0
SILENT_AFTER_S = 300.0
"""A task that has not written its heartbeat for so long is taken for dead."""


@dataclass
class TaskState:
    """Content of a heartbeat."""

    task: int
    num_tasks: int
    split: str | None
    device: str
    num_workers: int
    state: str = "starting"
    """State of the task: starting, running, done, stopped or failed."""
    num_shards: int = 0
    """Number of shards that all tasks of this extraction should make."""
    shards_published: int = 0
    """Number of shards that this task published."""
    current_shard: int | None = None
    num_ok: int = 0
    num_failed: int = 0
    audio_s: float = 0.0
    """Seconds of audio that this task encoded, published or not."""
    timers: dict[str, float] = field(default_factory=dict)
    gpu: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    last_error: str | None = None
    host: str = field(default_factory=files.host_name)
    boot: str = field(default_factory=files.boot_id)
    pid: int = field(default_factory=os.getpid)
    slurm_job: str | None = field(default_factory=lambda: os.environ.get("SLURM_JOB_ID"))
    started: float = field(default_factory=time.time)
    updated: float = field(default_factory=time.time)


def progress_file(folder: Path, task: int, num_tasks: int, split: str | None) -> Path:
    """Return the file of the heartbeat of task `task` of `num_tasks`."""
    suffix = f"-{split}" if split else ""
    return folder / f"task-{task:05d}-of-{num_tasks:05d}{suffix.replace('/', '_')}.json"


class Heartbeat:
    """Writer of a task's state: at the start, once a minute, and at the end."""

    def __init__(self, path: Path, state: TaskState, *, on_beat: Callable[[], None] = lambda: None) -> None:
        """`on_beat` runs before each write, in the heartbeat's thread."""
        self._path, self._state, self._on_beat = path, state, on_beat
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Heartbeat:
        self.write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self.write()

    def write(self) -> None:
        """Overwrite the file in place; a reader that sees half of it reads again."""
        self._on_beat()
        self._state.updated = time.time()
        content = json.dumps(asdict(self._state), ensure_ascii=False).encode()
        try:
            with open(self._path, "r+b" if self._path.exists() else "wb") as stream:
                stream.write(content)
                stream.truncate()
        except OSError:
            pass  # a heartbeat missed is not worth a task; the shards are the truth

    def _beat(self) -> None:
        while not self._end.wait(EVERY_S):
            self.write()


def is_silent(folder: Path, state: TaskState) -> bool:
    """Whether a task that has not ended stopped reporting: its process is known to be gone, or neither the time in its
    heartbeat nor that of the file is within the last five minutes.

    Either alone may mislead: the clock of the task's node may be wrong, and users touch files or copy experiments.

    Parameters
    ----------
    folder : where the heartbeat is.
    """
    if files.is_dead(state.host, state.boot, state.pid):
        return True
    if abs(time.time() - state.updated) <= SILENT_AFTER_S:
        return False
    return abs(files.age_s(progress_file(folder, state.task, state.num_tasks, state.split))) > SILENT_AFTER_S


def read_progress(folder: Path) -> list[TaskState]:
    """Return every task's last heartbeat; files that are being written are read again, then left out."""
    states = []
    for path in sorted(folder.glob("task-*.json")):
        for _ in range(3):
            try:
                states.append(TaskState(**json.loads(path.read_bytes())))
                break
            except (OSError, ValueError, TypeError):
                time.sleep(0.01)
    return states
