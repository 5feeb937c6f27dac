"""`train.also`: further grids of classifiers, by the keys in which they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from voxshard.config import validated
from voxshard.errors import ConfigError
from voxshard.experiment.experiment import Experiment
from voxshard.experiment.schema import ExperimentConfig


def experiment(tmp_path: Path, **also: dict[str, Any]) -> Experiment:
    content = {
        "out": tmp_path / "exp",
        "prepare": {"format": "folder", "root": str(tmp_path)},
        "extract": {"mfcc": {"encoder": "mfcc"}},
        "train": {"label": "label", "classifier": ["knn", "logistic"], "settings": {"l2": True}, "also": also},
    }
    return Experiment(validated(ExperimentConfig, content, where="test.yaml"))


def test_a_further_grid_differs_in_what_it_names_and_in_its_runs(tmp_path: Path) -> None:
    found = experiment(tmp_path, codec={"label": "codec", "classifier": "knn", "folds": "speaker"}).classifiers()
    assert [training.out.name for training in found] == ["mfcc-knn-0", "mfcc-logistic-0", "mfcc-codec-knn-0"]
    assert [training.label for training in found] == [("label",), ("label",), ("codec",)]
    assert [training.folds for training in found] == [None, None, "speaker"]
    assert all(training.settings == {"l2": True} for training in found)


@pytest.mark.parametrize(
    ("also", "message"),
    [
        ({"codec": {"lable": "codec"}}, r"train\.also\.codec: 1 problem\n  lable: unknown key"),
        ({"codec": {"also": {}}}, r"train\.also\.codec: 1 problem\n  also: unknown key"),
        ({"codec": {"features": ["lfcc"]}}, "train.features: no lfcc under extract"),
        ({"a/b": {"label": "codec"}}, "train.also: 'a/b' cannot be the name of a folder"),
    ],
)
def test_a_further_grid_that_is_wrong_is_named(tmp_path: Path, also: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        experiment(tmp_path, **also)
