from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from support.official_trials import detection_cases, one_class_cases
from voxshard.errors import ScoreError
from voxshard.scoring.detection import DetectionCosts, DetectionTrials, detection_metrics

OFFICIAL = json.loads((Path(__file__).parent / "data" / "official.json").read_text())
CASES = detection_cases()


def joined(bonafide, spoof):
    return np.concatenate((bonafide, spoof)), np.repeat([True, False], [len(bonafide), len(spoof)])


def random_trials(random, *, num_trials, decimals):
    is_bonafide = random.random(num_trials) < random.uniform(0.2, 0.8)
    is_bonafide[:2] = True, False
    scores = random.normal(size=num_trials) + random.uniform(0, 3) * is_bonafide
    return (scores if decimals is None else np.round(scores, decimals)), is_bonafide


@pytest.mark.parametrize("name", CASES)
def test_numbers_equal_those_of_the_official_package(name):
    scores, is_bonafide = joined(*CASES[name])
    shuffle = np.random.default_rng(0).permutation(len(scores))
    found = detection_metrics(scores[shuffle], is_bonafide[shuffle])
    for metric, official in OFFICIAL["detection"][name].items():
        assert found[metric] == pytest.approx(official, rel=1e-9, abs=1e-9), metric


def test_the_official_numbers_cover_every_case():
    assert OFFICIAL["detection"].keys() == CASES.keys()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-bonafide", "0 positive (bona fide) and 20 negative (spoof) trials; error rates need at least one of each"),
        ("no-spoof", "20 positive (bona fide) and 0 negative (spoof) trials; error rates need at least one of each"),
    ],
)
def test_one_class_alone_is_an_error_where_the_official_package_gives_nan(name, message):
    assert OFFICIAL["one_class"][name]["eer"] == "nan"
    with pytest.raises(ScoreError) as caught:
        detection_metrics(*joined(*one_class_cases()[name]))
    assert str(caught.value) == message


def test_scores_that_are_not_finite_are_refused_with_their_count():
    with pytest.raises(ScoreError) as caught:
        detection_metrics([0.5, np.nan, 1, np.inf, -np.inf, np.nan], [True, False] * 3)
    assert str(caught.value) == (
        "4 of 6 scores are not finite: nan at position 1, inf at position 3, -inf at position 4; "
        "score these trials again"
    )


def test_scores_and_labels_of_other_shapes_are_refused():
    with pytest.raises(ScoreError, match=r"^one score and one label per trial wanted, found shapes \(2,\) and \(3,\)$"):
        detection_metrics([1, 2], [True, False, True])


def test_labels_that_are_numbers_are_refused_for_nobody_knows_which_is_bona_fide():
    with pytest.raises(ScoreError, match=r"^labels must be bool \(True: positive, bona fide\), found int64$"):
        detection_metrics([1, 2], [1, 0])


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_weights_give_the_metrics_of_the_trials_repeated_that_often(decimals):
    random = np.random.default_rng(1)
    for _ in range(30):
        scores, is_bonafide = random_trials(random, num_trials=int(random.integers(3, 60)), decimals=decimals)
        weights = random.poisson(1, size=(8, len(scores)))
        measured = DetectionTrials(scores, is_bonafide).measure(weights)
        for row, times in enumerate(weights):
            labels = np.repeat(is_bonafide, times)
            if labels.all() or not labels.any():
                assert all(np.isnan(values[row]) for values in measured.values())
                continue
            expected = detection_metrics(np.repeat(scores, times), labels)
            assert {name: values[row] for name, values in measured.items()} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_tie_aware_eer_is_the_worst_bayes_error_over_all_priors(decimals):
    """By the minimax theorem that is where the convex hull of the ROC meets equal error rates (BOSARIS Toolkit)."""
    random = np.random.default_rng(2)
    for _ in range(30):
        scores, is_bonafide = random_trials(random, num_trials=int(random.integers(3, 30)), decimals=decimals)
        thresholds = np.append(np.unique(scores), np.inf)
        miss = np.array([np.mean(scores[is_bonafide] < threshold) for threshold in thresholds])
        false_alarm = np.array([np.mean(scores[~is_bonafide] >= threshold) for threshold in thresholds])
        # The error is linear in the prior between priors at which two thresholds are equally good.
        gaps = (miss[:, None] - miss) - (false_alarm[:, None] - false_alarm)
        with np.errstate(divide="ignore", invalid="ignore"):
            priors = (-(false_alarm[:, None] - false_alarm) / gaps).ravel()
        priors = np.concatenate(([0, 1], priors[(priors >= 0) & (priors <= 1)]))
        errors = priors[:, None] * miss + (1 - priors[:, None]) * false_alarm
        found = detection_metrics(scores, is_bonafide)["eer_tie_aware"]
        assert found == pytest.approx(errors.min(axis=1).max(), abs=1e-12)


def test_constant_scores_have_official_eer_1_and_tie_aware_eer_one_half():
    found = detection_metrics(np.zeros(30), np.arange(30) % 3 == 0)
    assert (found["eer"], found["eer_tie_aware"], found["auc"]) == (1.0, 0.5, 0.5)


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_auc_equals_scikit_learns(decimals):
    random = np.random.default_rng(3)
    for _ in range(20):
        scores, is_bonafide = random_trials(random, num_trials=50, decimals=decimals)
        expected = roc_auc_score(is_bonafide, scores)
        assert detection_metrics(scores, is_bonafide)["auc"] == pytest.approx(expected, abs=1e-12)


def test_costs_change_the_detection_costs_alone():
    scores, is_bonafide = random_trials(np.random.default_rng(4), num_trials=500, decimals=None)
    official = detection_metrics(scores, is_bonafide)
    equal_costs = detection_metrics(scores, is_bonafide, DetectionCosts(0.5, 1, 1))
    threshold = 0.0  # of Bayes for equal priors and costs
    errors = np.mean(scores[is_bonafide] < threshold) + np.mean(scores[~is_bonafide] >= threshold)
    assert equal_costs["act_dcf"] == pytest.approx(errors, abs=1e-12)
    assert equal_costs["min_dcf"] != official["min_dcf"]
    assert {name: equal_costs[name] for name in ("eer", "cllr", "auc")} == {
        name: official[name] for name in ("eer", "cllr", "auc")
    }


def test_cllr_stays_finite_at_any_score():
    found = detection_metrics([-5000.0, 2000.0, 3000.0, -3000.0], [True, True, False, False])
    assert found["cllr"] == pytest.approx(0.5 * (5000 / 2 + 3000 / 2) / np.log(2))
