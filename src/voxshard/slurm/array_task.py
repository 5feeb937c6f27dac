"""Work of one array element on the host: runs the stage as a child in its runtime, and handles its end.

`python -m voxshard.slurm.array_task EXP --step NAME --attempt N --first K`, started by the scripts of `slurm`. It

- checks that what the step needs exists; submits what is missing of it, and itself after that, within limits;
- starts the stage's command, hands a stop on to it, and goes back into the queue if work is left;
- writes down how it went.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from voxshard import files
from voxshard.errors import IncompleteError, SchedulerError, StoppedError, VoxshardError
from voxshard.experiment.steps import Step
from voxshard.files import quoted
from voxshard.progress import counted
from voxshard.signals import stop_on_signals
from voxshard.slurm import accounting, queue
from voxshard.slurm.early_failures import last_error
from voxshard.slurm.record import TaskRecord
from voxshard.slurm.submit import Cluster

_POLL_S = 0.1
_WRITE_EVERY_S = 60.0
_CLAIM_PATIENCE_S = 60.0
"""How long the process that claimed an attempt may take to submit it."""
_RECORD_PATIENCE_S = 3.0
"""A job can start before its submitter has written down its id."""


class _Waiting(Exception):
    """The input of the step is being made; the step was submitted again, to start after that."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one array element, and return the exit code of the stage."""
    parser = argparse.ArgumentParser(prog="python -m voxshard.slurm.array_task")
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--step", required=True)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args(arguments)
    stop = stop_on_signals()
    inside = queue.job_of(os.environ)
    if inside is None:
        print("voxshard: this is the host part of an array job; submit its script with sbatch", file=sys.stderr)
        return 2
    job, element, restarts = inside
    try:
        array_task = ArrayTask(given.experiment, given.step, given.attempt, given.first + element, job, restarts, stop)
        return array_task.run()
    except VoxshardError as exc:
        print(f"voxshard: {exc}", file=sys.stderr, flush=True)
        return exc.exit_code


