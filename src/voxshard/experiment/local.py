"""Run commands on this machine in a bounded pool of child processes that ends when a stop is requested."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from voxshard.errors import EnvironmentProblemError, StoppedError, VoxshardError
from voxshard.progress import Progress
from voxshard.runtime.apptainer import FAILED_TO_START
from voxshard.runtime.gpus import only
from voxshard.store.runs import file_name

_POLL_S = 0.05
_GRACE_S = 30.0
"""How long a child may take to publish finished work after a stop."""


@dataclass(frozen=True)
class Job:
    """Command to run."""

    name: str
    command: Sequence[str]
    environment: dict[str, str] | None = None
    """Variables to add to our environment."""
    is_in_image: bool = False

    def exit_code(self, code: int) -> int:
        """What a child's exit code means: an image that did not start is the machine's fault, and the program in one
        ends by a signal no less (128 + its number) than outside."""
        if not self.is_in_image:
            return code
        if code == FAILED_TO_START:
            return EnvironmentProblemError.exit_code
        return 128 - code if code > 128 else code


class JobFailedError(VoxshardError):
    """A child process ended with an error; carries its exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[type[JobFailedError], tuple[str, int]]:
        return type(self), (str(self), self.exit_code)


def run_one(job: Job, stop: threading.Event) -> None:
    """Run one command on this terminal, which shows its output at once.

    Raises
    ------
    JobFailedError : it failed; its own message is printed above.
    StoppedError : we, or it, were asked to stop.
    """
    child = _start(job, None)
    while (code := child.poll()) is None:
        if stop.is_set():
            _end([child])
            raise StoppedError("stopped; what is finished is kept, run the same command again to continue")
        time.sleep(_POLL_S)
    _raise_for(job, code, None)


def run_many(
    jobs: Sequence[Job],
    size: int,
    logs: Path,
    stop: threading.Event,
    progress: Progress,
    what: str,
    gpus: Sequence[str] = (),
) -> None:
    """Run commands concurrently, at most `size` at a time; the output of each goes to a log.

    Parameters
    ----------
    gpus : given, each command sees one of them, which no other has at the same time.

    Raises
    ------
    JobFailedError : the first that failed; those that run are let finish, no more are started.
    StoppedError : we were asked to stop.
    """
    logs.mkdir(parents=True, exist_ok=True)
    progress.begin(what, items=len(jobs))
    waiting = list(jobs)
    running: dict[subprocess.Popen[bytes], tuple[Job, str | None]] = {}
    free: list[str | None] = [*gpus] or [None] * size
    failed: tuple[Job, int] | None = None
    while running or (waiting and failed is None):
        if stop.is_set():
            _end(list(running))
            raise StoppedError("stopped; what is finished is kept, run the same command again to continue")
        while waiting and free and len(running) < size and failed is None:
            job, gpu = waiting.pop(0), free.pop(0)
            running[_start(job, logs / f"{file_name(job.name)}.log", {} if gpu is None else only(gpu))] = job, gpu
        for child in [child for child in running if child.poll() is not None]:
            job, gpu = running.pop(child)
            free.append(gpu)
            if child.returncode:
                failed = failed or (job, child.returncode)
            else:
                progress.advance()
        time.sleep(_POLL_S)
    if failed:
        _raise_for(*failed, logs / f"{file_name(failed[0].name)}.log")


def _start(job: Job, log: Path | None, more: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **(job.environment or {}), **(more or {})}
    if log is None:
        return subprocess.Popen(job.command, stdin=subprocess.DEVNULL, env=environment)
    with open(log, "ab") as stream:
        stream.write(f"$ {shlex.join(job.command)}\n".encode())
        stream.flush()
        return subprocess.Popen(
            job.command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, env=environment
        )


def _end(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask children to stop, and kill them if they do not."""
    for child in children:
        child.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_S
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _raise_for(job: Job, code: int, log: Path | None) -> None:
    code = job.exit_code(code)
    if code == 0:
        return
    if code in (StoppedError.exit_code, -signal.SIGINT, -signal.SIGTERM):  # by itself, or before it could catch them
        raise StoppedError(f"{job.name} was stopped; run the same command again to continue")
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    seen = "see the lines above" if log is None else f"see {log}:\n{_tail(log)}"
    raise JobFailedError(f"{job.name} {how}; {seen}", 1 if code < 0 else code)


def _tail(log: Path, count: int = 15) -> str:
    lines = log.read_text(errors="replace").splitlines()[-count:]
    return "\n".join(f"  | {line}" for line in lines)
