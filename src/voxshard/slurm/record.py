"""Records of submissions and tasks: small files in EXP/jobs that any node can read and write.

They report what happened; whether a step is done is decided by its results alone (see `steps`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from voxshard import files
from voxshard.config import dump_yaml, expanded, load_yaml, merged, parse_yaml, validated
from voxshard.errors import CorruptFileError, EnvironmentProblemError, IncompleteError
from voxshard.experiment.experiment import Experiment
from voxshard.experiment.schema import ExperimentConfig
from voxshard.files import quoted
from voxshard.slurm.queue import QueuedTask
from voxshard.slurm.site import Site, expanded_overrides


@dataclass(frozen=True)
class Submission:
    """Experiment as it was submitted to a cluster."""

    token: str
    """A token in the comment of every job that identifies this experiment's jobs, since SLURM reuses ids."""
    cluster: str
    cwd: str
    python: str
    submitted: float
    tasks: Mapping[str, int] = field(default_factory=dict)
    """Number of tasks by extraction, if fewer were chosen than the site's file states."""


@dataclass(frozen=True)
class Attempt:
    """Submission of some tasks of a step."""

    number: int
    automatic: int
    """Number of automatic submissions since the user asked, from 1; limited by the site's `max_attempts`."""
    why: str
    submitted: float
    jobs: Sequence[dict[str, Any]] = field(default_factory=list)
    """One entry per array: job, partition, elements, first (task of element 0), script, and what it asks for."""


@dataclass
class TaskRecord:
    """Last attempt of one task."""

    task: int
    attempt: int
    job: str
    host: str
    partition: str
    state: str
    """running, done, stopped (back in the queue or to be submitted again), waiting (its input is being made), failed,
    or killed (a child ended by a signal)."""
    started: float
    updated: float
    restarts: int = 0
    exit_code: int | None = None
    message: str | None = None
    cpus: int = 1
    gpus: int = 0
    mem_gb: float | None = None
    minutes: int | None = None
    units_per_hour: float | None = None
    max_rss_gb: float = 0.0
    to_requeue: bool = False
    """Whether a stopped task was to be requeued, as far as is known."""
    before_s: float = 0.0
    """Wall time of this task's earlier runs, in seconds."""
    node: str = ""
    """SLURM's name of the node on which it ran."""
    blocked_by: str | None = None
    """The step whose failure left this task without its inputs."""

    @property
    def elapsed_s(self) -> float:
        """Return the wall time of all its runs, in seconds."""
        return self.before_s + max(0.0, self.updated - self.started)

    @property
    def is_fault_of_machine(self) -> bool:
        """Whether another machine may succeed."""
        return self.state == "failed" and self.exit_code == EnvironmentProblemError.exit_code

    @property
    def is_final(self) -> bool:
        """Whether another run would end the same way: a wrong setting, bad data, or a bug."""
        return self.state == "failed" and self.exit_code in (1, 2, 3)


