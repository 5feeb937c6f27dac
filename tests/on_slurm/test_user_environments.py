"""What a user's terminal, a site and a cluster's nodes are like, on a cluster with two threads per core."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

from support.slurm_cluster import MINI, Experiment

MakeExperiment = Callable[..., Experiment]
CONFIG: dict[str, Any] = {
    "prepare": {"format": "asvspoof5", "root": "CORPUS", "limit": 20},
    "extract": {"mfcc": {"encoder": "mfcc", "shards": 4, "workers": 1}},
    "train": {"label": "label", "replicates": 10},
}
LEAKED = {
    "SLURM_NTASKS": "3", "SLURM_MEM_PER_CPU": "100", "SLURM_NTASKS_PER_NODE": "3", "SLURM_THREADS_PER_CORE": "2",
    "SLURM_GPUS": "4", "SLURM_STEP_GRES": "gpu:4", "SLURM_NNODES": "2", "SLURM_CPU_BIND": "none",
    "SBATCH_PARTITION": "gpu_high", "SBATCH_TIMELIMIT": "1", "SBATCH_ARRAY_INX": "0-5", "SBATCH_JOB_NAME": "foo",
    "SBATCH_OUTPUT": "/dev/null", "SBATCH_NO_REQUEUE": "1", "SBATCH_WAIT": "1", "SBATCH_WCKEY": "mine",
    "SBATCH_EXPORT": "NONE", "SBATCH_OPEN_MODE": "truncate", "SBATCH_SIGNAL": "KILL@60", "SBATCH_EXCLUSIVE": "user",
    "SLURM_EXPORT_ENV": "NONE", "SLURM_OPEN_MODE": "truncate", "SLURM_HINT": "nomultithread", "SLURM_WAIT": "1",
    "SLURM_CPUS_PER_TASK": "64", "SLURM_DISTRIBUTION": "cyclic", "SLURM_OVERLAP": "1", "SRUN_CPUS_PER_TASK": "64",
    "SLURM_ARRAY_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "7", "SLURM_RESTART_COUNT": "99", "SLURM_PROCID": "3",
    "SQUEUE_FORMAT": "%i", "SQUEUE_FORMAT2": "jobid", "SQUEUE_SORT": "i", "SQUEUE_USERS": "nobody", "SACCT_FORMAT": "x",
    "SCONTROL_ALL": "1", "SINFO_FORMAT": "%P", "SINFO_PARTITION": "none", "SCANCEL_USER": "nobody",
    "SQUEUE_STATES": "R", "SQUEUE_PARTITION": "gpu_high", "SQUEUE_ACCOUNT": "nobody", "SCANCEL_STATE": "RUNNING",
}  # fmt: skip
"""Of a terminal in an earlier job, a login script, an alias of the user."""
DONE = {"prepare": {"done": 1}, "extract-mfcc": {"done": 2}, "merge-mfcc": {"done": 1}, "train": {"done": 1},
        "report": {"done": 1}}  # fmt: skip


def test_every_step_runs_once_whatever_the_terminal_exports_and_stays_done(experiment: MakeExperiment) -> None:
    """Submitted while all nodes are drained, with whole nodes and without an environment for the jobs."""
    run = experiment({**LEAKED, "CORPUS": str(MINI)}, THREADS_PER_CORE="2")
    run.cluster.call("scontrol", "update", "nodename=n[1-2]", "state=drain", "reason=maintenance")
    site = "site.sbatch={exclusive: true, export: NONE}"
    printed = run.submit(CONFIG, "--set", "prepare.root=$CORPUS", "--set", site).stderr
    assert "its jobs wait until one is, see `sinfo`" in printed
    ignored = sorted(name for name in LEAKED if name.startswith("SBATCH_") and name != "SBATCH_WCKEY")
    assert f"ignored, the site's file and --set decide: {', '.join(ignored)}" in " ".join(printed.split())
    del run.environment["CORPUS"]
    assert {name: step["tasks"] for name, step in run.statuses().items()} == {
        name: {"queued": sum(tasks.values())} for name, tasks in DONE.items()
    }
    assert {row[2].partition(":")[0] for row in run.cluster.queue()} == {"exp"}
    run.cluster.call("scontrol", "update", "nodename=n[1-2]", "state=resume")
    run.cluster.wait_until_empty()
    assert {name: step["tasks"] for name, step in run.statuses().items()} == DONE, run.logs("merge-mfcc")
    for step in DONE:
        for log in (run.path / "jobs" / step / "logs").glob("*.out"):
            lines = [line for line in log.read_text().splitlines() if line.strip()]
            assert len(lines) == len(set(lines)), f"{step} ran more than once"
        assert run.attempts(step) == 1
    for path in run.path.rglob("*"):
        time = random.uniform(0, 4e9)
        os.utime(path, (time, time))
    assert {name: step["tasks"] for name, step in run.statuses().items()} == DONE
    assert "nothing is missing" in run.voxshard("retry", run.path).stderr


def test_what_fails_before_voxshard_starts_is_shown(experiment: MakeExperiment) -> None:
    """A site whose setup fails, as after a module was removed; and a step that srun refuses."""
    run = experiment({"CORPUS": str(MINI)}, THREADS_PER_CORE="2")
    lines = '["echo no such module: python/2099 >&2", "exit 1"]'
    run.submit(CONFIG, "--set", f"site.setup={lines}", "--set", "train=null", "--set", "prepare.root=$CORPUS")
    run.cluster.wait_until_empty()
    steps = run.statuses()
    assert steps["prepare"]["tasks"] == {"failed": 1}
    assert steps["prepare"]["failures"] == ["1 x before voxshard started: no such module: python/2099"]
    assert "no such module: python/2099" in run.voxshard("logs", run.path, "--failed", "--step", "prepare").stdout
    refused = 'site.setup=["srun() { command srun --gpus=99 -- true; }"]'
    run.voxshard("retry", run.path, "--set", refused)
    run.cluster.wait_until_empty()
    assert "srun: error: " in run.voxshard("logs", run.path, "--failed", "--step", "prepare").stdout
    run.voxshard("retry", run.path, "--set", "site.setup=[]")
    run.cluster.wait_until_empty()
    assert all(set(step["tasks"]) == {"done"} for step in run.statuses().values())
