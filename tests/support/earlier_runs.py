"""Experiments with one extraction, and what an earlier one left behind, for tests of what is foreseen from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from voxshard import files
from voxshard.config import dump_yaml
from voxshard.experiment.experiment import Experiment
from voxshard.experiment.schema import ExperimentConfig
from voxshard.extraction.heartbeat import TaskState, progress_file
from voxshard.manifest import Manifest
from voxshard.slurm import site
from voxshard.slurm.record import Record, Submission, TaskRecord
from voxshard.slurm.submit import Cluster
from voxshard.store.layout import FeatureDir

WORK_S, START_S, AUDIO_S = 100.0, 20.0, 5000.0
"""Of each task of the earlier run: 50 x real time once it is at work."""


def config(out: Path, encoder: object, tasks: int | None = None, **section: Any) -> dict[str, Any]:
    """An experiment that extracts `one`; `tasks` None: as many as the site specifies, and where."""
    return {
        "out": str(out),
        "prepare": {"format": "folder", "root": "corpus"},
        "extract": {"one": {"encoder": encoder, **section}},
        "jobs": {} if tasks is None else {"extract": {"tasks": tasks, "partitions": "gpu_a100"}},
    }


def cluster(
    folder: Path, name: str, encoder: object, tasks: int | None = None, *, facts: dict[str, Any] | None = None,
    **section: Any,
) -> Cluster:  # fmt: skip
    """The experiment `name` on the test site, not submitted."""
    experiment = Experiment(ExperimentConfig.model_validate(config(folder / name, encoder, tasks, **section)))
    return Cluster(experiment, site.load("test", facts), Submission("t", "c", "/", "python", 0.0))


def ran(
    folder: Path, encoder: str, *, name: str = "before", device: str = "cuda", restarts: int = 0, num_workers: int = 1,
    times: float = 1.0,
) -> None:  # fmt: skip
    """Two tasks of an earlier experiment, as their files tell; `times` as slow."""
    place = FeatureDir(cluster(folder, name, encoder, 2).experiment.features("one"))
    place.progress.mkdir(parents=True)
    place.identity.write_text("{}")
    place.config.write_text(dump_yaml({"encoder": encoder, "settings": {}}))
    record = Record(folder / name)
    record.folder("extract-one").mkdir(parents=True)
    for task in range(2):
        work = {"wait_decode_s": 67.0, "fill_s": 7.0, "encode_s": 39.0, "wait_write_s": 1.0}
        timers = {"load_s": 9.0, **{key: seconds * times for key, seconds in work.items()}}
        state = TaskState(task, 2, None, device, num_workers, state="done", audio_s=AUDIO_S, timers=timers)
        state.updated = state.started + WORK_S * times + 12
        files.publish_json(progress_file(place.progress, task, 2, None), vars(state))
        took_s = WORK_S * times + START_S
        record.write_task(
            "extract-one",
            TaskRecord(task, 1, f"7_{task}", "n1", "gpu_a100", "done", 0.0, took_s, restarts=restarts),
        )


def prepared(experiment: Experiment, seconds: list[float], splits: list[str] | None = None) -> None:
    """Its manifest, of recordings of these lengths."""
    rows = [
        {"utterance_id": f"{row:05d}", "path": f"{row}.wav", "duration_s": length, "num_bytes": 32_000,
         "split": splits[row] if splits else None}
        for row, length in enumerate(seconds)
    ]  # fmt: skip
    experiment.path.mkdir(parents=True, exist_ok=True)
    Manifest.from_rows(rows, root="/corpus", corpus="folder").write(experiment.manifest)
