"""Metrics with intervals, breakdowns and confusion tables computed from trials, by the definitions in `scoring`.

A trial is one scored utterance: a row of RUN/trials.parquet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from voxshard.errors import ConfigError
from voxshard.learning.labels import Labels, number_labels
from voxshard.learning.model import Target
from voxshard.scoring.breakdown import Cell, classification_by_group, detection_by_group
from voxshard.scoring.classification import ClassificationTrials, MultiLabelTrials, confusion_matrix
from voxshard.scoring.detection import DetectionTrials
from voxshard.scoring.intervals import Interval, Trials, bootstrap
from voxshard.scoring.ranking import Ints

Metrics = dict[str, Interval]
_NOT_TO_GROUP_BY = {
    *("utterance_id", "path", "start_s", "end_s", "duration_s", "num_bytes", "split", "problem"),
    *("first_frame", "num_frames"),
}
"""Columns of utterances.parquet that differ for every utterance, or are in the trials anyway."""


class JointTrials:
    """Several views of the same trials that are measured together, such as a detector's scores and its decisions."""

    def __init__(self, *views: Trials) -> None:
        self.views = views
        self.num_trials = views[0].num_trials

    def measure(self, weights_RN: Ints) -> dict[str, npt.NDArray[np.float64]]:
        """Return the metrics of all views."""
        return {name: values for view in self.views for name, values in view.measure(weights_RN).items()}


def trials_table(
    utterances: pa.Table,
    labels: Labels,
    split: str,
    scores: npt.NDArray[np.float64],
    predicted: npt.NDArray[np.int64],
) -> pa.Table:
    """Return a table with one row per scored utterance.

    Parameters
    ----------
    utterances : U rows of the manifest.
    scores : (U, number of score columns).
    predicted : (U,) class numbers, or (U, L) of 0 and 1.

    Returns
    -------
    utterance_id, split, label, prediction (text; for several labels those that apply, joined by commas, and the truth
    of each as `label_<name>`), the scores, and the manifest's own columns to group by; those of them whose name is
    taken become `manifest_<name>`.
    """
    target = labels.target
    columns: dict[str, Any] = {"utterance_id": utterances["utterance_id"], "split": [split] * len(scores)}
    if target.kind == "multilabel":
        columns["label"] = [_applying(row, target.classes) if row.max() >= 0 else None for row in labels.numbers]
    else:
        columns["label"] = pa.array(labels.texts[0], pa.string())
    columns["prediction"] = prediction_texts(target, predicted)
    if target.kind == "multilabel":
        for column, name in enumerate(target.classes):
            columns[f"label_{name}"] = pa.array(labels.numbers[:, column], mask=labels.numbers[:, column] < 0)
    for name, values in zip(target.score_names, scores.T, strict=True):
        columns[name] = values
    for name in utterances.column_names:
        if name in columns and name in target.labels:
            continue
        if name not in _NOT_TO_GROUP_BY and not pa.types.is_nested(utterances.schema.field(name).type):
            columns[f"manifest_{name}" if name in columns else name] = utterances[name]
    return pa.table(columns)


def prediction_texts(target: Target, predicted: npt.NDArray[np.int64]) -> list[str]:
    """Return decisions (U,), or (U, L) of 0 and 1, as texts: the class, or the labels that apply, joined by commas."""
    if target.kind == "multilabel":
        return [_applying(row, target.classes) for row in predicted]
    return [target.classes[number] for number in predicted]


def _applying(row: npt.NDArray[np.int64], names: Sequence[str]) -> str:
    return ",".join(name for name, value in zip(names, row, strict=True) if value == 1)


def comparable(trials: pa.Table, target: Target) -> tuple[pa.Table, Labels]:
    """Return the trials whose label is a class that the model has learned, and their labels."""
    columns = [f"label_{name}" for name in target.classes] if target.kind == "multilabel" else ["label"]
    texts = [[None if text is None else str(text) for text in trials[name].to_pylist()] for name in columns]
    known = number_labels(target, texts).known
    chosen = np.flatnonzero(known)
    return trials.take(chosen), number_labels(target, [[column[row] for row in chosen] for column in texts])


def measurable(trials: pa.Table, labels: Labels) -> Trials | None:
    """Convert trials to the form that `scoring` measures; None if there is nothing to measure.

    Detection gives detection metrics (where both classes occur) with accuracy, UAR and macro F1; classification the
    latter with AUC per class (one against all others); several labels give AUC and average precision each.
    """
    target = labels.target
    if not trials.num_rows:
        return None
    scores = np.column_stack([trials[name].to_numpy() for name in target.score_names]).astype(np.float64)
    if target.kind == "multilabel":
        return MultiLabelTrials(np.where(labels.numbers < 0, np.nan, labels.numbers), scores, target.classes)
    predicted = _predicted(trials, target)
    views: list[Trials] = [ClassificationTrials(labels.numbers, predicted, len(target.classes))]
    if target.kind == "detection":
        positive = labels.numbers == target.positive
        if positive.any() and not positive.all():
            views.insert(0, DetectionTrials(scores[:, 0], positive))
    else:
        truth = np.eye(len(target.classes))[labels.numbers]
        views.append(_AucOnly(MultiLabelTrials(truth, scores, target.classes)))
    return JointTrials(*views)


