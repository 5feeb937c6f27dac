"""Test utterances of a class that training never saw are counted where the figures are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="classifiers need scikit-learn: pip install 'voxshard[learn]'")

from support.feature_sets import write_set
from voxshard.config import validated
from voxshard.learning.train_config import EvaluateConfig, TrainConfig
from voxshard.progress import Silent
from voxshard.stages import evaluate, report, train
from voxshard.stages.base import Task
from voxshard.store.runs import Run

LINE = (
    "test: 2 of 6 utterances are of a class that training never saw: high (2); they are in no metric. "
    "Accuracy 1.0000 without them, 0.6667 if each counts as an error"
)


class Listening(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_training_evaluation_and_report_count_accuracy_both_ways(tmp_path: Path) -> None:
    labels = ["low"] * 4 + ["middle"] * 4 + ["low", "low", "middle", "middle", "high", "high"]
    splits = ["train"] * 8 + ["test"] * 6
    vectors = {
        f"u{row:02d}": np.array([{"low": 0, "middle": 5, "high": 9}[name], row / 99], np.float32)
        for row, name in enumerate(labels)
    }
    features = write_set(tmp_path / "f", vectors, {"label": labels, "split": splits})
    out = tmp_path / "run"
    content = {"features": features, "label": "label", "classifier": "logistic", "out": out, "replicates": 0}
    progress = Listening()
    train.run(validated(TrainConfig, content, where="test"), Task(progress=progress))
    assert LINE in progress.notes
    assert Run.read(out).metrics["notes"] == [LINE]
    progress = Listening()
    evaluate.run(EvaluateConfig(run=out), Task(progress=progress))
    assert LINE in progress.notes
    assert Run.read(out).metrics["notes"] == [LINE]
    page = tmp_path / "report.html"
    report.run(report.ReportConfig(paths=(out,), out=page), Task(progress=Silent()))
    assert "2 of 6 utterances are of a class that training never saw: high (2)" in page.read_text()


def test_values_that_are_neither_yes_nor_no_are_counted(tmp_path: Path) -> None:
    happy, sad = ["1", "0"] * 4 + ["1", "2", "2", "0"], ["0", "1"] * 4 + ["0", "1", "1", None]
    vectors = {f"u{row:02d}": np.array([row % 2, row / 99], np.float32) for row in range(12)}
    columns = {"happy": happy, "sad": sad, "split": ["train"] * 8 + ["test"] * 4}
    features, out = write_set(tmp_path / "f", vectors, columns), tmp_path / "run"
    content = {"features": features, "label": ["happy", "sad"], "classifier": "logistic", "out": out, "replicates": 0}
    train.run(validated(TrainConfig, content, where="test"), Task(progress=Silent()))
    assert Run.read(out).metrics["notes"] == [
        "test: 2 of 4 values of label happy are neither yes nor no; they are in no metric"
    ]