class ArrayTask:
    """One task of one step."""

    def __init__(self, path: Path, step: str, attempt: int, task: int, job: str, restarts: int,
                 stop: threading.Event) -> None:  # fmt: skip
        self.cluster = Cluster.of(path)
        self.step: Step = self.cluster.steps[step]
        self.attempt, self.task, self.job, self.stop = attempt, task, job, stop
        earlier = self.cluster.record.task(step, task)
        now = time.time()
        asked = self._asked()
        self.record = TaskRecord(
            task=task,
            attempt=attempt,
            job=job,
            host=files.host_name(),
            partition=os.environ.get("SLURM_JOB_PARTITION", ""),
            state="running",
            started=now,
            updated=now,
            restarts=restarts,
            cpus=asked.get("cpus", 1),
            gpus=asked.get("gpus", 0),
            mem_gb=asked.get("mem_gb"),
            minutes=asked.get("minutes"),
            units_per_hour=asked.get("units_per_hour"),
            before_s=earlier.elapsed_s if earlier else 0.0,
            node=os.environ.get("SLURMD_NODENAME", ""),
        )

    def _asked(self) -> dict[str, Any]:
        """Return what was requested for this element, or for the first submission of a script submitted by hand."""
        array = int(self.job.partition("_")[0])
        deadline = time.monotonic() + _RECORD_PATIENCE_S
        while True:
            attempts = self.cluster.record.attempts(self.step.name)
            jobs = [(attempt.number, job) for attempt in reversed(attempts) for job in attempt.jobs]
            for _, job in jobs:
                if job["job"] == array:
                    return dict(job)
            if time.monotonic() > deadline:
                return next((dict(job) for number, job in jobs if number == self.attempt), {})
            time.sleep(0.5)

    def run(self) -> int:
        """Run the stage, and return the exit code for SLURM."""
        self._write("running")
        try:
            missing = self.step.missing()
            if self.task not in missing and not (missing and self.step.can_take_over(self.task)):
                self._write(
                    "done", message="other tasks process the remaining shards" if missing else "was done already"
                )
                return 0
            self._check_inputs()
            code = self._commands()
        except _Waiting as exc:
            self._write("waiting", message=str(exc))
            print(f"voxshard: {exc}", flush=True)
            return 0
        except VoxshardError as exc:
            state = "stopped" if isinstance(exc, StoppedError) else "failed"
            self._write(state, exit_code=exc.exit_code, message=str(exc))
            raise
        return code

    def _commands(self) -> int:
        """Run the commands of the stage as children in their runtimes."""
        if self.step.stage == "report":
            accounting.write(self.cluster)
        for command in self.step.commands(self.task, bool(self.record.gpus)):
            if command.product is not None and command.product.exists():
                continue
            log_bytes = self._log_size()
            code = command.job.exit_code(
                self._child(command.job.command, {**os.environ, **(command.job.environment or {})})
            )
            if code == StoppedError.exit_code or (code != 0 and self.stop.is_set()):
                return self._back_into_the_queue()
            if code != 0:
                how = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
                parts = [how, last_error(self._log, log_bytes)]
                if command.job.name != self.step.name:
                    parts.insert(0, command.job.name)
                self._write("killed" if code < 0 else "failed", exit_code=code, message=": ".join(filter(None, parts)))
                return 128 - code if code < 0 else code
            if command.request is not None:
                command.request.unlink(missing_ok=True)
        if self.step.stage == "merge":
            accounting.add_to_summary(self.cluster, self.step)
        self._write("done", exit_code=0)
        return 0

    @property
    def _log(self) -> Path:
        """Return the file that the scripts of `slurm` make SLURM write our output to; by hand it may be another."""
        return self.cluster.record.logs(self.step.name) / f"{self.job}.out"

    def _log_size(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0

    def _child(self, words: Sequence[str], environment: dict[str, str]) -> int:
        if self.stop.is_set():
            return StoppedError.exit_code
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, env=environment)
        was_forwarded = False
        written = time.monotonic()
        while (code := child.poll()) is None:
            if self.stop.is_set() and not was_forwarded:
                child.send_signal(signal.SIGTERM)
                was_forwarded = True
            if time.monotonic() - written > _WRITE_EVERY_S:
                self._write("running")
                written = time.monotonic()
            time.sleep(_POLL_S)
        return code

    def _back_into_the_queue(self) -> int:
        """Requeue this element if SLURM allows it; a cancelled one must stay cancelled."""
        site = self.cluster.site
        allowed = (
            site.requeue and self.record.restarts < site.max_requeues and not self.cluster.record.cancelled.exists()
        )
        self.record.to_requeue = allowed
        self._write("stopped", exit_code=StoppedError.exit_code, message="asked to stop")
        if not allowed:
            return StoppedError.exit_code
        try:
            # A busy controller is asked until SLURM ends this process: nothing else is left to do.
            if queue.state_of(self.job, patience_s=queue.PATIENCE_S) != "RUNNING":
                self.record.to_requeue = False
                self._write("stopped", exit_code=StoppedError.exit_code, message="asked to stop")
                return StoppedError.exit_code
            queue.call(["scontrol", "requeue", self.job])
            print(f"voxshard: {self.job} was asked to stop and goes back into the queue", flush=True)
        except SchedulerError as exc:  # SLURM's own requeue came first, or it does not answer
            print(f"voxshard: {exc}", flush=True)
        return StoppedError.exit_code

    def _check_inputs(self) -> None:
        """Check that the steps before this one are done; else submit their missing tasks, and this step after them."""
        for name in self.step.depends_on:
            before = self.cluster.steps[name]
            missing = before.missing()
            if not missing:
                continue
            self._raise_if_final(before, missing)
            live = sorted({item.job for item in self.cluster.live([name])})
            if not live:
                live = self._make_again(before, missing)
            self._wait_for(name, live)

    def _raise_if_final(self, before: Step, missing: Sequence[int]) -> None:
        """Raise an error for missing tasks that a wrong setting or bad data caused: a retry cannot help."""
        path = quoted(self.cluster.experiment.path)
        for record in self.cluster.record.tasks(before.name):
            if record.is_final and record.task in missing:
                self.record.blocked_by = record.blocked_by or before.name
                if record.blocked_by:
                    raise IncompleteError(
                        f"{record.blocked_by} failed, so {before.name} did not run; see `voxshard logs {path} "
                        f"--failed`, then voxshard retry {path}"
                    )
                log = self.cluster.record.logs(before.name) / f"{record.job}.out"
                raise IncompleteError(
                    f"{before.name}: task {record.task} failed ({record.message}; {log}); fix it, then "
                    f"voxshard retry {path}"
                )

    def _make_again(self, before: Step, missing: Sequence[int]) -> list[int]:
        """Submit the missing tasks of a step again."""
        cluster = self.cluster
        number = cluster.record.last_number(before.name)
        tried = cluster.num_automatic(before.name)
        counts = not self._only_stopped(before, missing)
        what = f"{len(missing)} of {before.num_tasks} tasks missing"
        if (counts and tried >= cluster.site.max_attempts) or cluster.record.cancelled.exists():
            path = quoted(cluster.experiment.path)
            self.record.blocked_by = before.name
            raise IncompleteError(
                f"{before.name}: {what} after {counted(tried, 'attempt')}; see `voxshard logs {path} --failed`, "
                f"then voxshard retry {path}"
            )
        jobs = cluster.resubmit_from_job(
            before, missing, self._live_inputs(before), attempt=number, why=f"{self.step.name}: {what}", counts=counts
        )
        if jobs is not None:
            print(f"voxshard: {before.name}: {what}; submitted again as job {', '.join(map(str, jobs))}", flush=True)
            return jobs
        deadline = time.monotonic() + _CLAIM_PATIENCE_S
        while time.monotonic() < deadline:
            attempts = cluster.record.attempts(before.name)
            if attempts and attempts[-1].number > number:
                return [int(job["job"]) for job in attempts[-1].jobs]
            time.sleep(1)
        raise IncompleteError(
            f"{before.name}: {what}, and no process submitted them; voxshard retry {quoted(cluster.experiment.path)}"
        )

    def _only_stopped(self, before: Step, missing: Sequence[int]) -> bool:
        """Whether the missing tasks were asked to stop and could not be requeued.

        A stop is no failed attempt; there are at most as many as the site allows requeues.
        """
        records = [self.cluster.record.task(before.name, task) for task in missing]
        attempts = self.cluster.record.attempts(before.name)
        if (
            not attempts
            or sum(item.automatic == attempts[-1].automatic for item in attempts) > self.cluster.site.max_requeues
        ):
            return False
        return all(record is not None and record.state == "stopped" and record.to_requeue for record in records)

    def _live_inputs(self, step: Step) -> list[int]:
        return sorted({item.job for item in self.cluster.live(step.depends_on)}) if step.depends_on else []

    def _wait_for(self, name: str, jobs: Sequence[int]) -> None:
        """Submit this step again, to start after these jobs, and end."""
        mine = self.step.missing()
        self.cluster.resubmit_from_job(
            self.step, mine or [self.task], jobs, attempt=self.attempt, why=f"waits for {name}", counts=False
        )
        raise _Waiting(f"{self.step.name} waits for {name} (job {', '.join(map(str, jobs))})")

    def _write(self, state: str, *, exit_code: int | None = None, message: str | None = None) -> None:
        record = self.record
        record.state, record.exit_code, record.message, record.updated = state, exit_code, message, time.time()
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        record.max_rss_gb = round(usage.ru_maxrss * 1024 / 1e9, 3)
        try:
            self.cluster.record.write_task(self.step.name, record)
        except (OSError, VoxshardError) as exc:  # a record is no reason to lose the work it is about
            print(f"voxshard: {exc}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
