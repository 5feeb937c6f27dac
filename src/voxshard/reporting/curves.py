"""Reduction of any number of trials to curves, bins and counts that are small enough for a page.

Letters: N trials, C classes, K thresholds, P points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from voxshard.reporting.report_data import Confusion, ErrorCurve, ScoreHistogram
from voxshard.scoring.detection import error_rates
from voxshard.scoring.ranking import Ranking

MAX_POINTS = 400
"""Maximum number of points of a curve; at the size it is drawn, more cannot be seen."""
_FEWEST_BINS, _MOST_BINS = 12, 60
_TAIL = 0.001
"""Share of the scores at each end that may fall into the outermost bin."""

Floats = npt.NDArray[np.float64]


def error_curve(scores_N: Floats, is_positive_N: npt.NDArray[np.bool_]) -> tuple[ErrorCurve, float]:
    """Return error rates at every threshold, thinned to about `MAX_POINTS`, and the score at which they are closest.

    Raises
    ------
    ScoreError : scores that are not finite, or a class without trials.
    """
    ranking = Ranking(scores_N, is_positive_N, every_score=True)
    miss, false_alarm = (rates[0] for rates in error_rates(ranking.counts(np.ones((1, len(scores_N)), np.int64))))
    closest = min(int(np.argmin(np.abs(miss - false_alarm))), len(ranking.scores_M) - 1)
    kept = thinned(miss, false_alarm)
    return ErrorCurve(false_alarm_rate=false_alarm[kept], miss_rate=miss[kept]), float(ranking.scores_M[closest])


def thinned(miss_K: Floats, false_alarm_K: Floats) -> npt.NDArray[np.int64]:
    """Return positions to keep: the ends, and points where the curve has moved visibly in a DET or ROC plot."""
    if len(miss_K) <= MAX_POINTS:
        return np.arange(len(miss_K))
    moved = np.zeros(len(miss_K))
    for values in (miss_K, false_alarm_K, _stretched(miss_K), _stretched(false_alarm_K)):
        moved[1:] += np.abs(np.diff(values)) / np.ptp(values)
    travelled = np.cumsum(moved)
    steps = np.floor(travelled / travelled[-1] * (MAX_POINTS - 2))
    return np.unique(np.concatenate([[0], np.flatnonzero(np.diff(steps)) + 1, [len(miss_K) - 1]]))


def _stretched(rates: Floats) -> Floats:
    """Return log-odds, a faster substitute for the probit axes of a DET plot; values outside such a plot are
    clipped."""
    clipped = np.clip(rates, 1e-4, 1 - 1e-4)
    result: Floats = np.log(clipped / (1 - clipped))
    return result


def score_histogram(
    scores_N: Floats, labels_N: npt.NDArray[np.object_], classes: Sequence[str], threshold: float
) -> ScoreHistogram:
    """Count scores into bins; far outliers are counted in the outermost bins."""
    low, high = (float(value) for value in np.quantile(scores_N, [_TAIL, 1 - _TAIL]))
    if not high > low:
        low, high = low - 0.5, high + 0.5
    # Half as wide as by Rice's rule: the classes are seen one by one, and their edges matter more than their middle.
    num_bins = int(np.clip(4 * len(scores_N) ** (1 / 3), _FEWEST_BINS, _MOST_BINS))
    edges = np.linspace(low, high, num_bins + 1)
    inside = np.clip(scores_N, low, high)
    counts = {name: np.histogram(inside[labels_N == name], edges)[0] for name in classes}
    return ScoreHistogram(edges=edges, counts=counts, threshold=threshold)


def confusion(
    truth_N: npt.NDArray[np.object_], predicted_N: npt.NDArray[np.object_], classes: Sequence[str]
) -> Confusion:
    """Count true against predicted classes; classes that occur in neither are omitted."""
    there = {*truth_N.tolist(), *predicted_N.tolist()}
    labels = [name for name in classes if name in there] + sorted(there - set(classes))
    place = {name: number for number, name in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), np.int64)
    rows = np.array([place[name] for name in truth_N], np.int64)
    columns = np.array([place[name] for name in predicted_N], np.int64)
    np.add.at(counts, (rows, columns), 1)
    return Confusion(labels=labels, counts=counts)
