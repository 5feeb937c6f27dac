"""From many scores to few points: thinned curves, bins and counts that still say the same."""

from __future__ import annotations

import numpy as np
import pytest

from voxshard.errors import ScoreError
from voxshard.reporting import curves, plots
from voxshard.reporting.report_data import Confusion, ErrorCurve, MetricEstimate


def test_a_thinned_curve_stays_on_the_curve_and_close_to_it_everywhere() -> None:
    generator = np.random.default_rng(0)
    positive = generator.random(50_000) < 0.3
    scores = generator.normal(size=50_000) + 2 * positive
    curve, threshold = curves.error_curve(scores, positive)
    assert len(curve.miss_rate) <= curves.MAX_POINTS
    targets, others = np.sort(scores[positive]), np.sort(scores[~positive])
    thresholds = np.append(np.sort(scores), np.inf)
    whole = zip(
        np.searchsorted(targets, thresholds) / len(targets),
        1 - np.searchsorted(others, thresholds) / len(others),
        strict=True,
    )
    known = {(round(miss, 9), round(false_alarm, 9)) for miss, false_alarm in whole}
    kept = zip(curve.miss_rate, curve.false_alarm_rate, strict=True)
    assert {(round(miss, 9), round(false_alarm, 9)) for miss, false_alarm in kept} <= known
    for rates in (curve.miss_rate, curve.false_alarm_rate):
        shown = plots.probit(np.clip(rates, 0.001, 0.999))
        assert np.abs(np.diff(shown)).max() < 0.15  # of a plot about 6 wide
    assert np.mean(scores[positive] < threshold) == pytest.approx(np.mean(scores[~positive] >= threshold), abs=1e-3)


def test_a_short_curve_is_kept_whole() -> None:
    curve, threshold = curves.error_curve(np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, True, False, True]))
    assert curve.miss_rate.tolist() == [0.0, 0.0, 0.5, 0.5, 1.0]
    assert curve.false_alarm_rate.tolist() == [1.0, 0.5, 0.5, 0.0, 0.0]
    assert threshold == 3.0


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ScoreError, match="1 of 2 scores are not finite"):
        curves.error_curve(np.array([np.nan, 1.0]), np.array([True, False]))


def test_a_histogram_counts_every_score_once_and_far_ones_at_the_edge() -> None:
    scores = np.append(np.random.default_rng(0).normal(size=5000), [1e6, -1e6])
    labels = np.where(np.arange(5002) % 2, "a", "b").astype(object)
    spread = curves.score_histogram(scores, labels, ["a", "b"], 0.0)
    assert [int(counts.sum()) for counts in spread.counts.values()] == [2501, 2501]
    assert spread.edges[-1] < 10


def test_a_histogram_of_one_single_score_has_a_width() -> None:
    spread = curves.score_histogram(np.full(5, 3.0), np.array(["a"] * 5, object), ["a"], 3.0)
    assert spread.edges[0] < 3.0 < spread.edges[-1]
    assert int(spread.counts["a"].sum()) == 5


def test_a_confusion_keeps_the_order_of_the_classes_and_leaves_out_absent_ones() -> None:
    found = curves.confusion(np.array(["b", "b", "a"], object), np.array(["b", "d", "a"], object), ["c", "b", "a", "d"])
    assert found.labels == ["b", "a", "d"]
    assert found.counts.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_the_miss_rates_in_the_table_are_those_of_the_curve() -> None:
    curve = ErrorCurve(false_alarm_rate=np.array([1.0, 0.3, 0.04, 0.0]), miss_rate=np.array([0.0, 0.02, 0.1, 1.0]))
    plot = plots.det({"a": (curve, MetricEstimate(0.07))}, key="det", where="eval")
    shown = [cell.text for cell in plot.table.rows[0]]
    assert shown == ["a", "100.00", "100.00", "100.00", "100.00", "10.00", "10.00", "10.00", "2.00"]


def test_perfect_separation_can_be_drawn() -> None:
    curve = ErrorCurve(false_alarm_rate=np.array([1.0, 0.0, 0.0]), miss_rate=np.array([0.0, 0.0, 1.0]))
    assert "<svg" in plots.det({"a": (curve, MetricEstimate(0.0))}, key="det", where="eval").svg


def test_too_many_classes_get_a_table_instead_of_a_matrix() -> None:
    counts = np.eye(61, dtype=np.int64) * 9
    counts[3, 5] = 7
    matrix = Confusion(labels=[f"c{number}" for number in range(61)], counts=counts)
    assert plots.confusion(matrix, key="c", system="a", where="eval") is None
    table = plots.frequent_confusions(matrix)
    assert [[cell.text for cell in row] for row in table.rows] == [["c3", "c5", "7", "43.8"]]


def test_probit_is_the_normal_quantile() -> None:
    assert plots.probit([0.5, 0.975]).tolist() == pytest.approx([0.0, 1.959963984540054])
