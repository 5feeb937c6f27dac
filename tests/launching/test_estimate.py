"""What an extraction is said to cost, from what the encoder did before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from voxshard import files
from voxshard.config import dump_yaml
from voxshard.extraction.heartbeat import TaskState, progress_file
from voxshard.launch import site
from voxshard.launch.estimate import Estimate, estimate, lines_of
from voxshard.launch.experiment import Experiment, ExperimentConfig
from voxshard.launch.record import Record, Submission, TaskRecord
from voxshard.launch.slurm import Array, Cluster
from voxshard.store.layout import FeatureDir

WORK_S, START_S, AUDIO_S = 100.0, 20.0, 5000.0
"""Of each task of the earlier run: 50 x real time once it is at work."""


def cluster(folder: Path, name: str, encoder: object, tasks: int, **section: Any) -> Cluster:
    content = {
        "out": folder / name,
        "prepare": {"format": "folder", "root": "corpus"},
        "extract": {"one": {"encoder": encoder, **section}},
        "jobs": {"extract": {"tasks": tasks, "partitions": "gpu_a100"}},
    }
    experiment = Experiment(ExperimentConfig.model_validate(content))
    return Cluster(experiment, site.load("test"), Submission("t", "c", "/", "python", 0.0))


def ran(folder: Path, encoder: str, *, restarts: int = 0, num_workers: int = 1) -> None:
    """Two tasks of an earlier experiment, as their files tell."""
    place = FeatureDir(cluster(folder, "before", encoder, 2).experiment.features("one"))
    place.progress.mkdir(parents=True)
    place.identity.write_text("{}")
    place.config.write_text(dump_yaml({"encoder": encoder, "settings": {}}))
    for task in range(2):
        timers = {"load_s": 9.0, "wait_decode_s": 67.0, "fill_s": 7.0, "encode_s": 39.0, "wait_write_s": 1.0}
        state = TaskState(task, 2, None, "cpu", num_workers, state="done", audio_s=AUDIO_S, timers=timers)
        state.updated = state.started + WORK_S + 12
        files.publish_json(progress_file(place.progress, task, 2, None), vars(state))
        record = TaskRecord(task, 1, f"7_{task}", "n1", "gpu_a100", "done", 0.0, WORK_S + START_S, restarts=restarts)
        Record(folder / "before").folder("extract-one").mkdir(parents=True, exist_ok=True)
        Record(folder / "before").write_task("extract-one", record)


def estimated(own: Cluster, seconds: list[float]) -> Estimate:
    own.experiment.path.mkdir(exist_ok=True)
    pq.write_table(pa.table({"duration_s": seconds}), own.experiment.manifest)
    step = own.steps["extract-one"]
    share = own.site.partitions["gpu_a100"]
    elements = list(range(step.num_tasks))
    array = Array(step.name, "gpu_a100", 0, elements, 60, None, share, own.experiment.path / "script", "")
    return estimate(own, step, [array], probe=False)


@pytest.mark.parametrize("tasks", [1, 8])
def test_work_grows_with_the_audio_and_the_start_with_the_tasks(tmp_path: Path, tasks: int) -> None:
    ran(tmp_path, "ecapa")
    found = estimated(cluster(tmp_path, "now", "ecapa", tasks), [100.0] * 4000)
    assert found.task_hours == pytest.approx((400_000 / 50 + tasks * START_S) / 3600)
    assert found.gpu_hours == found.task_hours
    assert found.units == pytest.approx(128 * (found.task_hours or 0.0))
    assert "111.11 h of audio at 50 x real time per task (measured in " in lines_of(found, "credits")[0]


def test_of_tasks_that_were_disturbed_only_the_work_is_believed(tmp_path: Path) -> None:
    ran(tmp_path, "ecapa", restarts=3)
    found = estimated(cluster(tmp_path, "now", "ecapa", 4), [1000.0])
    assert found.rate is not None
    assert found.rate.value == pytest.approx(50)
    assert found.rate.start_s == pytest.approx(12 + 5)


def test_workers_count_where_they_do_the_work(tmp_path: Path) -> None:
    ran(tmp_path, "mfcc", num_workers=2)
    found = estimated(cluster(tmp_path, "now", "mfcc", 1, workers=8), [1000.0])
    assert found.rate is not None
    assert found.rate.value == pytest.approx(200)


def test_other_settings_tell_nothing(tmp_path: Path) -> None:
    ran(tmp_path, "ecapa")
    found = estimated(cluster(tmp_path, "now", {"name": "ecapa", "max_seconds": 4}, 1), [1000.0])
    assert (found.rate, found.task_hours) == (None, None)
    assert "this encoder was never run here, so the cost is not known" in lines_of(found, "credits")[0]
