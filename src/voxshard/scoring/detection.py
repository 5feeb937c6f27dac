"""ASVspoof 5 Track 1 metrics by the official definitions, the tie-aware EER and the AUC.

Bona fide speech is the positive class, and a higher score means bona fide: a miss rejects bona fide speech, a false
alarm accepts a spoof. Array suffixes: N trials, M blocks, K = M + 1 thresholds, R replicates.

References
----------
Wang et al., ASVspoof 5: crowdsourced speech data, deepfakes, and adversarial attacks at scale, 2024:
https://arxiv.org/abs/2408.08739; the organizers' evaluation package:
https://github.com/asvspoof-challenge/asvspoof5/tree/main/evaluation-package
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voxshard.scoring.intervals import point_estimates
from voxshard.scoring.ranking import Counts, Floats, Ints, Ranking, checked_trials


@dataclass(frozen=True)
class DetectionCosts:
    """Costs and prior of decisions; the defaults are those of Track 1 (`calculate_metrics.py` of the evaluation
    package)."""

    prior_spoof: float = 0.05
    cost_miss: float = 1.0
    cost_false_alarm: float = 10.0

    @property
    def weight_miss(self) -> float:
        return self.cost_miss * (1 - self.prior_spoof)

    @property
    def weight_false_alarm(self) -> float:
        return self.cost_false_alarm * self.prior_spoof

    @property
    def default(self) -> float:
        """Cost of the better of two trivial systems: accept all, or reject all."""
        return min(self.weight_miss, self.weight_false_alarm)

    @property
    def threshold(self) -> float:
        """Bayes threshold for scores that are natural-log likelihood ratios of bona fide against spoof."""
        return float(-np.log(self.weight_miss / self.weight_false_alarm))


ASVSPOOF5 = DetectionCosts()


class DetectionTrials:
    """Scored trials of a two-class detector; `measure` gives every metric for any weighting of the trials.

    Parameters
    ----------
    scores : float (N,), finite, higher = bona fide.
    is_bonafide : bool (N,); both classes occur.
    costs : priors and costs of minDCF and actDCF.

    Raises
    ------
    ScoreError : scores that are not finite, shapes that differ, or a class that has no trial.
    """

    def __init__(self, scores: npt.ArrayLike, is_bonafide: npt.ArrayLike, costs: DetectionCosts = ASVSPOOF5) -> None:
        scores_N, bonafide_N = checked_trials(scores, is_bonafide)
        self.num_trials = len(scores_N)
        self._costs = costs
        self._ranking = Ranking(scores_N, bonafide_N, cuts=(costs.threshold,))
        self._act_threshold = self._ranking.threshold_at(costs.threshold)
        # -log sigmoid of the score, or of its negative for a spoof; logaddexp does not overflow at any score.
        loss_N = np.logaddexp(0.0, np.where(bonafide_N, -scores_N, scores_N)) / np.log(2)
        self._loss_bonafide_N = np.where(bonafide_N, loss_N, 0.0)
        self._loss_spoof_N = np.where(bonafide_N, 0.0, loss_N)

    def measure(self, weights_RN: Ints) -> dict[str, Floats]:
        """Compute the metrics with trials weighted by `weights_RN`.

        Parameters
        ----------
        weights_RN : int64 (R, N), at least 0.

        Returns
        -------
        float64 (R,) each: `eer`, `min_dcf`, `act_dcf`, `cllr` (bits), `eer_tie_aware`, `auc`; nan where a class has
        no weight.
        """
        counts = self._ranking.counts(weights_RN)
        defined_R = counts.defined_R
        if not defined_R.all():
            return _spread(self.measure(weights_RN[defined_R]) if defined_R.any() else {}, defined_R)
        num_bonafide_R, num_spoof_R = counts.num_positives_R1[:, 0], counts.num_negatives_R1[:, 0]
        return {
            "eer": eer(counts),
            "min_dcf": detection_costs(counts, self._costs).min(axis=1),
            "act_dcf": detection_costs(counts, self._costs, at=self._act_threshold)[:, 0],
            "cllr": 0.5
            * (
                np.einsum("rn,n->r", weights_RN, self._loss_bonafide_N) / num_bonafide_R
                + np.einsum("rn,n->r", weights_RN, self._loss_spoof_N) / num_spoof_R
            ),
            "eer_tie_aware": eer_tie_aware(counts),
            "auc": auc(counts),
        }


METRICS = ("eer", "min_dcf", "act_dcf", "cllr", "eer_tie_aware", "auc")


def _spread(metrics: dict[str, Floats], defined_R: npt.NDArray[np.bool_]) -> dict[str, Floats]:
    spread = {name: np.full(len(defined_R), np.nan) for name in METRICS}
    for name, values in metrics.items():
        spread[name][defined_R] = values
    return spread


def detection_metrics(
    scores: npt.ArrayLike, is_bonafide: npt.ArrayLike, costs: DetectionCosts = ASVSPOOF5
) -> dict[str, float]:
    """Compute every detection metric of a set of trials; arguments, errors and names as for `DetectionTrials`."""
    return point_estimates(DetectionTrials(scores, is_bonafide, costs))


def error_rates(counts: Counts) -> tuple[Floats, Floats]:
    """Return the miss rate and the false alarm rate, float64 (R, K) each, at every threshold."""
    miss_RK = counts.misses_RK / counts.num_positives_R1
    false_alarm_RK = (counts.num_negatives_R1 - counts.rejections_RK) / counts.num_negatives_R1
    return miss_RK, false_alarm_RK


def detection_costs(counts: Counts, costs: DetectionCosts, at: int | None = None) -> Floats:
    """Return the normalized detection cost, float64 (R, K), at every threshold, or (R, 1) at threshold number `at`.

    Its minimum is the official minDCF, its value at `costs.threshold` the actDCF.
    """
    chosen = slice(None) if at is None else slice(at, at + 1)
    num_positives_R1, num_negatives_R1 = counts.num_positives_R1, counts.num_negatives_R1
    miss = counts.misses_RK[:, chosen] / num_positives_R1
    false_alarm = (num_negatives_R1 - counts.rejections_RK[:, chosen]) / num_negatives_R1
    result: Floats = (costs.weight_miss * miss + costs.weight_false_alarm * false_alarm) / costs.default
    return result


def eer(counts: Counts) -> Floats:
    """Return the official equal error rate, float64 (R,).

    The official path moves the threshold over one trial at a time, bona fide before spoof where they tie, and takes
    the mean of the two error rates at the first point where they are closest. The point lies just before or just
    after the rates cross, and both are found from the block in which they do.
    """
    num_positives, num_negatives = counts.num_positives_R1[:, 0], counts.num_negatives_R1[:, 0]
    # (miss rate - false alarm rate) x positives x negatives, in integers: exact, and never decreasing.
    gap_RK = (
        counts.misses_RK * num_negatives[:, None]
        + (counts.rejections_RK - num_negatives[:, None]) * (num_positives[:, None])
    )
    rows = np.arange(len(gap_RK))
    block = (gap_RK >= 0).argmax(axis=1) - 1
    misses, rejections = counts.misses_RK[rows, block], counts.rejections_RK[rows, block]
    misses_end = misses + counts.positives_RM[rows, block]

    # In the block misses rise first; then, if the rates have not crossed yet, rejections do.
    misses_at = -(-num_positives * (num_negatives - rejections) // num_negatives)
    crosses_early = misses_at <= misses_end
    rejections_at = -(-num_negatives * (num_positives - misses_end) // num_positives)
    after = (np.where(crosses_early, misses_at, misses_end), np.where(crosses_early, rejections, rejections_at))
    before = (after[0] - crosses_early, after[1] - ~crosses_early)

    miss_before, miss_after = (point[0] / num_positives for point in (before, after))
    false_alarm_before, false_alarm_after = ((num_negatives - point[1]) / num_negatives for point in (before, after))
    take_before = np.abs(miss_before - false_alarm_before) <= np.abs(miss_after - false_alarm_after)
    rates_R: Floats = np.where(take_before, miss_before + false_alarm_before, miss_after + false_alarm_after) / 2
    return rates_R


def eer_tie_aware(counts: Counts) -> Floats:
    """Return the equal error rate on the convex hull of the ROC, float64 (R,).

    Trials that tie are accepted or rejected together, and the hull's edges stand for a random choice between two
    thresholds; so the rate does not depend on any order within ties: constant scores give 0.5.

    Only the edge that crosses `miss = false alarm` is looked for: a segment over it is lowered to the operating point
    farthest below, until there is none. The arithmetic is in integers, hence exact.

    References
    ----------
    Brümmer & de Villiers, The BOSARIS Toolkit: https://arxiv.org/abs/1304.2865
    """
    misses_RK, rejections_RK = counts.misses_RK, counts.rejections_RK
    num_positives, num_negatives = counts.num_positives_R1[:, 0], counts.num_negatives_R1[:, 0]
    rows = np.arange(len(misses_RK))
    left = np.zeros(len(rows), dtype=np.int64)
    right = np.full(len(rows), misses_RK.shape[1] - 1)
    while True:
        low, high = left.min(), right.max() + 1
        misses_left, rejections_left = misses_RK[rows, left], rejections_RK[rows, left]
        rise = rejections_RK[rows, right] - rejections_left
        run = misses_RK[rows, right] - misses_left
        height = (misses_RK[:, low:high] - misses_left[:, None]) * rise[:, None]
        height -= (rejections_RK[:, low:high] - rejections_left[:, None]) * run[:, None]
        lowest = height.argmin(axis=1)
        found = height[rows, lowest] < 0
        if not found.any():
            break
        lowest += low
        before_crossing = (
            misses_RK[rows, lowest] * num_negatives <= (num_negatives - rejections_RK[rows, lowest]) * num_positives
        )
        left = np.where(found & before_crossing, lowest, left)
        right = np.where(found & ~before_crossing, lowest, right)

    miss_left, miss_right = (misses_RK[rows, at] / num_positives for at in (left, right))
    false_alarm_left, false_alarm_right = (
        (num_negatives - rejections_RK[rows, at]) / num_negatives for at in (left, right)
    )
    descent = (miss_right - miss_left) + (false_alarm_left - false_alarm_right)
    rates_R: Floats = miss_left + (false_alarm_left - miss_left) / descent * (miss_right - miss_left)
    return rates_R


def auc(counts: Counts) -> Floats:
    """Return the area under the ROC curve, float64 (R,): the probability that bona fide outscores spoof; ties count
    half."""
    above_RM = 2 * (counts.num_positives_R1 - counts.misses_RK[:, 1:]) + counts.positives_RM * counts.tied_M
    pairs = np.einsum("rm,rm->r", counts.negatives_RM, above_RM)
    result: Floats = pairs / (2.0 * counts.num_positives_R1[:, 0] * counts.num_negatives_R1[:, 0])
    return result
