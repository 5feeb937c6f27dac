"""Submit one job script exactly once, even if answers of SLURM are lost.

SLURM may accept a job and fail to report it: the connection times out, or the site prints something around the id.
After an unclear answer the queue is searched for the job, and what is found is adopted.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from voxshard.errors import SchedulerError
from voxshard.slurm import queue
from voxshard.slurm.queue import QueuedTask

_JOB_ID = re.compile(r"(\d+)(?:;[\w.-]+)?")
"""The line that `sbatch --parsable` prints: the id, and the cluster's name where there are several."""
_APPEARS_WITHIN_S = 10.0
"""How long a job that SLURM accepted may take to appear in the queue."""
_NOT_AVAILABLE = re.compile(
    r"node configuration is not available|node[s]? .*not available|partition .*not available|DOWN, DRAINED", re.I
)
_NOT_UP = re.compile(r"drain|down|maint|fail|reboot|unk|inval|block|reserv|resv|no_respond|inact|power|\*$", re.I)
_ADVICE = {
    "account": "Give one of your accounts with --set site.account=NAME; "
    "`sacctmgr show associations user=$USER format=account,partition,qos` lists them",
    "qos": "Give one of your QOSs as `qos` under `sbatch`, or under `options` of a partition, in the site's file",
    "partition": "`sinfo` lists the partitions; correct `partitions` in the site's file",
    "node configuration": "`sinfo -o '%P %c %m %G'` lists CPUs, memory and GPUs of the nodes; ask for less in the "
    "site's file, or with --set jobs.{step}.mem_gb=N",
    "time limit": "Ask for less with --set jobs.{step}.minutes=N",
}
"""What SLURM names in a refusal -> what to do then; the first that fits counts."""
_LIMIT = re.compile(r"Assoc\w*Limit|QOS\w*Limit|Assoc(Grp|Max)\w*|QOS(Grp|Max)\w*|accounting/QOS policy", re.I)


def submit(script: Path, is_ours: Callable[[QueuedTask], bool]) -> int:
    """Submit a script and return the job's id; ask the controller for two minutes if it does not answer.

    Parameters
    ----------
    is_ours : whether a job in the queue can only be one that this call submitted.

    Raises
    ------
    SchedulerError : SLURM refuses the job, or does not answer; nothing of it is left in the queue.
    """
    give_up = time.monotonic() + queue.PATIENCE_S
    try:
        while True:
            answer = queue.run_once(["sbatch", "--parsable", str(script)])
            jobs = [int(match[1]) for line in answer.stdout.splitlines() if (match := _JOB_ID.fullmatch(line.strip()))]
            if answer.code == 0 and len(jobs) == 1:
                return jobs[0]
            if answer.code != 0 and not answer.is_unclear:
                raise SchedulerError(f"sbatch: {' '.join(answer.message.split())}")
            adopted = _adopt(is_ours, give_up)
            if adopted is not None:
                return adopted
            if answer.code == 0:
                printed = " ".join(answer.stdout.split())[:200] or "nothing"
                raise SchedulerError(
                    f"sbatch printed no job id and the queue shows no job of {script} (printed: {printed}); see "
                    "`squeue --me`, and whether the site's sbatch is a wrapper"
                )
            if time.monotonic() > give_up:
                raise SchedulerError(f"sbatch: {' '.join(answer.message.split())}; no job of {script} is in the queue")
    except BaseException:
        _withdraw(is_ours)
        raise


def _adopt(is_ours: Callable[[QueuedTask], bool], give_up: float) -> int | None:
    """Return the job that SLURM accepted without reporting it; of several the first, the others are cancelled."""
    appears_by = time.monotonic() + _APPEARS_WITHIN_S
    while True:
        jobs = sorted({item.job for item in queue.tasks(finished=True, patience_s=give_up - time.monotonic())
                       if is_ours(item)})  # fmt: skip
        if jobs:
            queue.cancel([str(job) for job in jobs[1:]])
            return jobs[0]
        if time.monotonic() > appears_by:
            return None
        time.sleep(queue.RETRY_EVERY_S / 3)


def _withdraw(is_ours: Callable[[QueuedTask], bool]) -> None:
    """Cancel a job that SLURM accepted nevertheless."""
    try:
        queue.cancel(sorted({str(item.job) for item in queue.tasks() if is_ours(item)}))
    except SchedulerError:
        return  # it does not answer this either; the error that is raised names the script


def refusal(words: Sequence[str], partition: str | None) -> tuple[str, bool] | None:
    """Ask SLURM whether it would take a job: a script, with options before it.

    Returns
    -------
    None if it would; else its message, and whether it takes the job all the same and starts it later: sbatch accepts
    jobs for nodes that are drained, down or reserved, `--test-only` refuses them.
    """
    try:
        queue.call(["sbatch", "--test-only", *words])
    except SchedulerError as exc:
        later = _NOT_AVAILABLE.search(str(exc)) is not None and _is_partly_down(partition)
        return str(exc), later
    return None


def _is_partly_down(partition: str | None) -> bool:
    """Whether a partition, or nodes of it, cannot be used now."""
    words = ["-p", partition] if partition else []
    try:
        states = queue.call(["sinfo", "-h", *words, "-o", "%a %T"]).split()
    except SchedulerError:
        return False
    return any(_NOT_UP.search(state) for state in states)


def advice(message: str, step: str) -> str:
    """Return advice on what to change after SLURM refused a job of a step."""
    if _LIMIT.search(message):  # how many jobs, or how much, a user or an account may have
        return (
            f"Fewer jobs: --set jobs.{step}.tasks=N, or wait until others have ended; "
            "the site's file can state the limit as max_submitted"
        )
    for word, text in _ADVICE.items():
        if word in message.lower():
            return text.format(step=step)
    return f"`voxshard doctor CONFIG --site NAME` checks the site; change what {step} asks for in the site's file"
