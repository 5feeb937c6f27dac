"""Limits that tasks run into: time, memory, disk; afterwards the merged set is that of an undisturbed run.

Every test prints how much was computed twice: a disturbed task may lose the shard it was at.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.slurm_faults import SLOW, MakeExperiment, at_work, config, finish

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3000)]

ACCOUNTING = "JobAcctGatherType=jobacct_gather/linux\nJobAcctGatherParams=OverMemoryKill\nJobAcctGatherFrequency=task=1"
AGAIN = "was asked to stop and goes back into the queue"


def test_a_time_limit_is_no_end(experiment: MakeExperiment, undisturbed: dict[str, Any]) -> None:
    run = experiment({"SLOW_MFCC_S": "1"})  # two minutes of work for each task, until the first has met its limit
    run.submit(config(minutes=1), "--set", "site.signal_delay_s=20")
    run.cluster.wait_until(lambda: AGAIN in run.logs("extract-mfcc"), "a task that reached its time limit")
    finish(run, undisturbed, disturbed=4, name="time limit")
    assert run.attempts("extract-mfcc") == 1


def test_a_full_disk_ends_tasks_and_a_later_attempt_goes_on(
    experiment: MakeExperiment, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    disk = tmp_path / "exp"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        run = experiment(SLOW)
        run.submit(config(), "--set", "site.max_attempts=1")
        at_work(run)
        filler = disk / "filler"
        with open(filler, "wb", buffering=0) as stream:
            try:
                while True:
                    stream.write(b"x" * 4096)
            except OSError:
                pass
        run.cluster.wait_until(lambda: not run.elements("extract-mfcc"), "both tasks to end")
        run.hurry()
        run.cluster.wait_until_empty()
        assert "no space left" in run.logs("extract-mfcc")
        filler.unlink()
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        run.voxshard("retry", run.path)
        finish(run, undisturbed, disturbed=4, name="disk full for a while")
    finally:
        run.cluster.call("scancel", "--me", check=False)
        run.cluster.wait_until_empty()
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_task_that_runs_out_of_memory_is_tried_again_and_then_given_more(
    experiment: MakeExperiment, undisturbed: dict[str, Any]
) -> None:
    run = experiment({"SLOW_MFCC_S": "0.2", "SLOW_MFCC_EATS_MB": "900"}, EXTRA_CONF=ACCOUNTING)
    run.submit(config(mem_gb=0.4), "--set", "site.max_attempts=2")
    run.cluster.wait_until_empty()
    assert not (run.path / "report.html").exists()
    assert run.attempts("extract-mfcc") == 2
    assert f"voxshard retry {run.path}" in run.logs("merge-mfcc")
    run.environment["SLOW_MFCC_EATS_MB"] = "500"
    run.hurry()
    run.voxshard("retry", run.path, "--set", "jobs.extract.mem_gb=3")
    finish(run, undisturbed, disturbed=4, name="out of memory")