class _AucOnly:
    def __init__(self, trials: MultiLabelTrials) -> None:
        self.trials = trials
        self.num_trials = trials.num_trials

    def measure(self, weights_RN: Ints) -> dict[str, npt.NDArray[np.float64]]:
        metrics = self.trials.measure(weights_RN)
        return {name: values for name, values in metrics.items() if name == "mean_auc" or name.startswith("auc.")}


def scores_table(trials: pa.Table, target: Target) -> pa.Table:
    """Return the content of scores.tsv: utterance_id, scores, prediction."""
    return trials.select(["utterance_id", *target.score_names, "prediction"])


def split_names(trials: pa.Table) -> list[str]:
    """Return the splits in order of first appearance."""
    return list(dict.fromkeys(trials["split"].to_pylist()))


def of_split(trials: pa.Table, split: str) -> pa.Table:
    """Return the trials of one split."""
    return trials.filter(pc.equal(trials["split"], split))


def summarize(trials: pa.Table, target: Target, *, replicates: int, seed: int) -> dict[str, Any]:
    """Return the content of metrics.json about the trials of each split.

    Returns
    -------
    `kind`; `metrics.<split>.<name>` = {value, low, high} with intervals over utterances; `metrics_by_speaker`, the same
    where speakers are known, with intervals over speakers: wider, for the utterances of one speaker are alike; and
    `counts.<split>` of utterances scored, and of those measured, whose label the model has learned.
    """
    found: dict[str, Any] = {"kind": target.kind, "metrics": {}, "metrics_by_speaker": {}, "counts": {}}
    for split in split_names(trials):
        part = of_split(trials, split)
        measured, _ = comparable(part, target)
        found["counts"][split] = {"scored": part.num_rows, "measured": measured.num_rows}
        if not measured.num_rows:
            continue
        found["metrics"][split] = as_json(metrics(measured, target, replicates=replicates, seed=seed))
        if "speaker" in measured.column_names and replicates and pc.count_distinct(measured["speaker"]).as_py() > 1:
            by = metrics(measured, target, by="speaker", replicates=replicates, seed=seed)
            found["metrics_by_speaker"][split] = as_json(by)
    return found


def unseen_classes(trials: pa.Table, target: Target) -> list[str]:
    """Return a line for each split with utterances of classes that training never saw, with accuracy counted both ways.

    Such utterances have scores and are in no metric; scikit-learn would count each as an error.
    """
    if target.kind == "multilabel":
        return _neither_yes_nor_no(trials, target)
    lines = []
    for split in split_names(trials):
        part = of_split(trials, split)
        texts = [None if text is None else str(text) for text in part["label"].to_pylist()]
        unseen = Counter(text for text in texts if text and text not in target.classes)
        if not unseen:
            continue
        measured, labels = comparable(part, target)
        num_right = int((_predicted(measured, target) == labels.numbers).sum())
        num_labelled = measured.num_rows + unseen.total()
        shown = ", ".join(f"{name} ({count:,})" for name, count in unseen.most_common(5))
        without = f"{num_right / measured.num_rows:.4f}" if measured.num_rows else "undefined"
        shown += ", ..." if len(unseen) > 5 else ""
        lines.append(
            f"{split}: {unseen.total():,} of {num_labelled:,} utterances are of a class that training never saw: "
            f"{shown}; they are in no metric. Accuracy {without} without them, "
            f"{num_right / num_labelled:.4f} if each counts as an error"
        )
    return lines


def _neither_yes_nor_no(trials: pa.Table, target: Target) -> list[str]:
    """Return a line for each split and label with values that are neither yes nor no."""
    lines = []
    for split in split_names(trials):
        part = of_split(trials, split)
        for name in target.classes:
            values = part[name].drop_null().to_pylist() if name in part.column_names else []
            known = part[f"label_{name}"].drop_null()
            if len(values) > len(known):
                lines.append(
                    f"{split}: {len(values) - len(known):,} of {len(values):,} values of label {name} are neither yes "
                    "nor no; they are in no metric"
                )
    return lines


def confusions(trials: pa.Table, target: Target) -> dict[str, pa.Table]:
    """Return the tables `confusion-<split>`; empty if labels do not exclude each other."""
    if target.kind == "multilabel":
        return {}
    parts = {split: comparable(of_split(trials, split), target)[0] for split in split_names(trials)}
    return {f"confusion-{split}": confusion(part, target) for split, part in parts.items() if part.num_rows}


