"""Features of one or several sets, joined by utterance_id, read completely or piece by piece."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="classifiers need scikit-learn: pip install 'voxshard[learn]'")

from sklearn.linear_model import SGDClassifier

from support.feature_sets import write_set
from support.trees import write_audio
from voxshard import extract, prepare
from voxshard.errors import ConfigError, DataError, EmptyCorpusError, FeatureMismatchError
from voxshard.learning import data as data_module
from voxshard.learning import memory
from voxshard.learning.classifiers import CLASSIFIERS
from voxshard.learning.data import Dataset
from voxshard.learning.fitting import Fitted, fit
from voxshard.learning.train_config import NAMES, ForestSettings, settings_of
from voxshard.manifest import Manifest

IDS = [f"u{number}" for number in range(6)]


def _rows(dataset: Dataset, utterances: list[int]) -> np.ndarray:
    rows, _ = dataset.rows_of(np.array(utterances))
    return dataset.take(rows)


@pytest.mark.parametrize("mode", ["packed", "index"])
def test_sets_are_joined_by_id_whatever_their_order(mode: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(6, 3)).astype(np.float32), rng.normal(size=(6, 2)).astype(np.float32)
    write_set(tmp_path / "a", dict(zip(IDS, first, strict=True)), {"digit": list("abcdef")}, mode=mode, per_shard=2)
    write_set(tmp_path / "b", dict(zip(IDS[:0:-1], second[:0:-1], strict=True)), mode=mode, per_shard=2)
    dataset = Dataset.open([tmp_path / "a", tmp_path / "b"])
    assert (len(dataset), dataset.dim, dataset.num_missing) == (5, 5, 1)
    assert dataset.table["digit"].to_pylist() == list("bcdef")
    np.testing.assert_array_equal(_rows(dataset, [4, 0]), np.hstack([first, second])[[5, 1]])


def test_a_layer_is_chosen_by_its_position_or_all_stand_side_by_side(tmp_path: Path) -> None:
    layers = np.arange(6 * 4 * 2, dtype=np.float32).reshape(6, 4, 2)
    write_set(tmp_path / "a", dict(zip(IDS, layers, strict=True)))
    write_set(tmp_path / "flat", dict(zip(IDS, layers[:, 0], strict=True)))
    np.testing.assert_array_equal(_rows(Dataset.open([tmp_path / "a"]), [1]), layers[1].reshape(1, 8))
    np.testing.assert_array_equal(_rows(Dataset.open([tmp_path / "a"], layer=3), [1, 5]), layers[[1, 5], 3])
    with pytest.raises(ConfigError, match=re.escape(f"layer=4: {tmp_path}/a has 4 layers, counted from 0")):
        Dataset.open([tmp_path / "a"], layer=4)
    with pytest.raises(
        ConfigError, match=re.escape(f"layer=0: {tmp_path}/flat has one layer only; leave the setting out")
    ):
        Dataset.open([tmp_path / "flat"], layer=0)


@pytest.mark.parametrize("mode", ["packed", "index"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("layer", [None, 1])
def test_rows_next_to_each_other_are_the_same_read_run_by_run(
    mode: str, dtype: type, layer: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).normal(size=(200, 3, 2)).astype(dtype)
    names = [f"u{number:03d}" for number in range(200)]
    write_set(tmp_path / "a", dict(zip(names, values, strict=True)), mode=mode, per_shard=30)
    dataset = Dataset.open([tmp_path / "a"], layer=layer)
    chosen = np.concatenate([np.arange(100, 180), np.arange(5, 70), np.arange(190, 200)])
    wanted = (values if layer is None else values[:, layer]).reshape(200, -1)[chosen].astype(np.float32)
    monkeypatch.setattr(data_module, "_READ_BYTES", 13 * values[0].nbytes)
    for run_rows in (1, 1000):
        monkeypatch.setattr(data_module, "_RUN_ROWS", run_rows)
        found = _rows(dataset, chosen.tolist())
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, wanted)


def test_frames_are_read_recording_by_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    frames = {
        name: rng.normal(size=(length, 4)).astype(np.float32)
        for name, length in zip(IDS, (3, 1, 0, 5, 2, 4), strict=True)
    }
    write_set(tmp_path / "a", frames, granularity="frames", per_shard=2)
    dataset = Dataset.open([tmp_path / "a"])
    assert (len(dataset), dataset.num_without_rows, dataset.is_joined) == (5, 1, True)
    chosen = np.array([4, 1, 2])
    assert dataset.num_rows(chosen) == 4 + 1 + 5
    wanted = [frames["u5"], frames["u1"], frames["u3"]]
    for block_bytes in (1, 5 * 16, 1 << 20):
        monkeypatch.setattr(data_module, "BLOCK_BYTES", block_bytes)
        found = list(dataset.blocks(chosen))
        np.testing.assert_array_equal(np.concatenate([rows for rows, _, _ in found]), np.concatenate(wanted))
        np.testing.assert_array_equal(np.concatenate([positions for _, positions, _ in found]), [0, 1, 2])
        parts = [part for rows, _, starts in found for part in np.split(rows, starts[1:])]
        assert [len(part) for part in parts] == [4, 1, 5]
    assert len(list(dataset.blocks(np.array([0])))) == 1


def test_a_manifest_chooses_and_describes(tmp_path: Path) -> None:
    vectors = dict(zip(IDS, np.eye(6, dtype=np.float32), strict=True))
    write_set(tmp_path / "a", vectors, {"digit": list("abcdef")})
    rows = [{"utterance_id": name, "path": "x", "digit": name} for name in ("u4", "new", "u2")]
    manifest = Manifest.from_rows(rows, root="/", corpus="table")
    dataset = Dataset.open([tmp_path / "a"], manifest=manifest)
    assert dataset.table["digit"].to_pylist() == ["u4", "u2"]
    assert dataset.num_missing == 1
    np.testing.assert_array_equal(_rows(dataset, [0, 1]), np.eye(6)[[4, 2]])


def test_what_cannot_be_joined_is_refused(tmp_path: Path) -> None:
    vectors = dict(zip(IDS, np.eye(6, dtype=np.float32), strict=True))
    write_set(tmp_path / "a", vectors)
    write_set(tmp_path / "other", {f"x{name}": vector for name, vector in vectors.items()})
    write_set(tmp_path / "frames", {name: vector[None] for name, vector in vectors.items()}, granularity="frames")
    message = f"{tmp_path}/a and {tmp_path}/other share no utterance_id; they are of other corpora, or ids were made"
    with pytest.raises(FeatureMismatchError, match=re.escape(message)):
        Dataset.open([tmp_path / "a", tmp_path / "other"])
    message = (
        f"only sets with one vector per utterance can be joined; {tmp_path}/frames has frames. Extract it with --set"
    )
    with pytest.raises(FeatureMismatchError, match=re.escape(message)):
        Dataset.open([tmp_path / "a", tmp_path / "frames"])


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, np.ndarray]:
    rng = np.random.default_rng(0)
    numbers = np.repeat([0, 1, 2], 300)  # sorted by class, as corpora are
    means = 4 * rng.normal(size=(3, 8))
    rows = (rng.normal(size=(900, 8)) + means[numbers]).astype(np.float32)
    path = write_set(tmp_path_factory.mktemp("large") / "mfcc", {f"u{row:04d}": rows[row] for row in range(900)})
    return Dataset.open([path]), numbers


def _fit(name: str, dataset: Dataset, numbers: np.ndarray, **settings: object) -> Fitted:
    return fit(name, settings_of(name, settings), 0, dataset, np.arange(len(dataset)), numbers, what="training")


LIMIT_GB = 900 * 8 * memory.BYTES_PER_VALUE / memory.GB / 5
"""A fifth of what the large set needs."""


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("mlp", "perceptron", "prototypes")])
def test_a_classifier_that_needs_all_rows_says_so_before_it_starts(
    name: str, large: tuple[Dataset, np.ndarray]
) -> None:
    dataset, numbers = large
    needed_gb = memory.needed_gb(900, 8, CLASSIFIERS[name].bytes_per_value)
    message = (
        f"{name} needs all training rows in memory: {needed_gb:.3g} GB for 900 rows of 8 values, and there are "
        "1.73e-05 GB; raise memory_limit_gb or the job's memory, pool frames when extracting, or use a classifier that "
        "reads piece by piece: mlp, perceptron, prototypes"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        _fit(name, dataset, numbers, memory_limit_gb=LIMIT_GB)


@pytest.mark.parametrize("name", ["mlp", "perceptron", "prototypes"])
@pytest.mark.parametrize(
    "settings", [{}, {"standardize": True, "pca": 4, "whiten": True, "l2": True}], ids=["plain", "all"]
)
def test_a_set_larger_than_the_limit_trains_piece_by_piece(
    name: str, settings: dict[str, object], large: tuple[Dataset, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, numbers = large
    largest, take = 0, dataset.take

    def watched(rows: list[np.ndarray]) -> np.ndarray:
        nonlocal largest
        largest = max(largest, len(rows[0]))
        return take(rows)

    monkeypatch.setattr(dataset, "take", watched)
    found = _fit(name, dataset, numbers, memory_limit_gb=LIMIT_GB, **settings)
    assert found.streamed
    assert largest <= 900 // 10  # half of the limit, which is a fifth of the set
    again = _fit(name, dataset, numbers, memory_limit_gb=LIMIT_GB, **settings)
    whole = _fit(name, dataset, numbers, memory_limit_gb=1, **settings)
    assert not whole.streamed
    rows = take(dataset.rows_of(np.arange(900))[0])
    assert (found.pipeline.predict(rows) == numbers).mean() > 0.95
    np.testing.assert_array_equal(again.pipeline.predict_proba(rows), found.pipeline.predict_proba(rows))


def test_a_set_whose_preprocessing_does_not_fit_is_preprocessed_in_blocks(large: tuple[Dataset, np.ndarray]) -> None:
    dataset, numbers = large
    settings = {"standardize": True, "l2": True}
    limit_gb = 1.05 * memory.needed_gb(900, 8, CLASSIFIERS["logistic"].bytes_per_value)
    assert limit_gb < memory.needed_gb(900, 8, memory.PREPROCESSING_BYTES_PER_VALUE)
    messages: list[str] = []
    found = fit(
        "logistic",
        settings_of("logistic", {**settings, "memory_limit_gb": limit_gb}),
        0,
        dataset,
        np.arange(900),
        numbers,
        what="training",
        on_start=messages.append,
    )
    assert not found.streamed
    assert messages[0].startswith("training: logistic on 900 rows of 8 values, in blocks: about ")
    complete = _fit("logistic", dataset, numbers, memory_limit_gb=1, **settings)
    rows = dataset.take(dataset.rows_of(np.arange(900))[0])
    np.testing.assert_allclose(found.pipeline.predict_proba(rows), complete.pipeline.predict_proba(rows), atol=1e-3)


@pytest.mark.parametrize("limits", [{}, {"max_depth": 5}, {"min_samples_leaf": 4}])
def test_the_trees_of_a_forest_on_noise_take_what_was_announced(
    limits: dict[str, int], large: tuple[Dataset, np.ndarray]
) -> None:
    dataset, _ = large
    noise = np.random.default_rng(0).integers(0, 3, 900)
    settings = settings_of("random-forest", limits)
    assert isinstance(settings, ForestSettings)
    messages: list[str] = []
    found = fit("random-forest", settings, 0, dataset, np.arange(900), noise, what="training", on_start=messages.append)
    states = [tree.tree_.__getstate__() for tree in found.pipeline[-1].estimators_]
    taken_gb = sum(state["nodes"].nbytes + state["values"].nbytes for state in states) / memory.GB
    most_gb = memory.most_gb_of_trees(settings, 900, 3)
    assert most_gb / 10 < taken_gb < most_gb
    assert " GB of memory and up to 0.1 GB for its trees, " in messages[0]


def test_prototypes_are_the_same_piece_by_piece(large: tuple[Dataset, np.ndarray]) -> None:
    dataset, numbers = large
    parts = _fit("prototypes", dataset, numbers, memory_limit_gb=LIMIT_GB).pipeline[-1]
    whole = _fit("prototypes", dataset, numbers).pipeline[-1]
    np.testing.assert_allclose(parts.sums_, whole.sums_, rtol=1e-6)
    np.testing.assert_array_equal(parts.counts_, whole.counts_)


def test_balanced_classes_weigh_alike_piece_by_piece_too(large: tuple[Dataset, np.ndarray]) -> None:
    dataset, numbers = large
    numbers = np.minimum(numbers, 1)
    found = _fit("perceptron", dataset, numbers, memory_limit_gb=LIMIT_GB, class_weight="balanced")
    estimator = found.pipeline[-1]
    assert isinstance(estimator, SGDClassifier)
    assert estimator.class_weight == {0: 1.5, 1: 0.75}


def test_what_cannot_be_done_piece_by_piece_is_said(large: tuple[Dataset, np.ndarray]) -> None:
    dataset, numbers = large
    message = "mlp on rows that do not fit in memory: needs solver=adam or sgd, and early_stopping=false"
    with pytest.raises(ConfigError, match=re.escape(message)):
        _fit("mlp", dataset, numbers, memory_limit_gb=LIMIT_GB, solver="lbfgs")
    with pytest.raises(
        DataError, match="training: its 900 training utterances are of one class; a classifier needs two"
    ):
        _fit("knn", dataset, numbers * 0)


def test_what_did_not_converge_is_said_in_one_sentence(large: tuple[Dataset, np.ndarray]) -> None:
    dataset, numbers = large
    (note,) = _fit("logistic", dataset, numbers, max_iter=1).notes
    assert note == (
        "training: lbfgs failed to converge after 1 iteration(s) (status=1); standardize=true or a larger max_iter may "
        "help"
    )


def test_free_memory_is_what_the_machine_or_the_job_has() -> None:
    assert 0 < memory.free_gb() < 1e5


def test_a_set_in_which_everything_failed_is_named(tmp_path: Path) -> None:
    write_audio(tmp_path / "corpus" / "short.wav", seconds=0.01)
    manifest = prepare("folder", tmp_path / "corpus", out=tmp_path / "m.parquet", split_from=[".*=train"])
    assert manifest.table["problem"].null_count == 1
    features = extract(tmp_path / "m.parquet", encoder="mfcc", out=tmp_path / "set", max_failure_fraction=1.0)
    with pytest.raises(EmptyCorpusError, match=r"set has no utterance, only failures; .*failures\.csv has the reasons"):
        Dataset([features])
