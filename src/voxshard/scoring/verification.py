"""The a-DCF: detection cost of a speaker verification system that must also reject spoofs, from one score per trial.

Array suffixes: N trials, K thresholds, R replicates.

References
----------
Shim et al., a-DCF: an architecture agnostic metric with application to spoofing-robust speaker verification, Odyssey
2024, https://arxiv.org/abs/2403.01355; its package: https://github.com/shimhz/a_DCF
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voxshard.errors import ScoreError
from voxshard.scoring.ranking import Floats, Ints, finite_scores

CLASSES = ("target", "nontarget", "spoof")


@dataclass(frozen=True)
class VerificationCosts:
    """Priors and costs of the three classes."""

    prior_target: float
    prior_nontarget: float
    prior_spoof: float
    cost_miss: float
    cost_false_alarm_nontarget: float
    cost_false_alarm_spoof: float

    @property
    def weights(self) -> tuple[float, float, float]:
        """Return the weights of the miss rate and of the false alarm rates of non-targets and of spoofs."""
        return (
            self.cost_miss * self.prior_target,
            self.cost_false_alarm_nontarget * self.prior_nontarget,
            self.cost_false_alarm_spoof * self.prior_spoof,
        )


A_DCF1 = VerificationCosts(0.9, 0.05, 0.05, 1.0, 10.0, 20.0)
"""Defaults of the a-DCF package, `a-DCF1` in its paper."""
ASVSPOOF5_TRACK2 = VerificationCosts(0.95 * 0.99, 0.95 * 0.01, 0.05, 1.0, 10.0, 10.0)
"""ASVspoof 5 Track 2, from its evaluation package."""


class VerificationTrials:
    """Scored verification trials of three classes; `measure` gives the a-DCF for any weighting of the trials.

    Parameters
    ----------
    scores : float (N,), finite, higher = the claimed speaker, in person.
    classes : (N,), each "target", "nontarget" or "spoof"; all three occur.
    costs : priors and costs.

    Raises
    ------
    ScoreError : shapes that differ, scores that are not finite, other classes, or a class that has no trial.
    """

    def __init__(
        self, scores: npt.ArrayLike, classes: npt.ArrayLike, costs: VerificationCosts = ASVSPOOF5_TRACK2
    ) -> None:
        classes_N = np.asarray(classes)
        scores_N = finite_scores(scores, labels_shape=classes_N.shape)
        is_class = [classes_N == name for name in CLASSES]
        unknown = np.flatnonzero(~np.logical_or.reduce(is_class))
        if len(unknown):
            raise ScoreError(
                f"{len(unknown)} of {len(classes_N)} classes are none of {', '.join(CLASSES)}: "
                f"{classes_N[unknown[0]]!s} at position {unknown[0]}"
            )
        missing = [name for name, rows in zip(CLASSES, is_class, strict=True) if not rows.any()]
        if missing:
            raise ScoreError(f"no {' and no '.join(missing)} trial; the a-DCF needs target, nontarget and spoof trials")
        order = np.argsort(scores_N, kind="stable")
        scores_N = scores_N[order]
        self.num_trials = len(scores_N)
        self._costs = costs
        self._rows = [order[rows[order]] for rows in is_class]
        # Per class, how many of its sorted trials are below each distinct score, and below infinity.
        starts = np.concatenate(([0], np.flatnonzero(scores_N[1:] != scores_N[:-1]) + 1, [len(scores_N)]))
        self._below_K = [np.concatenate(([0], np.cumsum(rows[order])))[starts] for rows in is_class]

    def measure(self, weights_RN: Ints) -> dict[str, Floats]:
        """Compute `a_dcf`, float64 (R,): the smallest normalized cost over all thresholds; nan if a class has no
        weight."""
        rejected_RK = []
        for rows, below_K in zip(self._rows, self._below_K, strict=True):
            sums_RN = np.zeros((len(weights_RN), len(rows) + 1))
            np.cumsum(np.take(weights_RN, rows, axis=1), axis=1, out=sums_RN[:, 1:])
            total_R1 = sums_RN[:, -1:]
            rates = np.divide(sums_RN, total_R1, out=np.full_like(sums_RN, np.nan), where=total_R1 > 0)
            rejected_RK.append(np.take(rates, below_K, axis=1))
        miss, nontarget, spoof = self._costs.weights
        cost_RK = miss * rejected_RK[0] + nontarget * (1 - rejected_RK[1]) + spoof * (1 - rejected_RK[2])
        return {"a_dcf": cost_RK.min(axis=1) / min(miss, nontarget + spoof)}
