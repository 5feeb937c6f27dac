"""Metrics for decisions among classes, and for scores of labels that do not exclude each other.

Array suffixes: N trials, C classes, L labels, R replicates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from voxshard.errors import ScoreError
from voxshard.scoring.detection import auc
from voxshard.scoring.ranking import Counts, Floats, Ints, Ranking


class ClassificationTrials:
    """One decision per trial; `measure` gives accuracy, UAR and macro F1 for any weighting of the trials.

    Parameters
    ----------
    truth : int (N,), number of the true class, 0..C-1.
    predicted : int (N,), number of the class decided for.
    num_classes : C.

    Raises
    ------
    ScoreError : no trial, shapes that differ, or class numbers out of range.
    """

    def __init__(self, truth: npt.ArrayLike, predicted: npt.ArrayLike, num_classes: int) -> None:
        self._truth_N, self._predicted_N = _checked_classes(truth, predicted, num_classes)
        self._correct_rows = np.flatnonzero(self._truth_N == self._predicted_N)
        self._num_classes = num_classes
        self.num_trials = len(self._truth_N)

    def measure(self, weights_RN: Ints) -> dict[str, Floats]:
        """Compute `accuracy`, `uar` and `macro_f1`, float64 (R,) each, with trials weighted by `weights_RN`.

        `uar` is the unweighted average recall, also called balanced accuracy: the mean of the recalls of the classes
        that occur. `macro_f1` is the mean F1 of the classes that occur or are predicted.
        """
        true_RC = _class_counts(self._truth_N, weights_RN, self._num_classes)
        predicted_RC = _class_counts(self._predicted_N, weights_RN, self._num_classes)
        correct_RC = _class_counts(
            self._truth_N[self._correct_rows], np.take(weights_RN, self._correct_rows, axis=1), self._num_classes
        )
        return {
            "accuracy": correct_RC.sum(axis=1) / true_RC.sum(axis=1),
            "uar": _mean_ratio(correct_RC, true_RC),
            "macro_f1": _mean_ratio(2 * correct_RC, true_RC + predicted_RC),
        }


def _class_counts(classes_N: Ints, weights_RN: Ints, num_classes: int) -> Floats:
    num_replicates = len(weights_RN)
    cells_RN = classes_N + np.arange(num_replicates)[:, None] * num_classes
    counts = np.bincount(cells_RN.ravel(), weights=weights_RN.ravel(), minlength=num_replicates * num_classes)
    return counts.astype(np.float64).reshape(num_replicates, num_classes)


def _mean_ratio(over_RC: Floats, under_RC: Floats) -> Floats:
    """Return the mean ratio over the columns with a nonzero denominator."""
    present_RC = under_RC > 0
    ratios_RC = np.divide(over_RC, under_RC, out=np.zeros_like(over_RC), where=present_RC)
    result: Floats = ratios_RC.sum(axis=1) / present_RC.sum(axis=1)
    return result


def confusion_matrix(truth: npt.ArrayLike, predicted: npt.ArrayLike, num_classes: int) -> Ints:
    """Count trials, int64 (C true, C predicted); arguments and errors as for `ClassificationTrials`."""
    truth_N, predicted_N = _checked_classes(truth, predicted, num_classes)
    counts: Ints = np.bincount(truth_N * num_classes + predicted_N, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def _checked_classes(truth: npt.ArrayLike, predicted: npt.ArrayLike, num_classes: int) -> tuple[Ints, Ints]:
    """Return the true and predicted classes as int64; raises ScoreError as described at `ClassificationTrials`."""
    truth_N, predicted_N = np.asarray(truth), np.asarray(predicted)
    if truth_N.ndim != 1 or truth_N.shape != predicted_N.shape or len(truth_N) == 0:
        raise ScoreError(
            f"one true and one predicted class per trial wanted, found shapes {truth_N.shape} and {predicted_N.shape}"
        )
    for what, classes in (("true", truth_N), ("predicted", predicted_N)):
        if not np.issubdtype(classes.dtype, np.integer):
            raise ScoreError(f"{what} classes must be numbers 0..{num_classes - 1}, found {classes.dtype}")
        wrong = np.flatnonzero((classes < 0) | (classes >= num_classes))
        if len(wrong):
            raise ScoreError(
                f"{len(wrong)} of {len(classes)} {what} classes are not in 0..{num_classes - 1}: "
                f"{classes[wrong[0]]} at position {wrong[0]}"
            )
    return truth_N.astype(np.int64), predicted_N.astype(np.int64)


class MultiLabelTrials:
    """A score for each label of each trial; `measure` gives AUC and average precision per label and their means.

    A label is measured on the trials where it is known, against all others (one vs rest). A label that is known for no
    trial of one of its two values has no metrics, and stays out of the means.

    Parameters
    ----------
    targets : (N, L), 1 or True where the trial has the label, 0 or False where not, nan where it is unknown.
    scores : float (N, L), higher = has the label; finite wherever the target is known.
    labels : L names.

    Raises
    ------
    ScoreError : shapes that differ, targets other than 0, 1 and nan, or scores that are not finite.
    """

    def __init__(self, targets: npt.ArrayLike, scores: npt.ArrayLike, labels: Sequence[str]) -> None:
        targets_NL, scores_NL = np.asarray(targets, dtype=np.float64), np.asarray(scores, dtype=np.float64)
        if targets_NL.shape != scores_NL.shape or targets_NL.ndim != 2 or targets_NL.shape[1] != len(labels):
            raise ScoreError(
                f"targets and scores of shape (trials, {len(labels)} labels) wanted, "
                f"found {targets_NL.shape} and {scores_NL.shape}"
            )
        known_NL = ~np.isnan(targets_NL)
        wrong = known_NL & (targets_NL != 0) & (targets_NL != 1)
        if wrong.any():
            raise ScoreError(
                f"{wrong.sum()} targets are not 0, 1 or missing (nan), the first is {targets_NL[wrong][0]:g}"
            )
        self.num_trials = len(targets_NL)
        self.labels = tuple(labels)
        self._rankings: list[tuple[npt.NDArray[np.intp], Ranking] | None] = []
        for column, label in enumerate(labels):
            rows = np.flatnonzero(known_NL[:, column])
            is_positive = targets_NL[rows, column] == 1
            if is_positive.all() or not is_positive.any():
                self._rankings.append(None)
                continue
            try:
                ranking = Ranking(scores_NL[rows, column], is_positive, every_score=True)
            except ScoreError as exc:
                raise ScoreError(f"label {label}: {exc}") from exc
            self._rankings.append((rows, ranking))

    def measure(self, weights_RN: Ints) -> dict[str, Floats]:
        """Compute the metrics with trials weighted by `weights_RN`.

        Returns
        -------
        float64 (R,) each: `auc.<label>` and `average_precision.<label>`, `mean_auc`, `mean_average_precision`; nan
        where a label has no trials of both values.
        """
        metrics: dict[str, Floats] = {}
        for label, found in zip(self.labels, self._rankings, strict=True):
            areas, precisions = np.full((2, len(weights_RN)), np.nan)
            if found is not None:
                rows, ranking = found
                counts = ranking.counts(np.take(weights_RN, rows, axis=1))
                defined_R = counts.defined_R
                if defined_R.any():
                    counts = Counts(counts.positives_RM[defined_R], counts.negatives_RM[defined_R], counts.tied_M)
                    areas[defined_R], precisions[defined_R] = auc(counts), average_precision(counts)
            metrics[f"auc.{label}"], metrics[f"average_precision.{label}"] = areas, precisions
        for mean, name in (("mean_auc", "auc"), ("mean_average_precision", "average_precision")):
            values_LR = np.array([metrics[f"{name}.{label}"] for label in self.labels])
            defined_LR = ~np.isnan(values_LR)
            counted_R = defined_LR.sum(axis=0)
            sums_R = np.where(defined_LR, values_LR, 0).sum(axis=0)
            metrics[mean] = np.divide(sums_R, counted_R, out=np.full(len(sums_R), np.nan), where=counted_R > 0)
        return metrics


def average_precision(counts: Counts) -> Floats:
    """Return the average precision, float64 (R,): precision at each distinct score, weighted by the recall gained
    there.

    Not interpolated, as scikit-learn's `average_precision_score`. The counts must come from a ranking with
    `every_score`.
    """
    accepted_positives = counts.num_positives_R1 - counts.misses_RK[:, :-1]
    accepted = accepted_positives + counts.num_negatives_R1 - counts.rejections_RK[:, :-1]
    gained = counts.positives_RM * accepted_positives
    # Where nothing is accepted nothing is gained either.
    precisions = np.divide(gained, accepted, out=np.zeros(gained.shape), where=accepted > 0)
    result: Floats = precisions.sum(axis=1) / counts.num_positives_R1[:, 0]
    return result
