"""Trials sorted once by score, so that weighted error counts need only one cumulative sum.

Array suffixes: N trials, M blocks, R replicates (rows of weights).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from voxshard.errors import ScoreError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Counts:
    """Weighted numbers of trials between consecutive thresholds, for every row of weights.

    Threshold k is below block k (k = M: above all); a trial is accepted if its block is not below the threshold.
    """

    positives_RM: Ints
    negatives_RM: Ints
    tied_M: Bools
    """Whether the block consists of a single score that occurs in both classes."""

    @cached_property
    def misses_RK(self) -> Ints:
        """Positives below each threshold, int64 (R, M + 1)."""
        return _sums_from_zero(self.positives_RM)

    @cached_property
    def rejections_RK(self) -> Ints:
        """Negatives below each threshold, int64 (R, M + 1)."""
        return _sums_from_zero(self.negatives_RM)

    @property
    def num_positives_R1(self) -> Ints:
        return self.misses_RK[:, -1:]

    @property
    def num_negatives_R1(self) -> Ints:
        return self.rejections_RK[:, -1:]

    @property
    def defined_R(self) -> Bools:
        """Whether both classes occur, so that error rates are defined."""
        return (self.num_positives_R1 > 0).ravel() & (self.num_negatives_R1 > 0).ravel()


class Ranking:
    """Trials in ascending order of score (positives first in ties), divided into blocks.

    A block is a run of positives followed by a run of negatives. Walking through it one trial at a time first raises
    the misses, then lowers the false alarms, so that every best operating point, in any weighting, lies between two
    blocks. For scores that separate the classes well there are far fewer blocks than trials.

    Parameters
    ----------
    scores_N : float (N,), finite, higher = positive.
    is_positive_N : bool (N,); both classes occur.
    cuts : further thresholds at which a block must end.
    every_score : make each distinct score its own block, as curves and average precision need.

    Raises
    ------
    ScoreError : scores that are not finite, or a class that has no trial.
    """

    def __init__(
        self,
        scores_N: npt.ArrayLike,
        is_positive_N: npt.ArrayLike,
        *,
        cuts: tuple[float, ...] = (),
        every_score: bool = False,
    ) -> None:
        scores, is_positive = checked_trials(scores_N, is_positive_N)
        order = np.concatenate((np.flatnonzero(is_positive), np.flatnonzero(~is_positive)))
        order = order[np.argsort(scores[order], kind="stable")]
        scores, is_positive = scores[order], is_positive[order]
        num_trials = len(scores)

        begins_score = np.concatenate(([True], scores[1:] != scores[:-1]))
        first_of_score = np.flatnonzero(begins_score)
        end_of_score = np.append(first_of_score[1:], num_trials)
        mixed = is_positive[first_of_score] & ~is_positive[end_of_score - 1]
        if every_score:
            begins_block = begins_score
        else:
            begins_block = np.zeros(num_trials + 1, dtype=bool)
            begins_block[0] = True
            begins_block[1:-1] = is_positive[1:] & ~is_positive[:-1]
            begins_block[first_of_score[mixed]] = True  # ties count half in the AUC, so they stand apart
            begins_block[end_of_score[mixed]] = True
            begins_block[np.searchsorted(scores, cuts)] = True
            begins_block = begins_block[:-1]
        starts = np.flatnonzero(begins_block)
        positives_before = _sums_from_zero(is_positive[None].astype(np.int64))[0]
        ends = np.append(starts[1:], num_trials)
        edges = np.empty(2 * len(starts) + 1, dtype=np.int64)
        edges[:-1:2] = starts
        edges[1::2] = starts + positives_before[ends] - positives_before[starts]
        edges[-1] = num_trials

        self.num_trials = num_trials
        self.order_N: Ints = order
        self.scores_M: Floats = scores[starts]
        """Lowest score of each block."""
        self._edges = edges
        self._tied_M: Bools = np.isin(starts, first_of_score[mixed], assume_unique=True)

    def threshold_at(self, score: float) -> int:
        """Return the index, 0..M, of the threshold that accepts scores of at least `score`, which must be one of
        `cuts`."""
        return int(np.searchsorted(self.scores_M, score))

    def counts(self, weights_RN: Ints) -> Counts:
        """Count how often each block's trials were drawn.

        Parameters
        ----------
        weights_RN : int64 (R, N), times each trial counts, in the order the trials were given.
        """
        sums = _sums_from_zero(np.take(weights_RN, self.order_N, axis=1))
        sums = np.take(sums, self._edges, axis=1)
        counts = sums[:, 1:] - sums[:, :-1]
        return Counts(counts[:, 0::2], counts[:, 1::2], self._tied_M)


def checked_trials(scores_N: npt.ArrayLike, is_positive_N: npt.ArrayLike) -> tuple[Floats, Bools]:
    """Return scores as float64 and labels as bool.

    Raises
    ------
    ScoreError : shapes that differ, scores that are not finite, or a class that has no trial.
    """
    is_positive = np.asarray(is_positive_N)
    scores = finite_scores(scores_N, labels_shape=is_positive.shape)
    if is_positive.dtype != bool:
        raise ScoreError(f"labels must be bool (True: positive, bona fide), found {is_positive.dtype}")
    num_positives = int(is_positive.sum())
    if num_positives == 0 or num_positives == len(scores):
        raise ScoreError(
            f"{num_positives} positive (bona fide) and {len(scores) - num_positives} negative (spoof) trials; "
            "error rates need at least one of each"
        )
    return scores, is_positive


def finite_scores(scores_N: npt.ArrayLike, *, labels_shape: tuple[int, ...]) -> Floats:
    """Return one finite float64 score per trial; otherwise raise a ScoreError with the number and first positions of
    the others."""
    scores = np.asarray(scores_N, dtype=np.float64)
    if scores.ndim != 1 or scores.shape != labels_shape:
        raise ScoreError(f"one score and one label per trial wanted, found shapes {scores.shape} and {labels_shape}")
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        shown = ", ".join(f"{scores[row]} at position {row}" for row in wrong[:3])
        raise ScoreError(f"{len(wrong)} of {len(scores)} scores are not finite: {shown}; score these trials again")
    return scores


def _sums_from_zero(values_RN: Ints) -> Ints:
    sums = np.zeros((values_RN.shape[0], values_RN.shape[1] + 1), dtype=np.int64)
    np.cumsum(values_RN, axis=1, out=sums[:, 1:])
    return sums