def metrics(trials: pa.Table, target: Target, *, by: str | None = None, replicates: int, seed: int) -> Metrics:
    """Compute metrics with 95 % bootstrap intervals.

    Parameters
    ----------
    trials : of one split.
    by : column whose values are drawn completely (speakers); None draws utterances. Trials without a value are left
        out.
    replicates : of the bootstrap; 0 for values without intervals.
    """
    if by is not None:
        trials = trials.filter(pc.is_valid(trials[by]))
    trials, labels = comparable(trials, target)
    measured = measurable(trials, labels)
    if measured is None:
        return {}
    groups = None if by is None else trials[by].to_numpy()
    return bootstrap(measured, groups=groups, num_replicates=replicates, seed=seed)


def confusion(trials: pa.Table, target: Target) -> pa.Table:
    """Count trials, in one row per true class and one column per predicted class."""
    trials, labels = comparable(trials, target)
    counts = confusion_matrix(labels.numbers, _predicted(trials, target), len(target.classes))
    return pa.Table.from_arrays(
        [pa.array(target.classes, pa.string()), *(pa.array(column) for column in counts.T)],
        names=["true_class", *target.classes],
    )


def breakdown(trials: pa.Table, target: Target, columns: Sequence[str], *, replicates: int, seed: int) -> pa.Table:
    """Compute metrics for each value of a column, or each combination of values, with counts and intervals.

    In a detection task a column that distinguishes only negative trials, such as the attack, does not divide the
    positive ones: see `voxshard.scoring.breakdown.detection_by_group`.

    Raises
    ------
    ConfigError : no such column; lists those there are.
    """
    missing = [name for name in columns if name not in trials.column_names]
    if missing:
        skip = {"utterance_id", "prediction", *target.score_names}
        there = [name for name in trials.column_names if name not in skip]
        raise ConfigError(f"--group-by {','.join(missing)}: no such column; columns here: {', '.join(there)}")
    trials, labels = comparable(trials, target)
    values = {name: trials[name].to_pylist() for name in columns}
    if target.kind == "detection":
        positive = labels.numbers == target.positive
        cells = detection_by_group(trials["score"].to_numpy(), positive, values, num_replicates=replicates, seed=seed)
    elif target.kind == "classification":
        predicted = _predicted(trials, target)
        cells = classification_by_group(
            labels.numbers, predicted, len(target.classes), values, num_replicates=replicates, seed=seed
        )
    else:
        cells = _multilabel_by_group(trials, target, values, replicates, seed)
    return table_of([
        {
            "+".join(columns): "+".join(value or "" for value in cell.group.values()),
            "count": sum(cell.counts.values()),
            **_renamed(cell.counts),
            **_flat({name: item.to_json() for name, item in cell.metrics.items()}),
        }
        for cell in cells
    ])  # fmt: skip


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    """Return a table with one row per mapping; missing keys are null."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: [row.get(name) for row in rows] for name in names})


def _multilabel_by_group(
    trials: pa.Table, target: Target, columns: Mapping[str, Sequence[Any]], replicates: int, seed: int
) -> list[Cell]:
    keys = [
        tuple(None if value is None else str(value) for value in row) for row in zip(*columns.values(), strict=True)
    ]
    cells = []
    for key in sorted(set(keys), key=lambda key: [(value is None, value or "") for value in key]):
        part = trials.filter(pa.array([other == key for other in keys]))
        found = metrics(part, target, replicates=replicates, seed=seed)
        cells.append(Cell(dict(zip(columns, key, strict=True)), {"num_trials": part.num_rows}, found))
    return cells


def _renamed(counts: Mapping[str, int]) -> dict[str, int]:
    """Rename counts, because a detector's classes need not be bona fide and spoof."""
    names = {"num_bonafide": "num_positive", "num_spoof": "num_negative"}
    return {names[name]: count for name, count in counts.items() if name in names}


def _flat(found: Mapping[str, Mapping[str, float | None]]) -> dict[str, float | None]:
    """Return each metric as the columns metric, metric_low and metric_high."""
    row: dict[str, float | None] = {}
    for name, estimate in found.items():
        row |= {name: estimate["value"], f"{name}_low": estimate["low"], f"{name}_high": estimate["high"]}
    return row


def _predicted(trials: pa.Table, target: Target) -> npt.NDArray[np.int64]:
    numbers = {name: number for number, name in enumerate(target.classes)}
    return np.array([numbers[name] for name in trials["prediction"].to_pylist()], np.int64)


def as_json(found: Mapping[str, Interval]) -> dict[str, dict[str, float | None]]:
    """Convert metrics to the form in metrics.json."""
    return {name: interval.to_json() for name, interval in found.items()}
