"""Affine maps from scores to log-likelihood ratios, fitted on development scores.

actDCF and Cllr take scores for natural-log likelihood ratios of bona fide against spoof; minDCF and EER only use their
order. An increasing map makes the former fair and leaves the latter as they are.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from voxshard.errors import ScoreError
from voxshard.scoring.detection import ASVSPOOF5
from voxshard.scoring.ranking import Bools, Floats, checked_trials

PRIOR = ASVSPOOF5.weight_miss / (ASVSPOOF5.weight_miss + ASVSPOOF5.weight_false_alarm)
"""Effective prior of bona fide in ASVspoof 5 Track 1: with equal costs it leads to the same decisions."""
_MAX_STEPS = 100


@dataclass(frozen=True)
class Calibration:
    """Affine calibration: log-likelihood ratio = scale * score + offset."""

    scale: float
    offset: float

    def __call__(self, scores: npt.ArrayLike) -> Floats:
        """Calibrate scores of any shape."""
        return self.scale * np.asarray(scores, dtype=np.float64) + self.offset

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def fit_logistic(scores: npt.ArrayLike, is_bonafide: npt.ArrayLike, *, prior: float = PRIOR) -> Calibration:
    """Fit a calibration by logistic regression of the class on the score, with classes weighted to a prior, by Newton's
    method.

    Parameters
    ----------
    scores : float (N,), finite, higher = bona fide.
    is_bonafide : bool (N,); both classes occur.
    prior : of bona fide, 0..1, where decisions will be taken.

    Raises
    ------
    ScoreError : as for `DetectionTrials`; also scores that separate the classes without error, or are all equal, for
        which no finite map is best.

    References
    ----------
    Brümmer & du Preez, Application-independent evaluation of speaker detection, 2006:
    https://doi.org/10.1016/j.csl.2005.08.001
    """
    scores_N, bonafide_N = checked_trials(scores, is_bonafide)
    _check_prior(prior)
    bonafide, spoof = scores_N[bonafide_N], scores_N[~bonafide_N]
    if bonafide.min() >= spoof.max() or bonafide.max() <= spoof.min():
        raise ScoreError(
            f"logistic calibration needs classes that overlap: bona fide scores {bonafide.min():g} to "
            f"{bonafide.max():g}, spoofs {spoof.min():g} to {spoof.max():g}; use the affine one, or other dev scores"
        )
    mean, deviation = scores_N.mean(), scores_N.std()
    design_N2 = np.column_stack(((scores_N - mean) / deviation, np.ones(len(scores_N))))
    signs_N = np.where(bonafide_N, 1.0, -1.0)
    weights_N = np.where(bonafide_N, prior / bonafide_N.sum(), (1 - prior) / (~bonafide_N).sum())
    prior_odds = np.log(prior / (1 - prior))

    def loss(map_2: Floats) -> float:
        return float(weights_N @ np.logaddexp(0, -signs_N * (design_N2 @ map_2 + prior_odds)))

    map_2 = np.zeros(2)
    current = loss(map_2)
    for _ in range(_MAX_STEPS):
        wrong_N = np.exp(-np.logaddexp(0, signs_N * (design_N2 @ map_2 + prior_odds)))  # 1 - P(true class)
        gradient = design_N2.T @ (-signs_N * weights_N * wrong_N)
        hessian = (design_N2 * (weights_N * wrong_N * (1 - wrong_N))[:, None]).T @ design_N2
        step = np.linalg.solve(hessian, gradient)
        # Newton's decrement bounds how far the loss, which is convex, can still fall.
        if gradient @ step < 1e-14 * (1 + current):
            break
        length = 1.0
        while (candidate := loss(map_2 - length * step)) > current - 1e-4 * length * (
            gradient @ step
        ) and length > 1e-8:
            length /= 2
        map_2, current = map_2 - length * step, candidate
    scale = map_2[0] / deviation
    return Calibration(float(scale), float(map_2[1] - scale * mean))


def fit_affine(scores: npt.ArrayLike, is_bonafide: npt.ArrayLike, *, prior: float = PRIOR) -> Calibration:
    """Fit a calibration in closed form, from two normal distributions with the means of the classes and a common
    variance.

    Coarser than `fit_logistic`, but there is one for classes that do not overlap too.

    Parameters
    ----------
    scores : float (N,), finite, higher = bona fide.
    is_bonafide : bool (N,); both classes occur.
    prior : weight of the bona fide variance in the common one, 0..1.

    Raises
    ------
    ScoreError : as for `DetectionTrials`; also scores that do not vary within the classes.

    References
    ----------
    van Leeuwen & Brümmer, The distribution of calibrated likelihood-ratios in speaker recognition, 2013:
    https://arxiv.org/abs/1304.1199
    """
    scores_N, bonafide_N = checked_trials(scores, is_bonafide)
    _check_prior(prior)
    means, variances = zip(*(_moments(scores_N, rows) for rows in (bonafide_N, ~bonafide_N)), strict=True)
    variance = prior * variances[0] + (1 - prior) * variances[1]
    if variance == 0:
        raise ScoreError(
            f"affine calibration needs scores that vary: bona fide are all {means[0]:g}, spoofs all {means[1]:g}"
        )
    scale = (means[0] - means[1]) / variance
    return Calibration(scale, -scale * (means[0] + means[1]) / 2)


def _moments(scores_N: Floats, rows_N: Bools) -> tuple[float, float]:
    return float(scores_N[rows_N].mean()), float(scores_N[rows_N].var())


def _check_prior(prior: float) -> None:
    if not 0 < prior < 1:
        raise ScoreError(f"a prior is between 0 and 1, found {prior}")
