"""Grouping of comparable systems, the choice of the split for their comparison, and their ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from voxshard.reporting import measures
from voxshard.reporting.report_data import Comparison, MetricEstimate, ReportData, System

LEVEL = 0.05
"""Two systems are distinguished by the paired test below this p-value."""
_PREFERRED = ("eval", "test", "evaluation", "dev", "val", "valid", "validation")


@dataclass(frozen=True, kw_only=True)
class View:
    """Systems that were measured on one split, best first."""

    split: str
    headline: str | None
    """Metric by which the systems are ranked."""
    order: Sequence[System]
    key: str = ""
    """Suffix of the HTML anchors of this view's plots; unique on the page."""
    suffix: str = ""
    """Suffix of the titles of this view's sections if there are several views."""

    def estimate(self, system: System) -> MetricEstimate:
        """Return the headline metric of a system."""
        return system.splits[self.split].metrics.get(self.headline or "", MetricEstimate(None))


@dataclass(frozen=True, kw_only=True)
class Topic:
    """Systems that predict the same target."""

    label: str
    systems: Sequence[System]
    splits: Sequence[str]
    """Splits with results; the first one decides the ranking."""
    comparisons: Sequence[Comparison]
    key: str
    suffix: str

    def view(self, split: str) -> View:
        """Return the systems on one split, best first."""
        return rank(self.systems, split)

    @property
    def views(self) -> list[View]:
        """Views to draw: the first split, and splits with systems that earlier ones do not contain."""
        found: list[View] = []
        seen: set[str] = set()
        for split in self.splits:
            view = rank(self.systems, split)
            new = {system.name for system in view.order} - seen
            if new and (split != "train" or not found):
                key, suffix = self.key + (f"-{len(found)}" if found else ""), self.suffix
                suffix += f" on {split}" if found else ""
                order = [system for system in view.order if system.name in new]
                found.append(View(split=split, headline=view.headline, order=order, key=key, suffix=suffix))
                seen |= new
        return found


def topics(data: ReportData) -> list[Topic]:
    """Group systems by their target, in order of first appearance."""
    groups: dict[tuple[str, str], list[System]] = {}
    for system in data.systems:
        groups.setdefault((system.kind, system.label), []).append(system)
    found = []
    for number, ((_, label), systems) in enumerate(groups.items()):
        names = {system.name for system in systems}
        found.append(
            Topic(
                label=label,
                systems=systems,
                splits=split_order(systems),
                comparisons=[item for item in data.comparisons if {item.first, item.second} <= names],
                key=f"-{number}" if number else "",
                suffix=f": {label}" if len(groups) > 1 else "",
            )
        )
    return found


def split_order(systems: Sequence[System]) -> list[str]:
    """Return splits with results in order of preference: eval or test, then dev, then others, train last."""
    found = dict.fromkeys(split for system in systems for split, part in system.splits.items() if part.metrics)

    def place(split: str) -> int:
        return _PREFERRED.index(split) if split in _PREFERRED else len(_PREFERRED) + (split == "train")

    return sorted(found, key=place)


def rank(systems: Sequence[System], split: str) -> View:
    """Rank the systems of one kind that were measured on a split, best first.

    The first of `measures.HEADLINES` that was measured ranks them, the others decide between equal ones.
    """
    measured = [system for system in systems if split in system.splits and system.splits[split].metrics]
    names = measures.HEADLINES[measured[0].kind] if measured else ()
    there = [name for name in names if any(name in item.splits[split].metrics for item in measured)]

    def costs(system: System) -> list[float]:
        return [_cost(name, system.splits[split].metrics.get(name, MetricEstimate(None)).value) for name in there]

    headline = there[0] if there else None
    return View(split=split, headline=headline, order=sorted(measured, key=costs))


def _cost(name: str, value: float | None) -> float:
    if value is None:
        return float("inf")
    return value if measures.measure(name).better == "lower" else -value
