"""Every classifier by its name: scikit-learn's numbers, stored without pickle."""

from __future__ import annotations

import json
import re
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="classifiers need scikit-learn: pip install 'voxshard[learn]'")

import skops.io
from scipy.special import softmax
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC, LinearSVC

from voxshard.config import parse_yaml
from voxshard.errors import (
    BackendUnavailableError,
    ConfigError,
    CorruptFileError,
    DataError,
    FormatVersionError,
    IncompleteError,
)
from voxshard.learning.classifiers import CLASSIFIERS, build
from voxshard.learning.data import ArrayRows
from voxshard.learning.estimators import ClassMixtures, Prototypes
from voxshard.learning.model import FeatureSource, Model, Target
from voxshard.learning.scores import score_rows
from voxshard.learning.train_config import NAMES, SETTINGS, settings_of
from voxshard.learning.training import predict
from voxshard.scoring.calibration import Calibration

SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"learning_rate_init": 0.02, "max_iter": 60},
    "gmm": {"n_components": 2},
    "random-forest": {"n_estimators": 5},
    "gradient-boosting": {"min_samples_leaf": 5, "max_iter": 5, "learning_rate": 0.5},
}


def _blobs(num_classes: int, num_rows: int = 90) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(num_classes)
    numbers = np.arange(num_rows) % num_classes
    means = 3 * rng.normal(size=(num_classes, 6))
    return (rng.normal(size=(num_rows, 6)) + means[numbers]).astype(np.float32), numbers


def _fitted(name: str, rows: np.ndarray, numbers: np.ndarray, **settings: Any) -> Any:
    pipeline = build(name, settings_of(name, {**SMALL.get(name, {}), **settings}), seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return pipeline.fit(rows, numbers)


def test_the_names_have_settings_and_a_classifier_each() -> None:
    assert set(NAMES) == set(CLASSIFIERS) == set(SETTINGS)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_a_classifier_learns_and_says_the_same_after_it_was_stored(name: str, num_classes: int, tmp_path: Path) -> None:
    rows, numbers = _blobs(num_classes)
    pipeline = _fitted(name, rows, numbers, standardize=True, pca=5, whiten=True, l2=True)
    classes = [str(number) for number in range(num_classes)]
    target = Target(kind="classification", labels=["digit"], classes=classes)
    source = FeatureSource(path="/data/mfcc", name="mfcc", encoder="mfcc", fingerprint="f" * 64)
    calibration = Calibration(2.0, -1.0)
    model = Model(classifier=name, target=target, features=[source], layer=None, join="vote", pipelines=[pipeline],
                  calibration=calibration)  # fmt: skip
    model.write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.skops"]
    found = Model.read(tmp_path)
    assert (found.target, list(found.features), found.calibration) == (target, [source], calibration)
    before = score_rows(pipeline, model.score_kind, rows, num_classes)
    after = score_rows(found.pipelines[0], found.score_kind, rows, num_classes)
    np.testing.assert_array_equal(after.classes, before.classes)
    np.testing.assert_array_equal(after.predicted, before.predicted)
    assert before.classes.shape == (90, num_classes)
    assert (before.predicted == numbers).mean() > 0.8
    if num_classes == 2:
        assert before.second is not None
        assert np.isfinite(before.second).all()
        np.testing.assert_array_equal(before.second > 0, before.predicted == 1)
    else:
        assert before.second is None


def test_knn_never_has_the_distances_of_all_rows_in_memory() -> None:
    rows, numbers = _blobs(2, 4_000)  # 128 MB of distances, and as much for their order
    target = Target(kind="classification", labels=["digit"], classes=["0", "1"])
    model = Model(classifier="knn", target=target, features=[], layer=None, join="vote",
                  pipelines=[_fitted("knn", rows, numbers)])  # fmt: skip
    tracemalloc.start()
    try:
        _, predicted = predict(model, ArrayRows(rows, layer=None), np.arange(len(rows)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(predicted, numbers)
    assert peak < 100e6


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("svm", SVC(C=1, kernel="rbf", gamma="scale")),
        ("linear-svm", LinearSVC(C=1, random_state=0)),
        ("knn", KNeighborsClassifier(n_neighbors=1, metric="cosine")),
        ("logistic", LogisticRegression(max_iter=300)),
    ],
)
def test_defaults_are_those_of_the_documentation(name: str, by_hand: BaseEstimator) -> None:
    rows, numbers = _blobs(3)
    ours, theirs = _fitted(name, rows, numbers), by_hand.fit(rows, numbers)
    assert len(ours.steps) == 1
    np.testing.assert_array_equal(ours.predict(rows + 0.5), theirs.predict(rows + 0.5))
    if hasattr(theirs, "decision_function"):
        np.testing.assert_array_equal(ours.decision_function(rows), theirs.decision_function(rows))


def test_preprocessing_is_standardization_then_components_then_length() -> None:
    rows, numbers = _blobs(2)
    ours = _fitted("logistic", rows, numbers, standardize=True, pca=3, whiten=True, l2=True)
    by_hand = rows
    for step in (StandardScaler(), PCA(3, whiten=True), Normalizer()):
        by_hand = step.fit_transform(by_hand)
    np.testing.assert_array_equal(ours[:-1].transform(rows), by_hand)


def test_settings_say_everything_that_is_wrong_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of("knn", {"C": 1, "n_neighbors": 0, "metric": "manhattan"})
    text = str(caught.value)
    assert text.startswith("--set (knn): 3 problems\n")
    assert (
        "  C: unknown key; valid keys: calibrate, calibration, join, l2, layer, memory_limit_gb, metric, n_neigh"
        in text
    )
    assert "  n_neighbors: Input should be greater than or equal to 1 (got 0)" in text
    assert "  metric: Input should be 'cosine' or 'euclidean' (got 'manhattan')" in text
    with pytest.raises(ConfigError, match=re.escape("whiten scales principal components: give pca=N too")):
        settings_of("svm", {"whiten": True})


def test_prototypes_are_class_means_and_a_softmax_over_distances() -> None:
    rows, numbers = _blobs(3)
    means = np.array([rows[numbers == number].mean(axis=0, dtype=np.float64) for number in range(3)])
    distances = ((rows[:, None].astype(np.float64) - means) ** 2).sum(axis=2)
    found = Prototypes().fit(rows, numbers)
    np.testing.assert_allclose(found.predict_proba(rows), softmax(-distances, axis=1), atol=1e-6)
    np.testing.assert_array_equal(found.predict(rows), distances.argmin(axis=1))
    in_parts = Prototypes().partial_fit(rows[:40], numbers[:40], [0, 1, 2]).partial_fit(rows[40:], numbers[40:])
    np.testing.assert_allclose(in_parts.sums_, found.sums_)
    cosine = Prototypes("cosine").fit(rows, numbers)
    unit, unit_means = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (rows, means))
    np.testing.assert_array_equal(cosine.predict(rows), (unit @ unit_means.T).argmax(axis=1))