class Record:
    """Folder EXP/jobs."""

    def __init__(self, experiment: Path) -> None:
        self.experiment_path = experiment
        self.path = experiment / "jobs"
        self._submission = self.path / "submission.json"
        self._site = self.path / "site.yaml"

    @property
    def exists(self) -> bool:
        """Whether the experiment was ever submitted."""
        return self._submission.exists()

    @property
    def cancelled(self) -> Path:
        """Return the file that keeps jobs from submitting anything by themselves while it exists."""
        return self.path / "cancelled"

    def write(self, submission: Submission, site: Site) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        files.publish_bytes(self._site, dump_yaml(site.model_dump(mode="json")).encode())
        files.publish_json(self._submission, asdict(submission))

    def submission(self) -> Submission:
        """Return the submission; raises IncompleteError if nothing was submitted."""
        try:
            return Submission(**json.loads(files.read_bytes(self._submission)))
        except FileNotFoundError as exc:
            local = f"; the logs of `voxshard run` are in {self.path}" if any(self.path.glob("*.log")) else ""
            raise IncompleteError(
                f"{self.experiment_path}: was not submitted to a cluster, so it has no jobs{local}; for its state: "
                f"`voxshard status {quoted(self.experiment_path)}`"
            ) from exc
        except (ValueError, TypeError) as exc:
            raise CorruptFileError(f"{self._submission}: not a record of voxshard: {exc}") from exc

    def site(self, overrides: dict[str, Any] | None = None) -> Site:
        content = parse_yaml(files.read_text(self._site), where=str(self._site))
        return validated(Site, merged(content, expanded_overrides(overrides or {})), where=str(self._site))

    def experiment(self, overrides: dict[str, Any] | None = None) -> Experiment:
        """Return the experiment, at the current place of its folder."""
        path = self.experiment_path / "config.yaml"
        if not path.exists():
            raise IncompleteError(f"{path}: does not exist, so {self.experiment_path} is no experiment")
        given = expanded(overrides or {}, where="--set")
        content = merged(load_yaml(path), given) | {"out": str(self.experiment_path.absolute())}
        return Experiment(validated(ExperimentConfig, content, where=str(path)))

    def folder(self, step: str) -> Path:
        """Return the folder of a step: scripts, attempts, tasks and logs."""
        return self.path / step

    def attempts(self, step: str) -> list[Attempt]:
        """Return every attempt of a step, in order."""
        found = []
        for path in sorted(self.folder(step).glob("attempt-*.json")):
            try:
                found.append(Attempt(**json.loads(files.read_bytes(path))))
            except (OSError, ValueError, TypeError):
                continue  # claimed by a process that was killed before it submitted anything
        return found

    def job_ids(self) -> frozenset[int]:
        """Return every recorded job of the experiment."""
        steps = {path.parent.name for path in self.path.glob("*/attempt-*.json")}
        return frozenset(int(job["job"]) for step in steps for attempt in self.attempts(step) for job in attempt.jobs)

    def own(self, items: Iterable[QueuedTask], token: str) -> list[QueuedTask]:
        """Return the jobs in the queue that belong to this experiment.

        By their comment, by their script, or by their recorded id and their name: a site may rewrite any of them, and
        SLURM uses ids again.
        """
        recorded: frozenset[int] | None = None
        found = []
        for item in items:
            if item.comment != token and not self.has_script(item):
                if not item.name.startswith(f"{self.experiment_path.name}:"):
                    continue
                recorded = self.job_ids() if recorded is None else recorded
                if item.job not in recorded:
                    continue
            found.append(item)
        return found

    def has_script(self, item: QueuedTask) -> bool:
        """Whether a job runs a script of this experiment."""
        return item.script.startswith(f"{self.path.absolute()}{os.sep}")

    def attempt_file(self, step: str, number: int) -> Path:
        return self.folder(step) / f"attempt-{number:03d}.json"

    def last_number(self, step: str) -> int:
        """Return the number of the last attempt, submitted or only claimed; 0: none."""
        numbers = [int(path.stem.rpartition("-")[2]) for path in self.folder(step).glob("attempt-*.json")]
        return max(numbers, default=0)

    def task_file(self, step: str, task: int) -> Path:
        return self.folder(step) / f"task-{task:05d}.json"

    def write_task(self, step: str, record: TaskRecord) -> None:
        files.publish_json(self.task_file(step, record.task), asdict(record))

    def task(self, step: str, task: int) -> TaskRecord | None:
        """Return a task's record; None if it never began."""
        try:
            return TaskRecord(**json.loads(files.read_bytes(self.task_file(step, task))))
        except (OSError, ValueError, TypeError):
            return None

    def tasks(self, step: str) -> Iterator[TaskRecord]:
        """Yield the records of a step's tasks that began."""
        for path in sorted(self.folder(step).glob("task-*.json")):
            record = self.task(step, int(path.stem.rpartition("-")[2]))
            if record is not None:
                yield record

    def logs(self, step: str) -> Path:
        return self.folder(step) / "logs"


@dataclass(frozen=True)
class Usage:
    """Resources that the runs of some tasks used together, and their cost."""

    elapsed_s: float
    """Wall time in seconds."""
    gpu_hours: float
    cpu_hours: float
    units: float | None
    """Cost in the site's unit; None if the site states no price."""
    max_rss_gb: float
    """Memory of the largest task, in GB."""
    mem_gb: float | None
    """Requested memory, in GB."""

    @classmethod
    def of(cls, records: Sequence[TaskRecord]) -> Usage:
        """Add up the records of tasks."""
        prices = [record.units_per_hour for record in records]
        return cls(
            elapsed_s=sum(record.elapsed_s for record in records),
            gpu_hours=sum(record.elapsed_s * record.gpus for record in records) / 3600,
            cpu_hours=sum(record.elapsed_s * record.cpus for record in records) / 3600,
            units=None
            if not prices or None in prices
            else sum(record.elapsed_s / 3600 * (record.units_per_hour or 0.0) for record in records),
            max_rss_gb=max((record.max_rss_gb for record in records), default=0.0),
            mem_gb=max((record.mem_gb for record in records if record.mem_gb), default=None),
        )
