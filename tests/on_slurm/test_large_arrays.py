"""More array elements than the cluster takes in one array."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from support.slurm_cluster import MINI, Experiment

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3000)]
CONFIG = {"prepare": {"format": "asvspoof5", "root": str(MINI)}, "extract": {"mfcc": {"encoder": "mfcc"}}}


def test_2500_elements_where_the_largest_index_is_1000_run_once_each(experiment: Callable[..., Experiment]) -> None:
    run = experiment(CPUS="32", GPUS="0")
    ran = run.folder / "ran"
    ran.mkdir()
    # Elements that do next to nothing: the first line of every job leaves a mark and ends it.
    mark = f'touch "{ran}/${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"; exit 0'
    small = ["site.partitions.cpu.mem_gb=0.05", "jobs.extract.tasks=2500", "site.sbatch={hold: true}"]
    given = [word for setting in [f"site.setup={json.dumps([mark])}", *small] for word in ("--set", setting)]
    run.submit(CONFIG, *given)
    rows = [row for row in run.cluster.queue() if row[2] == "exp:extract-mfcc"]
    jobs = {row[0] for row in rows}
    assert len(rows) == 2500
    assert sorted(len([row for row in rows if row[0] == job]) for job in jobs) == [498, 1001, 1001]
    assert max(int(row[1]) for row in rows) == 1000
    assert run.statuses()["extract-mfcc"]["tasks"] == {"queued": 2500}
    run.cluster.call("scontrol", "release", *sorted({row[0] for row in run.cluster.queue()}))
    run.cluster.wait_until_empty()
    attempt = json.loads((run.path / "jobs" / "extract-mfcc" / "attempt-001.json").read_text())
    first = {job["job"]: job["first"] for job in attempt["jobs"]}
    elements = [tuple(map(int, path.name.split("_"))) for path in ran.iterdir()]
    tasks = sorted(first[job] + element for job, element in elements if job in first)
    assert tasks == list(range(2500))


def test_2500_elements_are_cancelled_at_once(experiment: Callable[..., Experiment]) -> None:
    run = experiment(CPUS="32", GPUS="0")
    run.submit(CONFIG, "--set", "jobs.extract.tasks=2500", "--set", "site.sbatch={hold: true}")
    told = run.voxshard("cancel", run.path).stderr
    assert f"0 running and {2500 + 3} queued tasks are cancelled" in told
    run.cluster.wait_until_empty()
