"""What is learned from which column."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("sklearn", reason="classifiers need scikit-learn: pip install 'voxshard[learn]'")

from voxshard.errors import ConfigError, DataError
from voxshard.learning import few_shot, folds
from voxshard.learning.labels import MISSING, Labels, label_texts, learn_target, number_labels


def _labels(columns: dict[str, list[Any]], *, positive: str | None = None, train: list[bool] | None = None) -> Labels:
    texts = label_texts(pa.table(columns), list(columns))
    chosen = np.array(train if train is not None else [True] * len(texts[0]))
    return number_labels(learn_target(list(columns), texts, chosen, positive), texts)


@pytest.mark.parametrize(
    ("column", "values", "classes", "positive"),
    [
        ("label", ["spoof", "bonafide", "spoof"], ["bonafide", "spoof"], 0),
        ("y_task", [0, 1, 1], ["0", "1"], 0),
        ("cough", [0, 1, 1], ["0", "1"], 1),
        ("cough", [0.0, 1.0, None], ["0", "1"], 1),
        ("cough", [False, True, True], ["false", "true"], 1),
        ("cough", ["yes", "no", ""], ["no", "yes"], 1),
        ("gender", ["m", "f", "m"], ["f", "m"], None),
        ("digit", ["10", "9", "2"], ["2", "9", "10"], None),
        ("digit", [10, 9, 2], ["2", "9", "10"], None),
        ("scene", ["park", "bus", "10"], ["10", "bus", "park"], None),
    ],
)
def test_classes_and_the_positive_one_follow_from_the_column(
    column: str, values: list[Any], classes: list[str], positive: int | None
) -> None:
    target = _labels({column: values}).target
    assert (list(target.classes), target.positive) == (classes, positive)
    assert target.kind == ("classification" if positive is None else "detection")


def test_the_positive_class_can_be_named() -> None:
    target = _labels({"gender": ["m", "f"]}, positive="m").target
    assert (target.kind, target.positive, target.score_names) == ("detection", 1, ["score"])
    with pytest.raises(ConfigError, match=re.escape("positive=x: not one of two classes; label gender has f, m")):
        _labels({"gender": ["m", "f"]}, positive="x")


def test_missing_and_unlearned_labels_have_no_number() -> None:
    labels = _labels({"digit": ["1", None, "2", "3", ""]}, train=[True, True, True, False, False])
    np.testing.assert_array_equal(labels.numbers, [0, MISSING, 1, MISSING, MISSING])
    np.testing.assert_array_equal(labels.known, [True, False, True, False, False])
    np.testing.assert_array_equal(labels.given, [True, False, True, True, False])


def test_several_labels_are_yes_or_no_each_with_gaps() -> None:
    labels = _labels({"cough": [0, 1, None, None], "fever": ["no", None, "yes", None]})
    assert (labels.target.kind, list(labels.target.classes)) == ("multilabel", ["cough", "fever"])
    assert labels.target.score_names == ["score_cough", "score_fever"]
    np.testing.assert_array_equal(labels.numbers, [[0, 0], [1, MISSING], [MISSING, 1], [MISSING, MISSING]])
    np.testing.assert_array_equal(labels.known, [True, True, True, False])
    with pytest.raises(DataError, match=re.escape("label sex: values f, m; of several labels each must be 0 and 1")):
        _labels({"cough": [0, 1], "sex": ["m", "f"]})
    with pytest.raises(
        ConfigError, match=re.escape("positive=1: of several labels the positive class is 1, true or yes")
    ):
        _labels({"cough": [0, 1], "fever": [0, 1]}, positive="1")


def test_columns_that_are_no_labels_are_refused() -> None:
    table = pa.table(
        {"utterance_id": ["a"], "speaker": ["s"], "digit": ["1"], "age": [37.5], "empty": [None], "tags": [[1]]}
    )
    message = (
        "--label digits: no such column; columns here: speaker, digit, age, empty, tags. Labels come with the "
        "manifest: `voxshard prepare --labels FILE`, or later `voxshard merge DIR --labels MANIFEST`"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        label_texts(table, ["digits"])
    with pytest.raises(DataError, match=re.escape("label age: 37.5 is no class; a label is text, an integer, or true")):
        label_texts(table, ["age"])
    with pytest.raises(DataError, match="label empty: no utterance has one; a corpus without labels can be extracted"):
        label_texts(table, ["empty"])
    with pytest.raises(DataError, match=re.escape("label tags: values of type list<item: int64>; a label is text")):
        label_texts(table, ["tags"])
    with pytest.raises(
        DataError, match="label digit: the training utterances have only '1'; a classifier needs two classes"
    ):
        _labels({"digit": ["1", "1"]})


def test_few_examples_are_drawn_per_class_and_fewer_are_among_more() -> None:
    numbers = np.array([0] * 10 + [1] * 5 + [MISSING] * 3 + [2] * 7)
    names = ["a", "b", "c"]
    five = few_shot.draw(numbers, 5, names=names, seed=1, run=0)
    np.testing.assert_array_equal(np.bincount(numbers[five]), [5, 5, 5])
    assert set(few_shot.draw(numbers, 2, names=names, seed=1, run=0)) < set(five)
    np.testing.assert_array_equal(five, few_shot.draw(numbers, 5, names=names, seed=1, run=0))
    assert set(five) != set(few_shot.draw(numbers, 5, names=names, seed=1, run=1))
    assert set(five) != set(few_shot.draw(numbers, 5, names=names, seed=2, run=0))
    message = "--n-shot 6: class b has 5 training examples; give --n-shot 5 or fewer"
    with pytest.raises(DataError, match=re.escape(message)):
        few_shot.draw(numbers, 6, names=names, seed=1, run=0)


def test_folds_are_the_values_of_a_column() -> None:
    assigned, names = folds.assign(["10", "2", None, "2"], None, column="fold")
    assert names == ["2", "10"]
    np.testing.assert_array_equal(assigned, [1, 0, -1, 0])


def test_folds_joined_to_fewer_keep_speakers_whole_and_sizes_even() -> None:
    speakers: list[str | None] = [f"s{number % 7}" for number in range(70)]
    speakers[3] = None
    assigned, names = folds.assign(speakers, 3, column="speaker")
    assert names == ["0", "1", "2"]
    assert assigned[3] == -1
    for speaker in set(speakers) - {None}:
        assert len({assigned[row] for row, name in enumerate(speakers) if name == speaker}) == 1
    assert np.bincount(assigned[assigned >= 0]).tolist() == [29, 20, 20]
    with pytest.raises(ConfigError, match=re.escape("num_folds=8: column speaker has only 7 values; give fewer")):
        folds.assign(speakers, 8, column="speaker")
    with pytest.raises(
        DataError, match="--folds speaker: only 's0' on the labelled utterances; cross-validation needs two"
    ):
        folds.assign(["s0", "s0"], None, column="speaker")
    with pytest.raises(DataError, match="--folds fold: no value on the labelled utterances"):
        folds.assign([None, None], None, column="fold")
