"""What status and accounting make of the files of a submitted experiment, with no queue to ask."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from voxshard.diagnostics.step_status import step_statuses
from voxshard.experiment.experiment import Experiment
from voxshard.experiment.schema import ExperimentConfig
from voxshard.slurm import accounting, site
from voxshard.slurm.record import Record, Submission, TaskRecord
from voxshard.slurm.submit import Cluster


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    """An experiment with an extraction of four tasks, submitted to a cluster that cannot be reached from here."""
    monkeypatch.setenv("PATH", str(tmp_path))
    content = {
        "out": tmp_path / "exp",
        "prepare": {"format": "folder", "root": "corpus"},
        "extract": {"mfcc": {"encoder": "mfcc"}},
        "jobs": {"extract": {"tasks": 4, "partitions": "gpu_a100"}},
    }
    Experiment(ExperimentConfig.model_validate(content)).freeze()
    record = Record(tmp_path / "exp")
    record.write(Submission("token", "cluster", str(tmp_path), "python", 0.0), site.load("test"))
    return record


def task(number: int, state: str, **more: Any) -> TaskRecord:
    now = time.time()
    common = {"attempt": 1, "job": f"7_{number}", "host": "n1", "partition": "gpu_a100", "gpus": 1, "cpus": 18,
              "units_per_hour": 128.0, "started": now - 3600, "updated": now}  # fmt: skip
    return TaskRecord(task=number, state=state, **{**common, **more})


def test_without_a_queue_the_files_say_how_far_it_is(record: Record, tmp_path: Path) -> None:
    for item in (
        task(0, "running"),
        task(1, "failed", exit_code=4, message="no space left"),
        task(2, "failed", exit_code=4, message="no space left"),
    ):
        record.folder("extract-mfcc").mkdir(parents=True, exist_ok=True)
        record.write_task("extract-mfcc", item)
    steps = {item.name: item for item in step_statuses(tmp_path / "exp")}
    assert list(steps) == ["prepare", "extract-mfcc", "merge-mfcc", "report"]
    extract = steps["extract-mfcc"]
    assert extract.tasks == {"running": 1, "failed": 2, "queued": 1}
    assert extract.failures == ["2 x no space left"]
    assert (round(extract.gpu_hours, 2), round(extract.cpu_hours), round(extract.units or 0)) == (3.0, 54, 384)
    assert extract.next_step is None, "nothing is known of the queue, so nothing is advised"


def test_an_experiment_that_was_not_submitted_has_no_steps(tmp_path: Path) -> None:
    assert step_statuses(tmp_path) == []


def test_times_of_earlier_runs_count(record: Record, tmp_path: Path) -> None:
    record.folder("extract-mfcc").mkdir(parents=True)
    record.write_task("extract-mfcc", task(0, "done", before_s=1800.0, max_rss_gb=0.95, mem_gb=1.0, minutes=90))
    record.write_task("extract-mfcc", task(1, "done", max_rss_gb=0.2, mem_gb=1.0, minutes=90))
    (entry,) = accounting.account(Cluster.of(tmp_path / "exp"))
    assert entry["task_hours"] == pytest.approx(2.5, abs=0.001)
    assert entry["units"] == pytest.approx(320, abs=0.1)
    assert entry["advice"] == ["extract-mfcc used 0.9 of 1 GB: --set jobs.extract-mfcc.mem_gb=2"]


@pytest.mark.parametrize(
    ("used", "lines"),
    [
        ({"max_rss_gb": 10.0, "longest_minutes": 300.0}, []),
        ({"max_rss_gb": 2.0, "longest_minutes": 300.0},
         ["one used 2.0 of 16 GB: --set jobs.one.mem_gb=3 is enough"]),
        ({"max_rss_gb": 10.0, "longest_minutes": 20.0},
         ["one took 20 of 600 minutes: --set jobs.one.minutes=26 is enough"]),
    ],
)  # fmt: skip
def test_advice_for_the_next_run(used: dict[str, float], lines: list[str]) -> None:
    assert accounting.advice({"step": "one", "mem_gb": 16.0, "minutes": 600, **used}) == lines
