from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from voxshard.errors import ScoreError
from voxshard.scoring.calibration import PRIOR, Calibration, fit_affine, fit_logistic
from voxshard.scoring.detection import detection_metrics

FITS = pytest.mark.parametrize("fit", [fit_logistic, fit_affine])


def shifted_scores(random, num_trials):
    """Scores of a detector whose log-likelihood ratios were scaled by 0.3 and shifted by 12."""
    is_bonafide = random.random(num_trials) < 0.2
    ratios = random.normal(size=num_trials) * 3 + np.where(is_bonafide, 4.5, -4.5)  # normal, mean = variance / 2
    return 0.3 * ratios + 12, is_bonafide, ratios


@FITS
def test_calibration_brings_act_dcf_to_min_dcf_on_shifted_scores(fit):
    dev_scores, dev_labels, _ = shifted_scores(np.random.default_rng(0), 20_000)
    scores, labels, _ = shifted_scores(np.random.default_rng(1), 20_000)
    before = detection_metrics(scores, labels)
    after = detection_metrics(fit(dev_scores, dev_labels)(scores), labels)
    assert before["act_dcf"] > 2 * before["min_dcf"]
    assert after["act_dcf"] == pytest.approx(after["min_dcf"], rel=0.05)
    for order_only in ("min_dcf", "eer", "eer_tie_aware", "auc"):
        assert after[order_only] == pytest.approx(before[order_only], abs=1e-12)
    assert after["cllr"] < before["cllr"]


@FITS
def test_calibrated_scores_are_the_log_likelihood_ratios(fit):
    scores, labels, ratios = shifted_scores(np.random.default_rng(2), 200_000)
    calibrated = fit(scores, labels)(scores)
    assert np.abs(calibrated - ratios).max() < 0.6
    assert np.abs(calibrated - ratios).mean() < 0.1


@pytest.mark.parametrize("prior", [0.5, PRIOR, 0.01])
def test_the_logistic_map_is_the_minimum_of_the_prior_weighted_cross_entropy(prior):
    random = np.random.default_rng(3)
    labels = random.random(500) < 0.3
    scores = random.normal(size=500) * 40 + 30 * labels + 1000
    found = fit_logistic(scores, labels, prior=prior)

    def cross_entropy(offset_and_scale):
        ratios = offset_and_scale[0] + offset_and_scale[1] * (scores - 1000) + np.log(prior / (1 - prior))
        bonafide, spoof = np.logaddexp(0, -ratios[labels]).mean(), np.logaddexp(0, ratios[~labels]).mean()
        return prior * bonafide + (1 - prior) * spoof

    best = minimize(cross_entropy, [0, 0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13}).x
    assert found.scale == pytest.approx(best[1], rel=1e-4)
    assert found.offset + 1000 * found.scale == pytest.approx(best[0], abs=1e-4)


def test_the_logistic_map_is_found_where_newtons_full_steps_would_overshoot():
    scores = np.concatenate((np.full(5000, -1.0), np.full(5000, 1.0), [-1e4, 1e4]))
    labels = np.concatenate((np.zeros(5000), np.ones(5000), [1, 0])) == 1
    found = fit_logistic(scores, labels, prior=0.5)
    assert np.isfinite([found.scale, found.offset]).all()
    assert detection_metrics(found(scores), labels)["cllr"] <= 1 + 1e-9  # the map to nothing is among the candidates


def test_the_effective_prior_of_track_1_is_that_of_its_costs():
    assert pytest.approx(0.95 / (0.95 + 0.5)) == PRIOR


def test_a_calibration_survives_json():
    found = Calibration(scale=0.1 + 0.2, offset=-3.5)
    assert Calibration(**found.to_json()) == found


@pytest.mark.parametrize(
    ("fit", "scores", "message"),
    [
        (
            fit_logistic,
            [1, 2, 3, 4],
            "logistic calibration needs classes that overlap: bona fide scores 3 to 4, spoofs 1 to 2; "
            "use the affine one, or other dev scores",
        ),
        (
            fit_logistic,
            [2, 2, 2, 2],
            "logistic calibration needs classes that overlap: bona fide scores 2 to 2, spoofs 2 to 2; "
            "use the affine one, or other dev scores",
        ),
        (
            fit_affine,
            [1, 1, 3, 3],
            "affine calibration needs scores that vary: bona fide are all 3, spoofs all 1",
        ),
    ],
)
def test_scores_without_a_finite_best_map_are_refused(fit, scores, message):
    with pytest.raises(ScoreError) as caught:
        fit(scores, [False, False, True, True])
    assert str(caught.value) == message


@FITS
def test_a_prior_of_certainty_is_refused(fit):
    with pytest.raises(ScoreError, match=r"^a prior is between 0 and 1, found 1$"):
        fit([1, 2, 3], [True, False, True], prior=1)
