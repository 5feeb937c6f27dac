"""SLURM's own commands and the meaning of their answers. Nothing else in the program calls them."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from voxshard.errors import SchedulerError
from voxshard.slurm import environment

TIMEOUT_S = 60.0
_UNREACHABLE = re.compile(
    r"Unable to contact|timed out|Connection (refused|reset|timed)|Transport endpoint|Zero Bytes|send/recv"
    r"|Unexpected message|temporarily unable|Resource temporarily|Message receive failure|communication|^no answer in",
    re.I,
)
"""Messages after which the controller may or may not have done what was asked (slurm_errno.c, group communication)."""
_NOT_CONFIGURED = re.compile(
    r"configuration source|Unable to (process|access) configuration|slurm\.conf.*No such file", re.I
)
PATIENCE_S = 120.0
"""How long a controller that does not answer is asked again; a restart takes seconds."""
RETRY_EVERY_S = 3.0
_SEPARATOR = "\x1f"
"""Between the fields of squeue's lines: comments, names and reasons may contain anything that can be typed."""
FINISHED = ("COMPLETED", "COMPLETING", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL",
            "DEADLINE", "OUT_OF_MEMORY")  # fmt: skip
STATES = (*FINISHED, "PENDING", "RUNNING", "SUSPENDED", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
          "RESIZING", "REVOKED", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "RESV_DEL_HOLD")  # fmt: skip


@dataclass(frozen=True)
class QueuedTask:
    """One array element in the queue, or the elements of an array that wait."""

    job: int
    element: int | None
    name: str
    comment: str
    state: str
    reason: str
    node: str
    script: str
    """Batch script as it was given to sbatch."""

    @property
    def is_live(self) -> bool:
        """Whether it runs or will run."""
        return self.state not in FINISHED

    @property
    def id(self) -> str:
        """Return the id as SLURM's commands take it."""
        return f"{self.job}" if self.element is None else f"{self.job}_{self.element}"


def is_available() -> bool:
    """Whether this machine has SLURM's commands."""
    return shutil.which("sbatch") is not None


@dataclass(frozen=True)
class Answer:
    """Result of one of SLURM's commands."""

    code: int
    """Exit code; negative: the command was ended by a signal."""
    stdout: str
    message: str
    """Error message that it printed."""

    @property
    def is_unclear(self) -> bool:
        """Whether the controller may have done the work although the command failed."""
        return self.code < 0 or (self.code != 0 and _UNREACHABLE.search(self.message) is not None)


def run_once(command: Sequence[str]) -> Answer:
    """Run one of SLURM's commands.

    Raises
    ------
    SchedulerError : the command is not installed.
    """
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            env=environment.for_commands(),
            stdin=subprocess.DEVNULL,
            preexec_fn=_ignore_stop_signals,
        )
    except FileNotFoundError as exc:
        raise SchedulerError(
            f"{command[0]}: no such command here; submit from a login node of the cluster, "
            "or use `voxshard run` for this machine"
        ) from exc
    except subprocess.TimeoutExpired:
        return Answer(1, "", f"no answer in {TIMEOUT_S:.0f} s")
    return Answer(done.returncode, done.stdout, done.stderr.strip() or done.stdout.strip())


def call(command: Sequence[str], *, patience_s: float = PATIENCE_S) -> str:
    """Run one of SLURM's commands and return its output; retry if the controller does not answer.

    For questions, and for requests that may be made twice; `sbatch.submit` submits a job.

    Raises
    ------
    SchedulerError : the command is not installed, or refuses; with its message.
    """
    give_up = time.monotonic() + patience_s
    while True:
        answer = run_once(command)
        if answer.code == 0:
            return answer.stdout
        if not answer.is_unclear or time.monotonic() > give_up:
            printed = f"{command[0]}: {' '.join(answer.message.split())}"
            if _NOT_CONFIGURED.search(answer.message):
                raise SchedulerError(
                    "this machine has SLURM's commands and no cluster; submit from a login node, or use `voxshard run` "
                    f"here ({command[0]}: {answer.message.splitlines()[-1]})"
                )
            if answer.is_unclear:
                raise SchedulerError(f"SLURM does not answer ({printed}); try again when `sinfo` lists the partitions")
            raise SchedulerError(printed)
        time.sleep(RETRY_EVERY_S)


def _ignore_stop_signals() -> None:
    """Ignore a stop signal, which SLURM sends to every process of a job, until the answer is complete."""
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def tasks(*, finished: bool = False, patience_s: float = PATIENCE_S) -> list[QueuedTask]:
    """Return this user's jobs in the queue, and with `finished` those that ended a few minutes ago.

    Raises
    ------
    SchedulerError : the queue cannot be read.
    """
    fields = _SEPARATOR.join(("%F", "%K", "%T", "%k", "%N", "%r", "%o", "%j"))
    states = ["-t", "all"] if finished else []
    text = call(["squeue", "-h", "-r", "--me", *states, "-o", fields], patience_s=patience_s)
    return [item for line in text.splitlines() if (item := _parse(line)) is not None]


def _parse(line: str) -> QueuedTask | None:
    """Parse one line of squeue; None for a banner of the site."""
    fields = line.split(_SEPARATOR)
    if len(fields) != 8 or not fields[0].strip().isdigit():
        return None
    job, element, state, comment, node, reason, script, name = fields
    number = int(element) if element.isdigit() else None
    return QueuedTask(int(job), number, name, comment, state, reason, node, script)


def state_of(job: str, *, patience_s: float = 0.0) -> str | None:
    """Return the current state of one element; None if SLURM does not know it.

    Raises
    ------
    SchedulerError : SLURM does not answer.
    """
    try:
        lines = call(["squeue", "-h", "-t", "all", "-j", job, "-o", "%T"], patience_s=patience_s).split()
    except SchedulerError as exc:
        if "Invalid job id" in str(exc):
            return None
        raise
    return next((line for line in reversed(lines) if line in STATES), None)


def setting(name: str) -> str | None:
    """Return a setting from `scontrol show config`."""
    for line in call(["scontrol", "show", "config"]).splitlines():
        key, equals, value = line.partition("=")
        if equals and key.strip() == name:
            return value.strip()
    return None


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs with scancel."""
    if jobs:
        call(["scancel", *jobs])


def spans(elements: Sequence[int]) -> str:
    """Format [0, 1, 2, 5] as 0-2,5, the form that --array takes."""
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in _runs(elements))


def elements_of(text: str) -> list[int]:
    """Return [0, 1, 2, 5] for 0-2,5: the inverse of `spans`."""
    found: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _runs(elements: Sequence[int]) -> Iterator[tuple[int, int]]:
    first = last = None
    for element in sorted(elements):
        if last is not None and element == last + 1:
            last = element
            continue
        if first is not None and last is not None:
            yield first, last
        first = last = element
    if first is not None and last is not None:
        yield first, last


def job_of(variables: Mapping[str, str]) -> tuple[str, int, int] | None:
    """Return the id of this array element as SLURM's commands take it, its index, and its number of requeues."""
    job, element = variables.get("SLURM_ARRAY_JOB_ID"), variables.get("SLURM_ARRAY_TASK_ID")
    if job is None or element is None:
        return None
    return f"{job}_{element}", int(element), int(variables.get("SLURM_RESTART_COUNT", "0"))
