"""A job that ends before our code runs is a failed task, and its output is shown."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from support import scheduler_stand_in
from support.earlier_runs import cluster as draft_of
from support.earlier_runs import prepared
from voxshard.cli.logs import command as logs
from voxshard.diagnostics.step_status import step_statuses
from voxshard.progress import Silent
from voxshard.slurm import queue, submit
from voxshard.slurm.array_task import ArrayTask
from voxshard.slurm.submit import Cluster

pytest.importorskip("submitit", reason="jobs are written with submitit: pip install 'voxshard[slurm]'")

NO_MODULE = "Lmod: The following module(s) are unknown: 2099\n"
NO_PYTHON = "slurmstepd: error: execve(): /opt/gone/bin/python: No such file or directory\nsrun: error: task 0: Exited"


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return scheduler_stand_in.impatient(tmp_path / "bin", monkeypatch, patience_s=0.2)


@pytest.fixture
def cluster(tmp_path: Path, scheduler: Path) -> Cluster:
    """An experiment of two tasks that was submitted: jobs 1 prepare, 2 extract-one, 3 merge-one, 4 report."""
    found = draft_of(tmp_path, "exp", "mfcc", 2)
    prepared(found.experiment, [100.0] * 4)
    submit.write_submission(found)
    found.submit(found.render_arrays(found.missing_tasks()), "test", Silent())
    return found


def failed(path: Path) -> str:
    return CliRunner().invoke(logs, [str(path), "--failed"]).output


def test_output_of_a_job_that_did_not_get_to_our_code_is_a_failure(cluster: Cluster) -> None:
    folder = cluster.record.logs("extract-one")
    (folder / "2_0.out").write_text(NO_MODULE)
    (folder / "2_1.out").write_text(NO_PYTHON)
    path = cluster.experiment.path
    (step,) = (item for item in step_statuses(path) if item.name == "extract-one")
    assert step.tasks == {"failed": 2}
    assert step.failures == [
        "1 x before voxshard started: Lmod: The following module(s) are unknown: 2099",
        "1 x before voxshard started: srun: error: task 0: Exited",
    ]
    output = failed(path)
    assert output.index(NO_MODULE) < output.index(NO_PYTHON)
    assert f"==> {folder / '2_1.out'} <==" in output


def test_a_job_that_failed_without_any_output_is_a_failure(cluster: Cluster, scheduler: Path) -> None:
    queue_file = scheduler / "queue"
    queue_file.write_text(queue_file.read_text().replace("COMPLETED", "NODE_FAIL"))
    path = cluster.experiment.path
    (step,) = (item for item in step_statuses(path) if item.name == "report")
    assert step.tasks == {"failed": 1}
    assert step.failures == ["1 x SLURM reports NODE_FAIL, and no output"]
    assert "4_0.out <==\n[failed: SLURM reports NODE_FAIL, and no output]" in failed(path)


def test_what_waits_or_runs_or_was_cancelled_before_it_started_is_no_failure(cluster: Cluster, scheduler: Path) -> None:
    queue_file = scheduler / "queue"
    text = queue_file.read_text()
    (cluster.record.logs("extract-one") / "2_0.out").write_text("Loading modules\n")
    queue_file.write_text(text.replace("COMPLETED", "RUNNING"))
    found = {item.name: item.tasks for item in step_statuses(cluster.experiment.path)}
    assert found["extract-one"] == {"running": 1, "missing": 1}, "the stand-in has one element of each array"
    queue_file.write_text("")
    (cluster.record.logs("extract-one") / "2_0.out").unlink()
    assert {item.name: item.tasks for item in step_statuses(cluster.experiment.path)}["report"] == {"missing": 1}
    assert "no failed tasks" in failed(cluster.experiment.path)


def test_a_task_that_ran_is_no_early_failure(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ArrayTask, "_child", lambda self, words, environment: 4)
    (cluster.record.logs("prepare") / "1_0.out").write_text("no space left\n")
    assert ArrayTask(cluster.experiment.path, "prepare", 1, 0, "1_0", 0, threading.Event()).run() == 4
    step = step_statuses(cluster.experiment.path)[0]
    assert step.failures == ["1 x extract-one-plan: exit code 4"]


def test_spans_are_read_back() -> None:
    for elements in ([], [0], [0, 1, 2, 5], [3, 7, 8, 9, 1000]):
        assert queue.elements_of(queue.spans(elements)) == elements
