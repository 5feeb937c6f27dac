"""The paired test between the best system of a report and the following ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from voxshard.progress import Progress
from voxshard.reporting.comparability import rank
from voxshard.reporting.report_data import Comparison, MetricEstimate, System
from voxshard.reporting.systems import PredictedTarget, known_trials, texts
from voxshard.scoring.classification import ClassificationTrials, MultiLabelTrials
from voxshard.scoring.detection import DetectionTrials
from voxshard.scoring.intervals import Trials, paired_bootstrap
from voxshard.store.runs import Run

MAX_OTHERS = 5
"""Systems compared with the best one."""
_MOST_WORK = 200_000_000
"""Trials times replicates of one comparison; about ten seconds on two cores."""
_OTHER = " of the other"
"""Ends the names of the second system's columns after a join."""


def compare(
    systems: Sequence[System], runs: Mapping[str, Run], split: str, *, progress: Progress, seed: int = 0
) -> list[Comparison]:
    """Compare the best system of a split with the next `MAX_OTHERS`, by the metric that ranks them.

    Parameters
    ----------
    systems : that predict the same label.
    runs : where each system's trials are, by its name; systems without trials are left out.

    Returns
    -------
    One comparison per other system with at least two utterances in common, the best one always first.
    """
    view = rank(systems, split)
    having = [system for system in view.order if runs[system.name].trials_file.exists()]
    if view.headline is None or len(having) < 2:
        return []
    best, *others = having[: MAX_OTHERS + 1]
    progress.begin(f"compare systems on {split}", items=len(others))
    found = []
    for other in others:
        comparison = _compare_two(runs, best.name, other.name, split, view.headline, seed)
        found += [comparison] if comparison else []
        progress.advance()
    return found


def _compare_two(
    runs: Mapping[str, Run], first: str, second: str, split: str, metric: str, seed: int
) -> Comparison | None:
    """Test two systems on the utterances that both have scored with the same label; None if the test has no result."""
    targets = {name: PredictedTarget.of(runs[name]) for name in (first, second)}
    ours, theirs = (_trials(runs[name], split, target) for name, target in targets.items())
    pair = ours.join(theirs, "utterance_id", right_suffix=_OTHER, join_type="inner").sort_by("utterance_id")
    pair = pair.filter(pc.equal(pair["label"], pair[f"label{_OTHER}"]))
    if pair.num_rows < 2 or pc.count_distinct(pair["label"]).as_py() < 2:
        return None
    trials = (_measurable(pair, end, targets[name]) for name, end in ((first, ""), (second, _OTHER)))
    replicates = min(1000, max(200, _MOST_WORK // pair.num_rows))
    result = paired_bootstrap(*trials, num_replicates=replicates, seed=seed).get(metric)
    if result is None or result.p_value is None:
        return None
    difference = MetricEstimate(result.interval.value, result.interval.low, result.interval.high)
    return Comparison(
        split=split,
        metric=metric,
        first=first,
        second=second,
        difference=difference,
        p_value=result.p_value,
        num_utterances=pair.num_rows,
    )


def _trials(run: Run, split: str, target: PredictedTarget) -> pa.Table:
    """Return the columns that the test needs of the trials that the metrics are computed from."""
    trials = known_trials(run.trials(), split, target)
    needed = [name for name in trials.column_names if name == "score" or name.startswith(("score_", "label_"))]
    return trials.select(["utterance_id", "label", "prediction", *needed])


def _measurable(pair: pa.Table, suffix: str, target: PredictedTarget) -> Trials:
    def column(name: str) -> pa.ChunkedArray:
        """Return this system's column; a column that only one of the two systems has keeps its name."""
        return pair[f"{name}{suffix}"] if f"{name}{suffix}" in pair.column_names else pair[name]

    truth = texts(pair["label"])
    if target.kind == "detection":
        return DetectionTrials(column("score").to_numpy(), truth == target.positive)
    if target.kind == "multilabel":
        targets, scores = (
            np.column_stack([column(f"{what}_{name}").cast(pa.float64()).to_numpy() for name in target.classes])
            for what in ("label", "score")
        )
        return MultiLabelTrials(targets, scores, target.classes)
    predicted = texts(column("prediction"))
    place = {name: number for number, name in enumerate(sorted({*truth.tolist(), *predicted.tolist()}))}
    numbers, decided = (np.array([place[name] for name in names], np.int64) for names in (truth, predicted))
    return ClassificationTrials(numbers, decided, len(place))
