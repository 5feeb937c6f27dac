"""What status prints: complete lines, of feature sets and of runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("sklearn", reason="classifiers need scikit-learn: pip install 'voxshard[learn]'")

from support.feature_sets import write_set
from voxshard.cli.status import command
from voxshard.config import validated
from voxshard.errors import IncompleteError
from voxshard.learning.train_config import TrainConfig
from voxshard.stages import train
from voxshard.stages.base import Task


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """A feature set and a run on it, in a folder with a name longer than a narrow screen."""
    path = tmp_path / ("long-" * 20)
    vectors = np.eye(2, dtype=np.float32)[np.arange(20) % 2]
    columns = {"split": [("train", "test")[row // 2 % 2] for row in range(20)], "digit": [row % 2 for row in range(20)]}
    names = [f"u{row}" for row in range(20)]
    features = write_set(path / "features" / "mfcc", dict(zip(names, vectors, strict=True)), columns)
    content = {"features": features, "label": "digit", "classifier": "knn", "out": path / "runs" / "a", "replicates": 0}
    train.run(validated(TrainConfig, content, where="test"), Task())
    return path


def test_lines_are_never_broken_so_that_commands_can_be_copied(experiment: Path) -> None:
    lines = CliRunner().invoke(command, [str(experiment / "features" / "mfcc")]).output.splitlines()
    folder = experiment / "features" / "mfcc"
    assert f"next        voxshard train {folder} --label COLUMN --classifier logistic --out RUN" in lines


def test_a_run_tells_what_it_is_and_how_well_it_does(experiment: Path) -> None:
    run = experiment / "runs" / "a"
    lines = CliRunner().invoke(command, [str(run)]).output.splitlines()
    assert lines[0] == f"run         {run} (knn of digit, on mfcc)"
    assert lines[1].startswith("test        eer 0.0000, ")
    assert lines[2] == f"next        voxshard report {run} --out report.html"


def test_an_experiment_shows_its_feature_sets_and_its_runs(experiment: Path) -> None:
    found = json.loads(CliRunner().invoke(command, [str(experiment), "--json"]).output)
    assert [Path(item["path"]).name for item in found["features"]] == ["mfcc"]
    assert found["runs"][0]["results"]["test"]["eer"] == 0.0


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match="neither a feature set"):
        command.main([str(tmp_path)], standalone_mode=False)
