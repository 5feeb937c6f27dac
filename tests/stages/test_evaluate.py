"""Evaluating a run again: same numbers, other features, later labels, breakdowns."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("sklearn", reason="classifiers need scikit-learn: pip install 'voxshard[learn]'")

from support.feature_sets import write_set
from voxshard.cli.evaluate import command as evaluate_command
from voxshard.cli.train import command as train_command
from voxshard.config import validated
from voxshard.errors import ConfigError, FeatureMismatchError, IncompleteError
from voxshard.learning.train_config import EvaluateConfig, TrainConfig
from voxshard.manifest import Manifest
from voxshard.stages import evaluate, train
from voxshard.stages.base import Task
from voxshard.store.runs import Run


def _set(path: Path, seed: int, *, prefix: str = "u", num: int = 120, **options: Any) -> Path:
    rng = np.random.default_rng(seed)
    digit = np.arange(num) % 3
    vectors = rng.normal(size=(num, 4)) + np.eye(3, 4)[digit] * 2.5
    columns = {
        "split": [("train", "dev", "test")[row // 3 % 3] for row in range(num)],
        "speaker": [f"s{row % 8}" for row in range(num)],
        "codec": [("opus", "mp3")[row // 7 % 2] for row in range(num)],
        "digit": digit.tolist(),
        "label": ["bonafide" if value == 0 else "spoof" for value in digit],
    }
    ids = [f"{prefix}{row:03d}" for row in range(num)]
    return write_set(path, dict(zip(ids, vectors.astype(np.float32), strict=True)), columns, **options)


@pytest.fixture
def trained(tmp_path: Path) -> Run:
    """A digit classifier on `tmp_path/mfcc`."""
    features = _set(tmp_path / "mfcc", 0)
    config = {
        "features": features,
        "label": "digit",
        "classifier": "logistic",
        "out": tmp_path / "run",
        "replicates": 50,
    }
    train.run(validated(TrainConfig, config, where="test"), Task())
    return Run.read(tmp_path / "run")


def _evaluate(run: Run, **options: Any) -> Any:
    content = {"run": run.path, "replicates": 50, **options}
    return evaluate.run(validated(EvaluateConfig, content, where="test"), Task())


def test_evaluating_again_changes_nothing(trained: Run) -> None:
    before = {name: (trained.path / name).read_bytes() for name in ("scores.tsv", "metrics.json")}
    trials = trained.trials()
    found = _evaluate(trained)
    assert {name: (trained.path / name).read_bytes() for name in before} == before
    assert trained.trials().equals(trials)
    assert found.metrics == trained.metrics["metrics"]


def test_a_breakdown_becomes_a_table_per_column_and_split(trained: Run) -> None:
    _evaluate(trained, group_by=["codec", "codec,speaker"], split="test")
    tables = trained.tables()
    assert {"by-codec-test", "by-codec+speaker-test"} == {name for name in tables if name.startswith("by-")}
    rows = tables["by-codec-test"].to_pylist()
    assert [row["codec"] for row in rows] == ["mp3", "opus"]
    assert sum(row["count"] for row in rows) == 39
    trials = trained.trials().to_pylist()
    mine = [row for row in trials if row["split"] == "test" and row["codec"] == "mp3"]
    assert rows[0]["accuracy"] == sum(row["label"] == row["prediction"] for row in mine) / len(mine)
    assert rows[0]["accuracy_low"] <= rows[0]["accuracy"] <= rows[0]["accuracy_high"]


def test_a_split_that_was_not_measured_in_training_can_be(trained: Run) -> None:
    _evaluate(trained, split="train")
    metrics = trained.metrics["metrics"]
    assert set(metrics) == {"dev", "test", "train"}
    assert set(trained.trials()["split"].to_pylist()) == {"dev", "test", "train"}
    assert trained.scores().num_rows == 120


def test_other_features_of_the_same_encoder_are_scored_beside_the_runs_own(trained: Run, tmp_path: Path) -> None:
    own = trained.scores_file.read_bytes()
    found = _evaluate(trained, on=[_set(tmp_path / "other", 1, prefix="x")], split="test", group_by=["codec"])
    assert list(found.metrics) == ["other-test"]
    assert set(trained.metrics["metrics"]) == {"dev", "test", "other-test"}
    assert trained.scores_file.read_bytes() == own
    lines = (trained.path / "scores-other.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["utterance_id", "score_0", "score_1", "score_2", "prediction"]
    assert len(lines) == 1 + 39
    assert "by-codec-other-test" in trained.tables()


def test_features_of_another_encoder_are_refused(trained: Run, tmp_path: Path) -> None:
    other = _set(tmp_path / "other", 1, fingerprint="e" * 64)
    message = (
        f"{other}: mfcc with fingerprint eeeeeeeeeeee; the model was trained on mfcc with fingerprint ffffffffffff "
        f"({tmp_path}/mfcc). Extract with the same encoder, settings and weights, or train again"
    )
    before = trained.metrics_file.read_bytes()
    with pytest.raises(FeatureMismatchError, match=re.escape(message)):
        _evaluate(trained, on=[other])
    message = "the model was trained on 1 feature sets joined, here are 2"
    with pytest.raises(FeatureMismatchError, match=re.escape(message)):
        _evaluate(trained, on=[tmp_path / "mfcc", _set(tmp_path / "more", 2)])
    assert trained.metrics_file.read_bytes() == before


def test_labels_that_come_later_are_given_as_a_manifest(trained: Run, tmp_path: Path) -> None:
    before = {row["utterance_id"]: row for row in trained.trials().to_pylist()}
    rows = [
        {"utterance_id": f"u{row:03d}", "path": "x", "split": "eval", "digit": row % 3 if row % 2 else None}
        for row in range(3, 9)
    ]
    Manifest.from_rows([*rows, {**rows[0], "utterance_id": "new"}], root="/", corpus="table").write(
        tmp_path / "keys.parquet"
    )
    _evaluate(trained, on=[tmp_path / "keys.parquet"])
    trials = [row for row in trained.trials().to_pylist() if row["split"] == "keys-eval"]
    assert [row["utterance_id"] for row in trials] == [f"u{row:03d}" for row in range(3, 9)]
    assert all(row["score_1"] == before[row["utterance_id"]]["score_1"] for row in trials)
    assert trained.metrics["counts"]["keys-eval"] == {"scored": 6, "measured": 3}


def test_features_without_labels_are_scored_not_measured(trained: Run, tmp_path: Path) -> None:
    vectors = {f"n{row}": np.zeros(4, np.float32) + row for row in range(5)}
    found = _evaluate(trained, on=[write_set(tmp_path / "unlabelled", vectors)])
    assert found.metrics == {}
    assert found.counts == {"unlabelled": {"scored": 5, "measured": 0}}
    assert (trained.path / "scores-unlabelled.tsv").read_text().count("\n") == 6


def test_a_cross_validated_run_is_broken_down_by_what_it_scored(tmp_path: Path) -> None:
    features = _set(tmp_path / "mfcc", 0)
    config = {"features": features, "label": "label", "classifier": "knn", "out": tmp_path / "run", "folds": "speaker",
              "replicates": 0}  # fmt: skip
    train.run(validated(TrainConfig, config, where="test"), Task())
    run = Run.read(tmp_path / "run")
    before = run.trials()
    found = _evaluate(run, group_by=["speaker"])
    assert list(found.metrics) == ["folds"]
    assert run.trials().equals(before)
    assert run.tables()["by-speaker-folds"]["count"].to_pylist() == [15] * 8


def test_what_is_not_there_is_said(trained: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--split eval: no such split; splits here: train, dev, test"):
        _evaluate(trained, split="eval")
    with pytest.raises(ConfigError, match="--group-by sex: no such column; columns here: split, label, sample_rate"):
        _evaluate(trained, group_by="sex")
    with pytest.raises(IncompleteError, match=re.escape(f"{tmp_path}/none: no run here (no config.yaml)")):
        _evaluate(Run(tmp_path / "none"))
    (tmp_path / "mfcc").rename(tmp_path / "moved")
    message = f"{tmp_path}/mfcc: the features this run was trained on no longer exist; give --on DIR"
    with pytest.raises(IncompleteError, match=re.escape(message)):
        _evaluate(trained)
    assert "moved-test" in _evaluate(trained, on=[tmp_path / "moved"]).metrics


def test_the_commands_print_a_table_with_intervals(tmp_path: Path) -> None:
    features = _set(tmp_path / "mfcc", 0)
    (tmp_path / "train.yaml").write_text(f"features: {features}\nlabel: digit\nclassifier: svm\nsettings: {{C: 2}}\n")
    runner = CliRunner()
    result = runner.invoke(
        train_command,
        [
            "--config",
            str(tmp_path / "train.yaml"),
            "--set",
            "standardize=true",
            "--out",
            str(tmp_path / "run"),
            "--seed",
            "3",
        ],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    config = Run.read(tmp_path / "run").config
    assert (config["classifier"], config["seed"]) == ("svm", 3)
    assert (config["settings"]["C"], config["settings"]["standardize"]) == (2.0, True)
    header, accuracy = result.stdout.splitlines()[:2]
    assert header.split() == ["dev", "test"]
    assert re.fullmatch(r"accuracy  (0\.\d{4} \[0\.\d{4}, [01]\.\d{4}\]\s*){2}", accuracy)
    result = runner.invoke(evaluate_command, [str(tmp_path / "run"), "--group-by", "codec"], catch_exceptions=False)
    assert "\nby-codec-test\ncodec  count  accuracy  uar     macro_f1\nmp3    " in result.stdout
    assert result.stderr.endswith(f"next: voxshard report {tmp_path}/run --out report.html\n")
    result = runner.invoke(
        train_command,
        [
            str(features),
            "--label",
            "digit",
            "--classifier",
            "knn",
            "--out",
            str(tmp_path / "few"),
            "--n-shot",
            "1,2",
            "--runs",
            "2",
        ],
        catch_exceptions=False,
    )
    assert re.search(r"^test, 2 per class: accuracy 0\.\d{4} ± 0\.\d{4}$", result.stdout, re.MULTILINE)


def test_the_train_command_names_every_missing_option() -> None:
    result = CliRunner().invoke(train_command, [])
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception).splitlines() == [
        "train: 4 problems",
        "  --label: required",
        "  DIR...|MANIFEST: required",
        "  --classifier: required",
        "  --out: required",
    ]


def test_a_path_of_another_kind_names_what_to_give(trained: Run, tmp_path: Path) -> None:
    features = tmp_path / "mfcc"
    for path, message in (
        (features, rf"mfcc: a feature set; expected a run, .* `voxshard evaluate RUN --on {features}`"),
        (tmp_path, rf": not a run; give one of those in it: {trained.path}$"),
        (features / "identity.json", r"identity\.json: a file; expected a run"),
    ):
        with pytest.raises(IncompleteError, match=message):
            evaluate.run(EvaluateConfig(run=path))
    for path, message in (
        (tmp_path, rf": not a feature set; give one of those in it: {features}$"),
        (trained.path, "run: a run; give the feature set"),
    ):
        config = TrainConfig(features=path, label="digit", classifier="knn", out=tmp_path / "new")
        with pytest.raises(IncompleteError, match=message):
            train.run(config)


def test_an_experiment_that_was_moved_is_evaluated_where_it_is_now(tmp_path: Path) -> None:
    features = _set(tmp_path / "old" / "features" / "mfcc", 0)
    config = {"features": features, "label": "digit", "classifier": "knn", "out": tmp_path / "old" / "runs" / "a"}
    train.run(validated(TrainConfig, {**config, "replicates": 0}, where="test"), Task())
    before = Run.read(tmp_path / "old" / "runs" / "a").metrics
    (tmp_path / "old").rename(tmp_path / "new")
    moved = Run.read(tmp_path / "new" / "runs" / "a")
    _evaluate(moved, replicates=0)
    assert moved.metrics == before


def test_a_classifier_is_not_trained_on_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "m.parquet").touch()
    arguments = [str(tmp_path / "m.parquet"), "--label", "a", "--classifier", "knn", "--out", str(tmp_path / "run")]
    with pytest.raises(ConfigError, match=r"m\.parquet: a file; classifiers are trained on a folder of features"):
        train_command.main(arguments, standalone_mode=False)
