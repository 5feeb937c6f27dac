"""Training: from features to a run, equal to scikit-learn by hand, the same every time."""

from __future__ import annotations

import csv
import json
import re
import socket
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="classifiers need scikit-learn: pip install 'voxshard[learn]'")

from sklearn.base import ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC, LinearSVC

from support.feature_sets import write_set
from support.wandb_stand_in import FakeWandb
from voxshard.cli.evaluate import results_table as lines_of_results
from voxshard.config import validated
from voxshard.errors import BackendUnavailableError, ConfigError, DataError, ScoreError, StoppedError
from voxshard.learning.train_config import NAMES, GridConfig, TrainConfig
from voxshard.progress import Silent
from voxshard.stages import train as stage
from voxshard.stages.base import Task
from voxshard.store.ingest import IngestConfig, ingest
from voxshard.store.runs import Run


class Listening(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def _train(path: Path | Sequence[Path], label: str, classifier: str, out: Path, **options: Any) -> Run:
    content = {"features": path, "label": label, "classifier": classifier, "out": out, "replicates": 0, **options}
    stage.run(validated(TrainConfig, content, where="test"), Task(progress=Silent()))
    return Run.read(out)


def _value(run: Run, split: str, name: str) -> float:
    return float(run.metrics["metrics"][split][name]["value"])


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """180 utterances of three digits by six speakers, in train, dev and test."""
    rng = np.random.default_rng(0)
    num = 180
    digit = np.arange(num) % 3
    speaker = np.arange(num) // 3 % 6
    of_digit, of_speaker = rng.normal(size=(3, 8)), rng.normal(size=(6, 3, 8))  # everybody says a digit their own way
    vectors = rng.normal(size=(num, 8)) + of_digit[digit] + 1.5 * of_speaker[speaker, digit]
    columns = {
        "split": [("train", "train", "dev", "test")[row // 18 % 4] for row in range(num)],
        "fold": [str(row // 18 % 5 + 1) for row in range(num)],
        "speaker": [f"s{name}" for name in speaker],
        "digit": digit.tolist(),
        "label": ["bonafide" if value == 0 else "spoof" for value in digit],
        "cough": [None if row % 7 == 0 else row % 2 for row in range(num)],
        "fever": [None if row % 5 == 0 else int(value == 1) for row, value in enumerate(digit)],
    }
    arrays = {f"u{row:03d}": vector.astype(np.float32) for row, vector in enumerate(vectors)}
    return write_set(tmp_path_factory.mktemp("digits") / "mfcc", arrays, columns)


SMALL: dict[str, dict[str, Any]] = {
    "gmm": {"n_components": 2},
    "random-forest": {"n_estimators": 10},
    "gradient-boosting": {"max_iter": 5, "min_samples_leaf": 5, "learning_rate": 0.5},
    "mlp": {"learning_rate_init": 0.02, "max_iter": 60},
}


@pytest.mark.parametrize("name", NAMES)
def test_every_classifier_trains_and_the_same_seed_gives_the_same_numbers(
    name: str, digits: Path, tmp_path: Path
) -> None:
    settings = {"standardize": True, **SMALL.get(name, {})}
    once, again = (_train(digits, "digit", name, tmp_path / part, settings=settings, seed=7) for part in ("a", "b"))
    assert once.metrics["metrics"] == again.metrics["metrics"]
    assert once.scores_file.read_bytes() == again.scores_file.read_bytes()
    assert once.trials().equals(again.trials())
    assert set(once.metrics["metrics"]) == {"dev", "test"}
    assert _value(once, "test", "accuracy") > 0.55
    scores = once.scores()
    assert scores.column_names == ["utterance_id", "score_0", "score_1", "score_2", "prediction"]
    assert scores.num_rows == 36 + 36
    assert set(scores["prediction"].to_pylist()) == {"0", "1", "2"}


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, np.ndarray]]]:
    """Windows as X, Y, IDS in two npz files, as the scikit-learn transfer learning scripts write them, ingested."""
    folder = tmp_path_factory.mktemp("windows")
    rng = np.random.default_rng(1)
    means = rng.normal(size=(4, 20))
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for split, num_recordings in (("train", 60), ("test", 40)):
        counts = rng.integers(2, 7, num_recordings)
        label = rng.integers(0, 4, num_recordings)
        owner = np.repeat(np.arange(num_recordings), counts)
        x = (1.2 * rng.normal(size=(len(owner), 20)) + means[label[owner]]).astype(np.float32)
        ids = np.array([f"{split}/{number:03d}.wav" for number in owner])
        arrays[split] = {"X": x, "Y": label[owner], "IDS": ids}
        np.savez(folder / f"{split}.npz", **arrays[split])
    config = IngestConfig(inputs=tuple(f"{split}={folder / split}.npz" for split in arrays), out=folder / "musicnn")
    ingest(config, Silent(), lambda: None)
    return folder / "musicnn", arrays


def _vote(predicted: np.ndarray, ids: np.ndarray) -> dict[str, str]:
    return {name: str(np.bincount(predicted[ids == name]).argmax()) for name in dict.fromkeys(ids.tolist())}


@pytest.mark.parametrize(
    ("name", "by_hand", "settings", "pca"),
    [
        ("svm", SVC(C=1, kernel="rbf", gamma="scale"), {"pca": 8, "whiten": True}, PCA(8, whiten=True)),
        ("svm", SVC(C=1, kernel="rbf", gamma="scale"), {}, None),
        ("linear-svm", LinearSVC(C=1, random_state=0), {}, None),
        ("linear-svm", LinearSVC(C=1, random_state=0), {"pca": 8, "whiten": True}, PCA(8, whiten=True)),
        ("knn", KNeighborsClassifier(n_neighbors=1, metric="cosine"), {}, None),
        ("knn", KNeighborsClassifier(n_neighbors=1, metric="euclidean"), {"metric": "euclidean", "pca": 8}, PCA(8)),
    ],
    ids=["pca+svm", "svm", "linear-svm", "pca+linear-svm", "knn", "pca+euclidean-knn"],
)
def test_windows_with_a_majority_vote_equal_scikit_learn_by_hand(
    name: str,
    by_hand: ClassifierMixin,
    settings: dict[str, Any],
    pca: PCA | None,
    windows: tuple[Path, dict[str, dict[str, np.ndarray]]],
    tmp_path: Path,
) -> None:
    path, arrays = windows
    train, test = arrays["train"], arrays["test"]
    x, x_test = train["X"], test["X"]
    if pca is not None:
        x = pca.fit_transform(x)
        x_test = pca.transform(x_test)
    predicted = by_hand.fit(x, train["Y"]).predict(x_test)
    voted = _vote(predicted, test["IDS"])
    truth = dict(zip(test["IDS"].tolist(), test["Y"].tolist(), strict=True))
    run = _train(path, "label", name, tmp_path / "run", settings=settings)
    scores = run.scores()
    assert dict(zip(scores["utterance_id"].to_pylist(), scores["prediction"].to_pylist(), strict=True)) == voted
    assert _value(run, "test", "accuracy") == np.mean([voted[key] == str(value) for key, value in truth.items()])
    assert 0.5 < _value(run, "test", "accuracy") < 1
    of_first = predicted[test["IDS"] == scores["utterance_id"][0].as_py()]
    shares = [scores[f"score_{number}"][0].as_py() for number in range(4)]
    assert shares == [(of_first == number).mean() for number in range(4)]


def test_windows_joined_by_the_mean_use_probabilities(
    windows: tuple[Path, dict[str, dict[str, np.ndarray]]], tmp_path: Path
) -> None:
    path, _ = windows
    scores = _train(path, "label", "logistic", tmp_path / "run", settings={"join": "mean"}).scores()
    table = np.column_stack([scores[f"score_{number}"].to_numpy() for number in range(4)])
    np.testing.assert_allclose(table.sum(axis=1), 1)
    assert [str(number) for number in table.argmax(axis=1)] == scores["prediction"].to_pylist()
    assert len(np.unique(table)) > 100


def test_a_detector_scores_bona_fide_higher_and_says_what_it_is(digits: Path, tmp_path: Path) -> None:
    run = _train(digits, "label", "logistic", tmp_path / "run", replicates=50)
    scores = run.scores()
    assert scores.column_names == ["utterance_id", "score", "prediction"]
    assert [value > 0 for value in scores["score"].to_pylist()] == [
        name == "bonafide" for name in scores["prediction"].to_pylist()
    ]
    assert _value(run, "test", "auc") > 0.9
    assert run.metrics["kind"] == run.config["kind"] == "detection"
    assert run.metrics["counts"]["training"]["classes"] == {"bonafide": 36, "spoof": 72}
    assert set(run.metrics["metrics_by_speaker"]) == {"dev", "test"}
    assert sorted(run.tables()) == ["confusion-dev", "confusion-test"]
    config = run.config
    assert config["features"] == [
        {"path": str(digits.resolve()), "name": "mfcc", "encoder": "mfcc", "fingerprint": "f" * 64}
    ]
    assert (config["label"], config["classifier"], config["split"], config["splits"]) == (
        ["label"], "logistic", "train", ["dev", "test"],
    )  # fmt: skip
    assert config["settings"]["C"] == 1.0


def test_calibration_on_dev_brings_the_actual_cost_to_the_minimum(digits: Path, tmp_path: Path) -> None:
    settings = {"class_weight": "balanced", "C": 0.003}
    plain = _train(digits, "label", "linear-svm", tmp_path / "plain", settings=settings)
    calibrated = _train(digits, "label", "linear-svm", tmp_path / "run", settings={**settings, "calibrate": "dev"})
    for name in ("eer", "min_dcf", "auc", "accuracy"):
        assert _value(calibrated, "dev", name) == pytest.approx(_value(plain, "dev", name))
    gap = _value(calibrated, "dev", "act_dcf") - _value(calibrated, "dev", "min_dcf")
    assert gap < 0.5 * (_value(plain, "dev", "act_dcf") - _value(plain, "dev", "min_dcf"))
    assert _value(calibrated, "dev", "cllr") < _value(plain, "dev", "cllr")


def test_calibration_that_makes_no_sense_is_refused(digits: Path, tmp_path: Path) -> None:
    def train(label: str, calibrate: str, **options: Any) -> None:
        _train(digits, label, "svm", tmp_path / "run", settings={"calibrate": calibrate}, **options)

    with pytest.raises(ConfigError, match="calibrate=dev: only the score of a detection task is calibrated"):
        train("digit", "dev")
    with pytest.raises(
        ConfigError, match="calibrate=val: no labelled utterance has that split; splits here: train, dev, test"
    ):
        train("label", "val")
    with pytest.raises(
        ConfigError, match="calibrate=train: the model is trained on that split; calibrate on another one"
    ):
        train("label", "train")
    apart = {f"u{row}": np.array([row // 4, row % 4], np.float32) for row in range(8)}
    columns = {"split": ["train", "train", "dev", "dev"] * 2, "cough": [0, 0, 0, 0, 1, 1, 1, 1]}
    path = write_set(tmp_path / "apart", apart, columns)
    with pytest.raises(ScoreError, match=r"calibrate=dev: logistic calibration needs classes that overlap.*=affine"):
        _train(path, "cough", "svm", tmp_path / "run", settings={"calibrate": "dev"})
    affine = _train(path, "cough", "svm", tmp_path / "run", settings={"calibrate": "dev", "calibration": "affine"})
    assert json.loads((affine.model / "model.json").read_text())["calibration"]["scale"] > 0


def test_several_labels_are_learned_one_against_the_rest_with_gaps(digits: Path, tmp_path: Path) -> None:
    run = _train(digits, "cough,fever", "logistic", tmp_path / "run", settings={"class_weight": "balanced"})
    assert run.scores().column_names == ["utterance_id", "score_cough", "score_fever", "prediction"]
    assert {"auc.fever", "mean_auc", "mean_average_precision"} <= set(run.metrics["metrics"]["test"])
    assert _value(run, "test", "auc.fever") > 0.9
    alone = _train(digits, "fever", "logistic", tmp_path / "fever", settings={"class_weight": "balanced"})
    assert _value(run, "test", "auc.fever") == _value(alone, "test", "auc")
    assert run.config["label"] == ["cough", "fever"]
    lines = lines_of_results(run.metrics["metrics"], run.config["kind"])
    assert {"auc.cough", "auc.fever", "mean_auc"} <= {line.split()[0] for line in lines[1:]}
    (fever,) = (line for line in lines if line.startswith("auc.fever"))
    assert f"{_value(run, 'test', 'auc.fever'):.4f}" in fever.split()
    assert not [line for line in lines_of_results(run.metrics["metrics"], "classification") if line.startswith("auc.")]


def test_every_fold_is_tested_by_a_model_that_has_not_seen_it(digits: Path, tmp_path: Path) -> None:
    run = _train(digits, "digit", "knn", tmp_path / "run", folds="fold")
    trials = run.trials()
    assert run.config["splits"] == ["folds"]
    assert trials.num_rows == 180
    table = run.tables()["folds"]
    assert table["fold"].to_pylist() == [1, 2, 3, 4, 5]
    assert table["count"].to_pylist() == [36] * 5
    correct = np.array(trials["label"].to_pylist()) == np.array(trials["prediction"].to_pylist())
    assert table["accuracy"].to_pylist() == [
        correct[np.array(trials["fold"].to_pylist()) == str(n)].mean() for n in range(1, 6)
    ]
    assert _value(run, "folds", "accuracy") == correct.mean() < 1  # 1-NN that had seen them would be perfect


def test_new_speakers_are_harder_than_known_ones(digits: Path, tmp_path: Path) -> None:
    known = _train(digits, "digit", "logistic", tmp_path / "known", folds="fold")
    new = _train(digits, "digit", "logistic", tmp_path / "new", folds="speaker", settings={"num_folds": 3})
    assert len(new.tables()["folds"]) == 3
    assert _value(new, "folds", "accuracy") < _value(known, "folds", "accuracy")


def test_folds_within_a_split_leave_the_other_splits_to_test(digits: Path, tmp_path: Path) -> None:
    run = _train(digits, "digit", "prototypes", tmp_path / "run", folds="speaker", split="train")
    assert run.config["splits"] == ["folds", "dev", "test"]
    assert run.metrics["counts"]["folds"] == {"scored": 108, "measured": 108}
    plain = _train(digits, "digit", "prototypes", tmp_path / "plain")
    assert run.metrics["metrics"]["test"] == plain.metrics["metrics"]["test"]


def test_few_shots_give_a_curve_with_mean_and_deviation(digits: Path, tmp_path: Path) -> None:
    run = _train(digits, "digit", "logistic", tmp_path / "run", n_shot=[1, 10, 3], runs=4)
    rows = run.tables()["n-shot"].to_pylist()
    assert Counter((row["shots"], row["split"]) for row in rows) == {
        (shots, split): 4 for shots in (1, 3, 10) for split in ("dev", "test")
    }
    curve = {(row["split"], row["shots"]): row for row in run.metrics["n_shot"] if row["metric"] == "accuracy"}
    for (split, shots), row in curve.items():
        values = [item["accuracy"] for item in rows if (item["split"], item["shots"]) == (split, shots)]
        assert row["mean"] == pytest.approx(np.mean(values))
        assert row["deviation"] == pytest.approx(np.std(values, ddof=1))
        assert row["runs"] == 4
    assert curve["test", 1]["mean"] < curve["test", 10]["mean"]
    kept = next(row for row in rows if (row["shots"], row["run"], row["split"]) == (10, 0, "test"))
    assert _value(run, "test", "accuracy") == kept["accuracy"]
    assert run.config["n_shot"] == [1, 3, 10]
    message = "--n-shot 40: class 0 has 36 training examples; give --n-shot 36 or fewer"
    with pytest.raises(DataError, match=re.escape(message)):
        _train(digits, "digit", "logistic", tmp_path / "run", n_shot=40)


@pytest.mark.parametrize("name", NAMES)
def test_one_example_of_each_class_is_enough_but_for_a_mixture(name: str, digits: Path, tmp_path: Path) -> None:
    if name == "gmm":
        with pytest.raises(
            DataError, match="gmm: a class has 1 training rows, a mixture of 1 needs as many, at least 2"
        ):
            _train(digits, "digit", name, tmp_path / name, n_shot=1, runs=1, settings={"n_components": 1})
    else:
        run = _train(digits, "digit", name, tmp_path / name, n_shot=1, runs=1, settings=SMALL.get(name, {}))
        assert run.metrics["counts"]["training"]["classes"] == {"0": 1, "1": 1, "2": 1}


def test_features_of_several_sets_are_joined(digits: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    more = {f"u{row:03d}": rng.normal(size=2).astype(np.float32) for row in range(0, 180, 2)}
    write_set(tmp_path / "lfcc", more, fingerprint="e" * 64)
    run = _train([digits, tmp_path / "lfcc"], "digit", "logistic", tmp_path / "run")
    assert [source["name"] for source in run.config["features"]] == ["mfcc", "lfcc"]
    assert run.metrics["notes"] == ["left out, because they are not in every feature set: 90 utterances"]


def test_training_says_what_is_missing(digits: Path, tmp_path: Path) -> None:
    message = (
        "no utterance has split 'training'; splits here: train, dev, test. Give --split, or test in folds: --folds "
    )
    with pytest.raises(DataError, match=re.escape(message)):
        _train(digits, "digit", "svm", tmp_path / "run", split="training")
    message = (
        "--label digits: no such column; columns here: fold, speaker, digit, label, cough, fever. Labels come with"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        _train(digits, "digits", "svm", tmp_path / "run")
    with pytest.raises(ConfigError, match=re.escape("settings (svm): 1 problem\n  c: unknown key; valid keys: C, cal")):
        _train(digits, "digit", "svm", tmp_path / "run", settings={"c": 10})
    with pytest.raises(ConfigError, match="folds and n_shot are two ways to choose what to train on; give one"):
        _train(digits, "digit", "svm", tmp_path / "run", folds="fold", n_shot=3)
    with pytest.raises(ConfigError, match="n_shot draws examples per class, so it takes one label"):
        _train(digits, "cough,fever", "svm", tmp_path / "run", n_shot=3)
    assert list(tmp_path.iterdir()) == []


def test_unlabelled_utterances_are_counted(digits: Path, tmp_path: Path) -> None:
    listening = Listening()
    content = {
        "features": digits,
        "label": "cough",
        "classifier": "prototypes",
        "out": tmp_path / "run",
        "replicates": 0,
    }
    stage.run(validated(TrainConfig, content, where="test"), Task(progress=listening))
    run = Run.read(tmp_path / "run")
    assert run.metrics["notes"] == ["left out, because they have no label: 16 training utterances"]
    assert [note for note in listening.notes if "memory" not in note] == run.metrics["notes"]
    assert run.metrics["counts"]["training"]["utterances"] == 108 - 16
    assert run.metrics["counts"]["test"]["scored"] > run.metrics["counts"]["test"]["measured"]


def test_a_stop_leaves_nothing_behind(digits: Path, tmp_path: Path) -> None:
    task = Task()
    task.stop.set()
    config = TrainConfig(features=(digits,), label=("digit",), classifier="knn", out=tmp_path / "run")
    with pytest.raises(StoppedError, match="stopped by a signal"):
        stage.run(config, task)
    assert list(tmp_path.iterdir()) == []


def test_results_are_entered_beside_the_run(digits: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        _train(digits, "digit", "perceptron", tmp_path / f"run-{seed}", seed=seed)
    with open(tmp_path / "runs.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["run"], row["seed"], row["features"], row["label"], row["classifier"]) for row in rows} == {
        ("run-0", "0", "mfcc", "digit", "perceptron"), ("run-1", "1", "mfcc", "digit", "perceptron"),
    }  # fmt: skip
    accuracy = next(row for row in rows if (row["run"], row["split"], row["metric"]) == ("run-1", "test", "accuracy"))
    assert float(accuracy["value"]) == _value(Run.read(tmp_path / "run-1"), "test", "accuracy")


def test_a_grid_is_every_combination_as_a_training_of_its_own(digits: Path, tmp_path: Path) -> None:
    grid = GridConfig.model_validate({
        "features": [digits, [digits, tmp_path / "lfcc"]], "label": "digit", "classifier": ["prototypes", "knn"],
        "seed": [0, 1], "out": tmp_path / "runs", "replicates": 0,
        "settings": {"standardize": True, "knn": {"n_neighbors": 3}},
    })  # fmt: skip
    trainings = grid.expand()
    assert [training.out.name for training in trainings] == [
        f"{features}-{name}-{seed}"
        for features in ("mfcc", "mfcc+lfcc")
        for name in ("prototypes", "knn")
        for seed in (0, 1)
    ]
    assert trainings[0].settings == {"standardize": True}
    assert trainings[2].settings == {"standardize": True, "n_neighbors": 3}
    for training in trainings[:4]:
        stage.run(training, Task())
    runs = [Run.read(training.out) for training in trainings[:4]]
    assert (runs[3].name, runs[3].config["classifier"], runs[3].config["seed"]) == ("mfcc-knn-1", "knn", 1)
    assert all(run.metrics["metrics"]["test"]["accuracy"]["value"] is not None for run in runs)
    with pytest.raises(
        ConfigError, match="grid: two trainings would write mfcc-knn-0; give feature sets folders of different"
    ):
        grid.model_copy(update={"features": [(digits,), (tmp_path / "mfcc",)]}).expand()
    with pytest.raises(ConfigError, match=re.escape("settings (prototypes): 1 problem\n  C: unknown key")):
        grid.model_copy(update={"settings": {"C": 1}}).expand()


def test_wandb_logs_online_where_somebody_is_logged_in_and_the_service_answers(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = FakeWandb(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_BASE_URL", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    listening = Listening()
    content = {
        "features": digits,
        "label": "digit",
        "classifier": "knn",
        "out": tmp_path / "run",
        "replicates": 0,
        "wandb": True,
    }
    config = validated(TrainConfig, content, where="test")
    stage.run(config, Task(progress=listening))
    run = Run.read(tmp_path / "run")
    assert wandb.calls == [
        {"project": "voxshard", "name": "run", "dir": str(tmp_path), "config": dict(run.config), "mode": "offline"}
    ]
    assert wandb.summary["test/accuracy"] == _value(run, "test", "accuracy")
    assert wandb.finished
    assert listening.notes[-1] == f"wandb is offline; later: wandb sync {tmp_path}/wandb/offline-run-1"
    with socket.create_server(("127.0.0.1", 0)) as service:
        address = f"127.0.0.1:{service.getsockname()[1]}"
        monkeypatch.setenv("WANDB_BASE_URL", f"http://{address}")
        stage.run(config, Task())
        (tmp_path / "netrc").write_text(f"machine {address} login user password somebody\n")
        stage.run(config, Task())
    stage.run(config, Task())
    monkeypatch.setenv("WANDB_MODE", "disabled")
    stage.run(config, Task())
    # nobody logged in; nobody logged in there; both; the service is gone; as the user asks
    assert [call["mode"] for call in wandb.calls] == ["offline", "offline", "online", "offline", "disabled"]


def test_wandb_that_is_not_installed_is_said_before_training(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = TrainConfig(features=(digits,), label=("digit",), classifier="knn", out=tmp_path / "run", wandb=True)
    message = "--log wandb needs the package wandb, which is not installed here; pip install 'voxshard[tracking]', or"
    with pytest.raises(BackendUnavailableError, match=re.escape(message)):
        stage.run(config, Task())
    assert list(tmp_path.iterdir()) == []


def test_a_mode_that_weights_and_biases_does_not_have_is_said_before_training(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "ofline")
    config = TrainConfig(features=(digits,), label=("digit",), classifier="knn", out=tmp_path / "run", wandb=True)
    with pytest.raises(ConfigError, match=r"^WANDB_MODE=ofline: no mode of Weights & Biases; give online, offline or"):
        stage.run(config, Task())
    assert list(tmp_path.iterdir()) == []


def test_scikit_learn_that_is_not_installed_is_said(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("voxshard.learning.")]:
        if name not in ("voxshard.learning.train_config", "voxshard.learning.tracking"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "skops", None)
    monkeypatch.setitem(sys.modules, "skops.io", None)
    config = TrainConfig(features=(digits,), label=("digit",), classifier="knn", out=tmp_path / "run")
    message = "training and evaluating need skops, which is not installed: pip install 'voxshard[learn]'"
    with pytest.raises(BackendUnavailableError, match=re.escape(message)):
        stage.run(config, Task())


def test_scales_that_differ_much_are_pointed_out_and_change_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scales = np.ones(6)
    columns = {"split": [("train", "test")[row % 4 // 2] for row in range(80)], "digit": [row % 2 for row in range(80)]}
    rows = rng.normal(size=(80, 6)).astype(np.float32)
    for name, loudest in (("even", 1.0), ("uneven", 100.0)):
        scales[0] = loudest
        features = write_set(tmp_path / name, {f"u{row}": rows[row] * scales for row in range(80)}, columns)
        for settings in ({}, {"standardize": True}):
            progress = Listening()
            content = {"features": features, "label": "digit", "classifier": "svm", "out": tmp_path / "run"}
            config = validated(TrainConfig, {**content, "settings": settings, "replicates": 0}, where="test")
            stage.run(config, Task(progress=progress))
            is_advised = any("differ much in scale, and the largest dominate svm" in note for note in progress.notes)
            assert is_advised == (name == "uneven" and not settings)
            assert Run.read(tmp_path / "run").metrics["notes"] == []


def test_a_classifier_that_stops_early_is_noted_not_shouted(digits: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = _train(digits, "digit", "mlp", tmp_path / "run", settings={"max_iter": 2})
    (note,) = run.metrics["notes"]
    assert note.startswith("training: Stochastic Optimizer: Maximum iterations (2) reached")
    assert json.loads((run.model / "model.json").read_text())["classifier"] == "mlp"


@pytest.mark.parametrize(
    ("classifier", "settings", "message"),
    [
        ("logistic", {"pca": 9}, r": pca=9, but 108 training rows of 8 values have 8 .* give --set pca=8"),
        ("knn", {"n_neighbors": 109}, ": n_neighbors=109, but there are 108 training rows"),
        ("mlp", {"early_stopping": True}, ": mlp cannot be fitted to 3 training rows: "),
    ],
)
def test_settings_that_ask_for_more_rows_than_there_are_name_what_would_do(
    classifier: str, settings: dict[str, Any], message: str, digits: Path, tmp_path: Path
) -> None:
    few = {"n_shot": [1], "runs": 1} if classifier == "mlp" else {}
    with pytest.raises(DataError, match=message):
        _train(digits, "digit", classifier, tmp_path / "run", settings=settings, **few)
    assert not (tmp_path / "run").exists()


def test_layers_of_no_units_are_refused(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hidden_layer_sizes\.0: Input should be greater than or equal to 1"):
        _train(digits, "digit", "mlp", tmp_path / "run", settings={"hidden_layer_sizes": [0]})
