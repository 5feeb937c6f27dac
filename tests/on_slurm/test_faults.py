"""What happens to single tasks, for real; afterwards the merged set is that of an undisturbed run.

Every test prints how much was computed twice: a disturbed task may lose the shard it was at.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from support.slurm_cluster import Experiment, command_lines
from support.slurm_faults import SLOW, MakeExperiment, at_work, config, finish

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3000)]


def test_scontrol_requeue_loses_nothing(experiment: MakeExperiment, undisturbed: dict[str, Any]) -> None:
    run = experiment(SLOW)
    run.submit(config())
    at_work(run)
    job, element, *_ = run.elements("extract-mfcc")[0]
    run.cluster.call("scontrol", "requeue", f"{job}_{element}")
    finish(run, undisturbed, disturbed=1, name="scontrol requeue")
    assert run.attempts("extract-mfcc") == 1


def test_a_pending_element_that_is_cancelled_is_made_up_for(
    experiment: MakeExperiment, undisturbed: dict[str, Any]
) -> None:
    run = experiment(SLOW)
    run.submit(config(throttle=1))
    at_work(run)
    (waiting,) = run.elements("extract-mfcc", ("PENDING",))
    run.cluster.call("scancel", f"{waiting[0]}_{waiting[1]}")
    finish(run, undisturbed, disturbed=0, name="scancel of a pending element")


def test_a_running_element_that_is_cancelled_stays_cancelled_and_is_made_up_for(
    experiment: MakeExperiment, undisturbed: dict[str, Any]
) -> None:
    run = experiment(SLOW)
    run.submit(config())
    at_work(run)
    job, element, *_ = run.elements("extract-mfcc")[0]
    run.cluster.call("scancel", f"{job}_{element}")
    run.cluster.wait_until(
        lambda: not [row for row in run.elements("extract-mfcc", ("RUNNING", "PENDING", "COMPLETING"))
                     if row[:2] == [job, element]], "the element to be gone",
    )  # fmt: skip
    finish(run, undisturbed, disturbed=1, name="scancel of a running element")
    assert "goes back into the queue" not in run.logs("extract-mfcc")


@pytest.mark.parametrize("what", ["child", "host"])
def test_kill_9_of_a_task_is_made_up_for(experiment: MakeExperiment, undisturbed: dict[str, Any], what: str) -> None:
    run = experiment(SLOW)
    run.submit(config())
    at_work(run)
    pattern = "extract" if what == "child" else "voxshard.slurm.array_task"
    os.kill(processes(run, pattern)[0], signal.SIGKILL)
    finish(run, undisturbed, disturbed=1, name=f"kill -9 of the {what}")


def processes(experiment: Experiment, word: str) -> list[int]:
    """Pids of this experiment's extraction tasks whose command line has the word."""
    return [
        pid
        for pid, words in command_lines(experiment)
        if b"python" in words[0] and word.encode() in words and (word == "extract" or b"extract-mfcc" in words)
    ]


def test_a_corrupt_shard_is_found_by_merge_and_made_again(
    experiment: MakeExperiment, undisturbed: dict[str, Any]
) -> None:
    run = experiment(SLOW)
    run.submit(config())
    at_work(run)
    victim = run.shards()[1]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 0xFF
    victim.write_bytes(content)
    run.hurry()
    run.cluster.wait_until_empty()
    assert not (run.path / "report.html").exists()
    status = run.statuses()["merge-mfcc"]
    assert status["tasks"] == {"failed": 1}
    run.voxshard("verify", run.path / "features" / "mfcc", "--quarantine", check=3)
    run.voxshard("retry", run.path)
    finish(run, undisturbed, disturbed=1, name="a corrupt shard")
