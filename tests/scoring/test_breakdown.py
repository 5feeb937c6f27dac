from __future__ import annotations

import numpy as np
import pytest

from voxshard.errors import ScoreError
from voxshard.scoring.breakdown import classification_by_group, detection_by_group
from voxshard.scoring.classification import ClassificationTrials
from voxshard.scoring.detection import METRICS, DetectionTrials, detection_metrics
from voxshard.scoring.intervals import Interval, bootstrap, point_estimates

NOTHING = dict.fromkeys(METRICS, Interval(None, None, None))


@pytest.fixture
def trials():
    random = np.random.default_rng(0)
    is_bonafide = np.arange(400) % 4 == 0
    columns = {
        "codec": random.choice(["C01", "C02", "C10"], 400).tolist(),
        "attack": np.where(is_bonafide, "bonafide", random.choice(["A01", "A02"], 400)).tolist(),
    }
    return random.normal(size=400) + is_bonafide, is_bonafide, columns


def values(cell):
    return {name: interval.value for name, interval in cell.metrics.items()}


def test_a_cell_has_the_metrics_and_counts_of_its_trials(trials):
    scores, is_bonafide, columns = trials
    cells = detection_by_group(scores, is_bonafide, {"codec": columns["codec"]})
    assert [cell.group for cell in cells] == [{"codec": "C01"}, {"codec": "C02"}, {"codec": "C10"}]
    for cell in cells:
        rows = np.array(columns["codec"]) == cell.group["codec"]
        assert values(cell) == pytest.approx(detection_metrics(scores[rows], is_bonafide[rows]), abs=1e-12)
        assert cell.counts == {"num_bonafide": is_bonafide[rows].sum(), "num_spoof": (~is_bonafide[rows]).sum()}


def test_an_attack_is_measured_against_all_bona_fide_speech(trials):
    scores, is_bonafide, columns = trials
    cells = detection_by_group(scores, is_bonafide, {"attack": columns["attack"]})
    assert [cell.group for cell in cells] == [{"attack": "A01"}, {"attack": "A02"}]
    for cell in cells:
        rows = is_bonafide | (np.array(columns["attack"]) == cell.group["attack"])
        assert values(cell) == pytest.approx(detection_metrics(scores[rows], is_bonafide[rows]), abs=1e-12)
        assert cell.counts["num_bonafide"] == 100


def test_an_attack_under_a_codec_is_measured_against_bona_fide_speech_under_that_codec(trials):
    scores, is_bonafide, columns = trials
    cells = detection_by_group(scores, is_bonafide, columns)
    assert len(cells) == 6
    codecs, attacks = (np.array(columns[name]) for name in ("codec", "attack"))
    for cell in cells:
        rows = (codecs == cell.group["codec"]) & (is_bonafide | (attacks == cell.group["attack"]))
        assert values(cell) == pytest.approx(detection_metrics(scores[rows], is_bonafide[rows]), abs=1e-12)


def test_a_cell_without_both_classes_has_counts_and_no_metrics(trials):
    scores, is_bonafide, columns = trials
    codecs = np.array(columns["codec"], dtype=object)
    codecs[(codecs == "C02") & is_bonafide] = "C01"
    codecs[(codecs == "C10") & ~is_bonafide] = None
    cells = {cell.group["codec"]: cell for cell in detection_by_group(scores, is_bonafide, {"codec": codecs})}
    assert list(cells) == ["C01", "C02", "C10", None]
    for codec in ("C02", "C10", None):
        rows = np.array([value == codec for value in codecs])
        assert cells[codec].metrics == NOTHING
        assert cells[codec].counts == {"num_bonafide": is_bonafide[rows].sum(), "num_spoof": (~is_bonafide[rows]).sum()}
    assert cells["C01"].metrics["eer"].value is not None


def test_a_set_of_one_class_has_counts_for_every_cell():
    cells = detection_by_group([1, 2, 3], [True] * 3, {"codec": ["b", "a", "b"]})
    assert [(cell.group["codec"], cell.counts["num_bonafide"], cell.metrics) for cell in cells] == [
        ("a", 1, NOTHING),
        ("b", 2, NOTHING),
    ]


def test_intervals_of_a_cell_are_those_of_its_trials_alone(trials):
    scores, is_bonafide, columns = trials
    cell = detection_by_group(scores, is_bonafide, {"codec": columns["codec"]}, num_replicates=200, seed=3)[1]
    rows = np.flatnonzero(np.array(columns["codec"]) == "C02")
    rows = np.concatenate((rows[is_bonafide[rows]], rows[~is_bonafide[rows]]))
    alone = DetectionTrials(scores[rows], is_bonafide[rows])
    assert cell.metrics == bootstrap(alone, num_replicates=200, seed=3)


def test_a_classifier_is_measured_per_combination_that_occurs():
    truth, predicted = np.array([0, 1, 1, 0, 1]), np.array([0, 1, 0, 0, 1])
    columns = {"fold": [1, 1, 1, 2, 2], "device": ["a", "a", "b", "b", "b"]}
    cells = classification_by_group(truth, predicted, 2, columns)
    assert [cell.group for cell in cells] == [
        {"fold": "1", "device": "a"},
        {"fold": "1", "device": "b"},
        {"fold": "2", "device": "b"},
    ]
    assert [cell.counts["num_trials"] for cell in cells] == [2, 1, 2]
    for cell, rows in zip(cells, ([0, 1], [2], [3, 4]), strict=True):
        assert values(cell) == point_estimates(ClassificationTrials(truth[rows], predicted[rows], 2))


def test_a_column_of_another_length_is_refused():
    with pytest.raises(ScoreError, match=r"^column codec: 2 values for 3 trials; one per trial wanted$"):
        detection_by_group([1, 2, 3], [True, False, True], {"codec": ["a", "b"]})


def test_scores_that_are_not_finite_are_refused_by_their_position_among_all():
    with pytest.raises(ScoreError, match=r"^1 of 3 scores are not finite: nan at position 2; "):
        detection_by_group([1, 2, np.nan], [True, False, True], {"codec": ["a", "b", "b"]})
