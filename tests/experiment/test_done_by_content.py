"""Whether a step is done follows from the content of its files: not from their times, not from where they are."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voxshard.config import dump_yaml, load_yaml
from voxshard.experiment.experiment import Experiment
from voxshard.experiment.run import run_experiment
from voxshard.experiment.schema import ExperimentConfig
from voxshard.experiment.steps import steps_of
from voxshard.progress import Silent
from voxshard.slurm.record import Record
from voxshard.stages.report import ReportConfig
from voxshard.stages.report import run as report
from voxshard.store.layout import FeatureDir, sealed

EVERYTHING_DONE: dict[str, list[int]] = {
    "prepare": [],
    "extract-mfcc": [],
    "merge-mfcc": [],
    "train": [],
    "evaluate": [],
    "report": [],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment whose every stage has run."""
    pytest.importorskip("sklearn", reason="training needs scikit-learn: pip install 'voxshard[learn]'")
    pytest.importorskip("matplotlib", reason="reports need Matplotlib: pip install 'voxshard[report]'")
    folder = tmp_path_factory.mktemp("finished")
    rng = np.random.default_rng(0)
    (folder / "corpus").mkdir()
    for number in range(24):
        tone = np.sin(np.arange(6400) * (0.05 + 0.1 * (number % 2))) + 0.1 * rng.standard_normal(6400)
        name = f"{number % 2}_{'test' if number < 8 else 'train'}_{number:02d}.wav"
        soundfile.write(folder / "corpus" / name, 0.3 * tone, 16000)
    config = {
        "out": folder / "exp",
        "prepare": {
            "format": "folder",
            "root": str(folder / "corpus"),
            "label_from": r"(?P<tone>\d)_(?P<part>[a-z]+)_\d+",
            "split_from": ["_test_=test", ".*=train"],
        },
        "extract": {"mfcc": {"encoder": "mfcc", "shards": 4, "workers": 1}},
        "train": {"label": "tone", "classifier": ["logistic", "knn"], "replicates": 10},
        "evaluate": {"group_by": "part"},
    }
    run_experiment(Experiment(ExperimentConfig.model_validate(config)), threading.Event(), Silent())
    return folder / "exp"


@pytest.fixture
def path(finished: Path, tmp_path: Path) -> Path:
    """The finished experiment, copied to another place."""
    return shutil.copytree(finished, tmp_path / "elsewhere", symlinks=True)


def missing(path: Path) -> dict[str, list[int]]:
    """Step -> its missing tasks, as `status` and jobs find them."""
    return {step.name: step.missing() for step in steps_of(Record(path).experiment(), {"mfcc": 2}).values()}


def test_an_experiment_that_was_copied_elsewhere_is_done(path: Path) -> None:
    assert missing(path) == EVERYTHING_DONE


@pytest.mark.parametrize("seed", range(3))
def test_times_of_files_decide_nothing(path: Path, seed: int) -> None:
    draw = random.Random(seed)
    for item in path.rglob("*"):
        time = draw.uniform(0, 4e9)  # any year from 1970 to 2096
        os.utime(item, (time, time))
    assert missing(path) == EVERYTHING_DONE


def test_the_date_of_a_report_is_one_that_was_recorded(path: Path) -> None:
    created = max(load_yaml(file)["created"] for file in path.glob("runs/*/config.yaml"))
    assert f"Results of {created[:16].replace('T', ' ')} UTC" in (path / "report.html").read_text()
    for item in path.rglob("*"):
        os.utime(item, (4e9, 4e9))
    out = path.parent / "again.html"
    report(ReportConfig(paths=(path,), out=out))
    assert f"Results of {created[:16].replace('T', ' ')} UTC" in out.read_text()


def test_a_shard_that_was_written_again_makes_the_merge_missing_however_old_it_claims_to_be(path: Path) -> None:
    folder = FeatureDir(path / "features/mfcc")
    shards = sorted(folder.shards.iterdir())
    shutil.copy(shards[0], shards[1])
    for shard in shards:
        os.utime(shard, (0, 0))
    assert missing(path)["merge-mfcc"] == [0]


def test_another_merge_makes_the_runs_and_the_report_missing_that_are_of_the_one_before(path: Path) -> None:
    summary_file = path / "features/mfcc/summary.json"
    summary = json.loads(summary_file.read_text())
    del summary["digest"]
    summary_file.write_text(json.dumps(sealed({**summary, "merge_id": "another"})))
    os.utime(summary_file, (0, 0))
    found = missing(path)
    assert (found["merge-mfcc"], found["train"], found["evaluate"], found["report"]) == ([], [0, 1], [0, 1], [0])


def test_another_setting_makes_the_runs_missing_that_have_it(path: Path) -> None:
    config = load_yaml(path / "config.yaml")
    config["train"]["seed"] = [0]
    config["train"]["replicates"] = 20
    (path / "config.yaml").write_text(dump_yaml(config))
    assert missing(path)["train"] == [0, 1]


def test_results_that_changed_make_the_report_missing(path: Path) -> None:
    metrics = next(path.glob("runs/*/metrics.json"))
    metrics.write_text(metrics.read_text() + "\n")
    os.utime(metrics, (0, 0))
    assert missing(path)["report"] == [0]


def test_runs_and_reports_of_earlier_versions_are_done(path: Path) -> None:
    for inputs in path.glob("runs/*/inputs.json"):
        inputs.unlink()
    report = path / "report.html"
    lines = report.read_text().splitlines(keepends=True)
    report.write_text("".join(line for line in lines if "voxshard-inputs" not in line))
    assert len(lines) == len(report.read_text().splitlines()) + 1
    assert missing(path) == EVERYTHING_DONE
    frozen = next((path / "jobs").glob("train-*-knn-0.yaml"))
    frozen.write_text(frozen.read_text().replace("replicates: 10", "replicates: 11"))
    assert missing(path)["train"] == [1]


def test_a_damaged_merged_file_is_merged_again(path: Path) -> None:
    (path / "features/mfcc/features.h5").write_bytes(b"damaged")
    assert missing(path)["merge-mfcc"] == [0]
