"""SLURM's own commands, and what their answers mean. Nothing else in the program calls them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from voxshard.errors import SchedulerError

_TIMEOUT_S = 60.0
_UNREACHABLE = re.compile(r"Unable to contact|Socket timed out|Connection refused|slurm_.*: Transport|Zero Bytes", re.I)
_PATIENCE_S = 120.0
"""How long a controller that does not answer is asked again; a restart takes seconds."""
_KEPT = ("SLURM_CONF",)
_OF_ONE_JOB = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "TMPDIR")
"""Set by SLURM and sites for the job they are in; the next one gets its own."""
FINISHED = ("COMPLETED", "COMPLETING", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL",
            "DEADLINE", "OUT_OF_MEMORY")  # fmt: skip


@dataclass(frozen=True)
class QueuedTask:
    """One array element, or the waiting rest of an array, in the queue."""

    job: int
    element: int | None
    name: str
    token: str
    state: str
    reason: str
    node: str

    @property
    def is_live(self) -> bool:
        """Whether it runs or will."""
        return self.state not in FINISHED

    @property
    def id(self) -> str:
        """As SLURM's commands take it."""
        return f"{self.job}" if self.element is None else f"{self.job}_{self.element}"


def is_available() -> bool:
    """Whether this machine has SLURM's commands."""
    return shutil.which("sbatch") is not None


def call(command: Sequence[str], *, patience_s: float = _PATIENCE_S) -> str:
    """Run one of SLURM's commands and return what it prints; a controller that does not answer is asked again.

    Raises
    ------
    SchedulerError : the command is not installed, or says no; with its words.
    """
    give_up = time.monotonic() + patience_s
    while True:
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                env=outside_a_job(),
                stdin=subprocess.DEVNULL,
                preexec_fn=_ignore_stop_signals,
            )
        except FileNotFoundError as exc:
            raise SchedulerError(
                f"{command[0]}: no such command here; submit from a login node of the cluster, "
                "or use `voxshard run` for this machine"
            ) from exc
        except subprocess.TimeoutExpired:
            said, code = f"no answer in {_TIMEOUT_S:.0f} s", 1
        else:
            said, code = (done.stderr.strip() or done.stdout.strip()), done.returncode
        if code == 0:
            return done.stdout
        if not (_UNREACHABLE.search(said) or said.startswith("no answer")) or time.monotonic() > give_up:
            raise SchedulerError(f"{command[0]}: {' '.join(said.split())}")
        time.sleep(3)


def _ignore_stop_signals() -> None:
    """A stop that SLURM sends to every process of a job must not cut an answer short."""
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def outside_a_job() -> dict[str, str]:
    """The environment without what SLURM sets inside a job: sbatch would take it for options of the next one."""
    if "SLURM_JOB_ID" not in os.environ:
        return dict(os.environ)
    return {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or not (name in _OF_ONE_JOB or name.startswith(("SLURM_", "SLURMD_", "SRUN_", "SBATCH_")))
    }


def tasks(token: str | None = None) -> list[QueuedTask]:
    """This user's jobs in the queue, those of one experiment if a token is given.

    Raises
    ------
    SchedulerError : the queue cannot be read.
    """
    text = call(["squeue", "-h", "-r", "--me", "-o", "%F|%K|%T|%k|%N|%r|%j"])
    found = [item for line in text.splitlines() if (item := _parse(line)) is not None]
    return [item for item in found if token is None or item.token == token]


def _parse(line: str) -> QueuedTask | None:
    fields = line.split("|", 6)
    if len(fields) < 7:
        return None
    job, element, state, token, node, reason, name = fields
    return QueuedTask(int(job), int(element) if element.isdigit() else None, name, token, state, reason, node)


def state_of(job: str) -> str | None:
    """The state of one element now; None if SLURM does not know it or does not answer."""
    try:
        return call(["squeue", "-h", "-j", job, "-o", "%T"], patience_s=0).strip() or None
    except SchedulerError:
        return None


def setting(name: str) -> str | None:
    """A line of `scontrol show config`."""
    for line in call(["scontrol", "show", "config"]).splitlines():
        key, equals, value = line.partition("=")
        if equals and key.strip() == name:
            return value.strip()
    return None


def cancel(jobs: Sequence[str]) -> None:
    """scancel."""
    if jobs:
        call(["scancel", *jobs])


def spans(elements: Sequence[int]) -> str:
    """[0, 1, 2, 5] as 0-2,5, the way --array takes it."""
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in _runs(elements))


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


def environment_of_job(environment: Mapping[str, str]) -> tuple[str, int, int] | None:
    """Inside an array element: its id as SLURM's commands take it, its index, how often it was requeued."""
    job, element = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    if job is None or element is None:
        return None
    return f"{job}_{element}", int(element), int(environment.get("SLURM_RESTART_COUNT", "0"))
