"""What the logs of failed tasks report, also of those that ended before our code ran.

A missing module or Python, a step that srun refuses, a node that fails: they leave no record, only an entry of the
queue for some minutes, and what the shell printed into the log.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from voxshard.slurm import queue
from voxshard.slurm.queue import QueuedTask
from voxshard.slurm.record import Record

_ENDED_BADLY = ("FAILED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY")
ERROR = "voxshard: "
"""How an error of a command begins."""
_SHOWN_BYTES = 64 << 10
_LONGEST_MESSAGE = 200


@dataclass(frozen=True)
class EarlyFailure:
    """Last attempt of one task that ended without a record."""

    task: int
    job: str
    """Job id as SLURM's commands take it: 7_0."""
    log: Path
    """Log file; it may not exist: SLURM creates it when the job starts."""
    message: str


def early_failures(record: Record, step: str, items: Sequence[QueuedTask]) -> Iterator[EarlyFailure]:
    """Yield the tasks of a step whose last attempt ended before it wrote a record.

    Parameters
    ----------
    items : this experiment's jobs in the queue, finished ones included.
    """
    states = {item.id: item for item in items}
    last: dict[int, tuple[int, str]] = {}
    for attempt in record.attempts(step):
        for job in attempt.jobs:
            for element in queue.elements_of(job["elements"]):
                last[job["first"] + element] = attempt.number, f"{job['job']}_{element}"
    for task, (number, job_id) in sorted(last.items()):
        item, known = states.get(job_id), record.task(step, task)
        if (item is not None and item.is_live) or (known is not None and known.attempt >= number):
            continue
        log = record.logs(step) / f"{job_id}.out"
        state = item.state if item is not None and item.state in _ENDED_BADLY else None
        if log.exists() or state:
            yield EarlyFailure(task, job_id, log, _message(log) or f"SLURM reports {state or 'nothing'}, and no output")


def last_error(log: Path, start: int) -> str:
    """Return the last error that a command of voxshard printed into a log after byte `start`, "" for none."""
    errors = [line.removeprefix(ERROR) for line in _last_lines(log, start) if line.startswith(ERROR)]
    return errors[-1] if errors else ""


def _message(log: Path) -> str:
    """Return the last line that a job printed."""
    lines = _last_lines(log)
    return f"before voxshard started: {lines[-1][:_LONGEST_MESSAGE]}" if lines else ""


def _last_lines(log: Path, start: int = 0) -> list[str]:
    """Return the last lines of a log that are not empty, after byte `start`; none if it cannot be read."""
    try:
        with open(log, "rb") as stream:
            stream.seek(max(start, log.stat().st_size - _SHOWN_BYTES))
            return [line.strip() for line in stream.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return []
