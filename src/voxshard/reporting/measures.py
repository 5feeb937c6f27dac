"""Registry of the metrics: their titles, units, directions and number of digits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from voxshard.reporting.report_data import Kind, MetricEstimate


@dataclass(frozen=True)
class Measure:
    """Presentation of a metric."""

    name: str
    title: str
    symbol: str
    """Short name for column heads and axes."""
    better: Literal["lower", "higher", ""]
    percent: bool
    meaning: str

    @property
    def head(self) -> str:
        """Symbol with unit."""
        return f"{self.symbol}, %" if self.percent else self.symbol

    @property
    def decimals(self) -> int:
        return 2 if self.percent else 4

    def number(self, value: float | None) -> str:
        """Return the value in the unit of `head`, or a dash if there is none."""
        if value is None:
            return "–"
        return f"{value * 100 if self.percent else value:.{self.decimals}f}".replace("-", "−")

    def interval(self, estimate: MetricEstimate) -> str:
        """Return `low to high` in the unit of `head`, or an empty text."""
        if estimate.low is None or estimate.high is None:
            return ""
        return f"{self.number(estimate.low)} to {self.number(estimate.high)}"

    def range(self, estimate: MetricEstimate) -> str:
        """Return the interval for a narrow column: `low–high`, unless a minus sign would make that hard to read."""
        interval = self.interval(estimate)
        return interval if "−" in interval else interval.replace(" to ", "–")

    def in_words(self, estimate: MetricEstimate) -> str:
        """Return the value with its interval, such as `4.21 % (95 % interval 3.10 to 5.42 %)`."""
        unit = " %" if self.percent else ""
        interval = self.interval(estimate)
        return f"{self.number(estimate.value)}{unit}" + (f" (95 % interval {interval}{unit})" if interval else "")


_KNOWN = (
    Measure("eer", "equal error rate", "EER", "lower", True, "as many targets missed as non-targets accepted"),
    Measure("eer_tie_aware", "equal error rate, tie-aware", "EER (hull)", "lower", True, "on the ROC's convex hull"),
    Measure("min_dcf", "minimum detection cost", "minDCF", "lower", False, "normalized cost at the best threshold"),
    Measure("act_dcf", "actual detection cost", "actDCF", "lower", False, "normalized cost at the threshold of theory"),
    Measure("cllr", "log-likelihood-ratio cost", "Cllr, bits", "lower", False, "calibration and discrimination"),
    Measure("a_dcf", "architecture-agnostic detection cost", "a-DCF", "lower", False, "three-class normalized cost"),
    Measure("auc", "area under the ROC curve", "AUC", "higher", True, "chance that a target scores above a non-target"),
    Measure("mean_auc", "area under the ROC curve, mean over labels", "mean AUC", "higher", True, "labels count alike"),
    Measure("accuracy", "accuracy", "accuracy", "higher", True, "share of utterances classified correctly"),
    Measure("uar", "unweighted average recall", "UAR", "higher", True, "recall, classes counting alike"),
    Measure("macro_f1", "macro F1", "macro F1", "higher", True, "of precision and recall, classes counting alike"),
    Measure("average_precision", "average precision", "AP", "higher", True, "precision, averaged over the recall"),
    Measure("mean_average_precision", "mean average precision", "mAP", "higher", True, "labels counting alike"),
)  # fmt: skip
_BY_NAME = {measure.name: measure for measure in _KNOWN}

HEADLINES: dict[Kind, tuple[str, ...]] = {
    "detection": ("eer", "min_dcf", "auc", "accuracy"),
    "classification": ("accuracy", "uar", "macro_f1"),
    "multilabel": ("mean_average_precision", "mean_auc"),
}
"""Metrics that systems are ranked by: the first that was measured decides."""


def measure(name: str) -> Measure:
    """Return the presentation of a metric; an unknown one is shown as a plain number, without a best value."""
    known = _BY_NAME.get(name)
    if known:
        return known
    kind, _, label = name.partition(".")
    if label and kind in _BY_NAME:
        known = _BY_NAME[kind]
        return replace(
            known, name=name, title=f"{known.title} of {label}", symbol=f"{known.symbol} {label}", meaning=""
        )
    words = name.replace("_", " ")
    return Measure(name, words, words, "", False, "")


def ordered(names: Iterable[str]) -> list[str]:
    """Return the metrics to show, known ones first in their order; counts (`num_*`) are not metrics."""
    wanted = {name for name in names if not name.startswith("num_")}
    return [name for name in _BY_NAME if name in wanted] + sorted(wanted - _BY_NAME.keys())


def overall(names: Iterable[str]) -> list[str]:
    """Return `ordered` without the metrics of single labels (`<name>.<label>`)."""
    return [name for name in ordered(names) if "." not in name]


def best(name: str, values: Iterable[float | None]) -> float | None:
    """Return the best of several values; None if the metric has no better direction or nothing was measured."""
    there = [value for value in values if value is not None]
    better = measure(name).better
    if not there or not better:
        return None
    return min(there) if better == "lower" else max(there)
