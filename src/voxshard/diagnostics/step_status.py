"""The state of the steps of a submitted experiment: from their files first, then from the queue if it answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from voxshard import files
from voxshard.errors import SchedulerError
from voxshard.experiment.steps import Step
from voxshard.files import quoted
from voxshard.slurm import queue
from voxshard.slurm.early_failures import early_failures
from voxshard.slurm.record import Record, TaskRecord, Usage
from voxshard.slurm.submit import Cluster

_TOO_LONG = ("PartitionTimeLimit", "AssocMaxWallDurationPerJobLimit", "QOSMaxWallDurationPerJobLimit")
STUCK = ("DependencyNeverSatisfied", "JobHeldAdmin", "JobHeldUser", "launch failed requeued held")


@dataclass(frozen=True)
class StepStatus(Usage):
    """State of one step, with what all runs of its tasks used so far."""

    name: str
    num_tasks: int
    tasks: dict[str, int]
    """Number of tasks by state: done, running, queued, failed, blocked (a step before failed), killed, stopped,
    waiting, lost or missing."""
    attempts: int
    failures: list[str]
    """The most frequent messages of tasks that failed by themselves, with counts."""
    queue: list[str]
    """Why its array elements wait, with counts; empty if the queue cannot be read."""
    next_step: str | None


def step_statuses(path: Path) -> list[StepStatus]:
    """Return the steps of a submitted experiment; empty if nothing was submitted."""
    if not Record(path).exists:
        return []
    cluster = Cluster.of(path)
    try:
        items: list[queue.QueuedTask] | None = cluster.jobs()
    except SchedulerError:
        items = None
    return [_status(cluster, step, items) for step in cluster.steps.values()]


def _status(cluster: Cluster, step: Step, items: Sequence[queue.QueuedTask] | None) -> StepStatus:
    name = f"{cluster.experiment.path.name}:{step.name}"
    own = [item for item in items or () if item.name == name and item.is_live]
    early = {} if items is None else {item.task: item for item in early_failures(cluster.record, step.name, items)}
    records = [_until_now(cluster.record, step.name, record, own) for record in cluster.record.tasks(step.name)]
    attempts = cluster.record.attempts(step.name)
    first = {int(job["job"]): int(job["first"]) for attempt in attempts for job in attempt.jobs}
    in_queue = {first.get(item.job, 0) + (item.element or 0): item for item in own}
    missing = set(step.missing())
    by_task = {record.task: record for record in records}
    kinds = Counter(
        "failed"
        if task in early and task in missing
        else _kind(task, missing, by_task.get(task), in_queue.get(task), items is not None)
        for task in range(step.num_tasks)
    )
    ended = [
        record
        for record in records
        if record.state in ("failed", "killed") and record.task not in early and not record.blocked_by
    ]
    messages = Counter(record.message or "no message" for record in ended)
    messages.update(item.message for task, item in early.items() if task in missing)
    reasons = Counter(item.reason for item in own if item.state == "PENDING")
    stuck = [item.id for item in own if item.reason in STUCK]
    return StepStatus(
        name=step.name,
        num_tasks=step.num_tasks,
        tasks=dict(kinds),
        attempts=len(attempts),
        **asdict(Usage.of(records)),
        failures=[f"{count} x {text}" for text, count in messages.most_common(3)],
        queue=[f"{count} x {reason}" for reason, count in reasons.most_common(3)],
        next_step=_next_step(cluster, step, missing, stuck, own, items is not None),
    )


def _until_now(written: Record, step: str, record: TaskRecord, own: Sequence[queue.QueuedTask]) -> TaskRecord:
    """Return the record of a running task with its time up to now; the task writes it only once a minute.

    Its times are of the clock of its node, so what has passed since is added to them.
    """
    if record.state == "running" and any(item.id == record.job and item.state == "RUNNING" for item in own):
        record.updated += max(0.0, files.age_s(written.task_file(step, record.task)))
    return record


def _kind(
    task: int, missing: set[int], record: TaskRecord | None, queued: queue.QueuedTask | None, queue_is_known: bool
) -> str:
    if queued is not None:
        return "queued" if queued.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD") else "running"
    if task not in missing:
        return "done"
    if record is None:
        return "missing" if queue_is_known else "queued"
    if record.state == "running" and queue_is_known:
        return "lost"  # it stopped reporting, and the queue has forgotten it
    if record.state == "failed" and record.blocked_by:
        return "blocked"
    return "missing" if record.state == "done" else record.state


def _next_step(
    cluster: Cluster,
    step: Step,
    missing: set[int],
    stuck: Sequence[str],
    own: Sequence[queue.QueuedTask],
    queue_is_known: bool,
) -> str | None:
    path = quoted(cluster.experiment.path)
    if stuck:
        return f"stuck in the queue: scontrol release {' '.join(stuck)}, or voxshard cancel {path}"
    if any(item.reason in _TOO_LONG for item in own):
        return (
            f"{step.name} asks for more time than it may have: voxshard cancel {path}, "
            f"then voxshard retry {path} --set jobs.{step.name}.minutes=N"
        )
    if missing and not own and queue_is_known:
        return f"voxshard retry {path}  ({step.name}: tasks {queue.spans(sorted(missing))})"
    if step.stage == "report" and not missing and not own:
        return f"open {quoted(cluster.experiment.report)}"
    return None