def test_the_score_of_two_mixtures_is_their_log_likelihood_ratio() -> None:
    rows, numbers = _blobs(2)
    pipeline = _fitted("gmm", rows, numbers)
    by_hand = [
        GaussianMixture(2, covariance_type="diag", random_state=0).fit(rows[numbers == number]).score_samples(rows)
        for number in (0, 1)
    ]
    found = score_rows(pipeline, "log-likelihood", rows, 2)
    np.testing.assert_array_equal(found.second, by_hand[1] - by_hand[0])


def test_a_mixture_wants_as_many_rows_as_components() -> None:
    rows, numbers = _blobs(2, 20)
    message = "gmm: a class has 10 training rows, a mixture of 16 needs as many, at least 2; give --set n_components=N"
    with pytest.raises(DataError, match=re.escape(message)):
        ClassMixtures().fit(rows, numbers)


class _Unknown(BaseEstimator):
    def __init__(self, part: int = 1) -> None:
        self.part = part


def test_a_model_with_a_type_nobody_trusts_is_not_loaded(tmp_path: Path) -> None:
    rows, numbers = _blobs(2)
    target = Target(kind="detection", labels=["label"], classes=["bonafide", "spoof"], positive=0)
    pipelines = [_fitted("prototypes", rows, numbers)]
    Model(classifier="prototypes", target=target, features=[], layer=None, join="mean", pipelines=pipelines).write(
        tmp_path
    )
    assert Model.read(tmp_path).target == target
    skops.io.dump([_Unknown()], tmp_path / "model.skops")
    with pytest.raises(
        CorruptFileError, match=r"contains types that no model of voxshard has, so it is not loaded: .*_Unknown"
    ):
        Model.read(tmp_path)
    (tmp_path / "model.skops").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(
        CorruptFileError, match=re.escape("not a model of voxshard: BadZipFile('File is not a zip file')")
    ):
        Model.read(tmp_path)
    (tmp_path / "model.json").write_text('{"format_version": 2}')
    with pytest.raises(FormatVersionError, match="model format 2, this voxshard reads up to 1"):
        Model.read(tmp_path)
    with pytest.raises(IncompleteError, match=re.escape("no model here (no model.json); train it again")):
        Model.read(tmp_path / "none")


def test_every_classifier_and_setting_stands_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "classifiers.md").read_text()
    for name, model in SETTINGS.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        for setting, field in model.model_fields.items():
            own = setting not in SETTINGS["knn"].model_fields or setting in ("n_neighbors", "metric", "weights")
            where = row if own else text
            assert re.search(rf"`{setting}[`=]|`{setting}`", where), f"{name}: {setting}"
            plain = field.default is not None and not isinstance(field.default, tuple) and setting != "epochs"
            if own and plain:
                shown = re.findall(rf"`{setting}=([^`]+)`", row)[-1]
                assert parse_yaml(shown, where=name) == field.default, f"{name}: {setting}={shown}"


def test_a_model_of_another_scikit_learn_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    rows, numbers = _blobs(2)
    target = Target(kind="detection", labels=["label"], classes=["bonafide", "spoof"], positive=0)
    pipelines = [_fitted("prototypes", rows, numbers)]
    Model(classifier="prototypes", target=target, features=[], layer=None, join="mean", pipelines=pipelines).write(
        tmp_path
    )
    path = tmp_path / "model.json"
    about = json.loads(path.read_text())
    here = about["software"]["scikit-learn"]
    (tmp_path / "model.skops").write_bytes(b"what another version wrote")
    path.write_text(json.dumps({**about, "software": {"scikit-learn": "0.24.2"}}))
    message = f"{tmp_path}: made with scikit-learn 0.24.2, installed here is {here}; install that version"
    with pytest.raises(BackendUnavailableError, match=re.escape(message)) as caught:
        Model.read(tmp_path)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    path.write_text(json.dumps({**about, "software": {"scikit-learn": here, "skops": "99.1.0"}}))
    with pytest.raises(BackendUnavailableError, match=re.escape("made with skops 99.1.0, installed here is ")):
        Model.read(tmp_path)
