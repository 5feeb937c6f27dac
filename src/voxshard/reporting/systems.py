"""Conversion of run directories to the systems of a report."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from voxshard import files
from voxshard.config import dump_yaml
from voxshard.errors import CorruptFileError, IncompleteError
from voxshard.reporting import curves
from voxshard.reporting.report_data import (
    Breakdown,
    FewShot,
    Group,
    Kind,
    MetricEstimate,
    SplitResult,
    System,
    TrainingCurve,
)
from voxshard.store.runs import Run, file_name

FOLDS = "folds"
"""Name of the split and of the table that cross-validation leaves."""

_OF_ONE_RUN = ("seed", "created", "software", "fingerprint")
"""Keys of a run's config that differ between repetitions."""


@dataclass(frozen=True)
class PredictedTarget:
    """Target of a run, from its model.json."""

    kind: Kind
    classes: Sequence[str]
    positive: str | None
    """Class for which scores are high, in detection."""
    software: Mapping[str, str]

    @classmethod
    def of(cls, run: Run) -> PredictedTarget:
        """Read the target from model.json; the model itself is not opened."""
        path = run.model / "model.json"
        try:
            about = json.loads(files.read_bytes(path))
            target, classes = about["target"], [str(name) for name in about["target"]["classes"]]
            positive = target.get("positive")
            return cls(
                target["kind"], classes, None if positive is None else classes[positive], about.get("software", {})
            )
        except FileNotFoundError as exc:
            raise IncompleteError(f"{path}: missing; train the run again") from exc
        except (OSError, ValueError, KeyError, TypeError, IndexError) as exc:
            raise CorruptFileError(f"{path}: not what voxshard writes: {exc!r}; train the run again") from exc


def load_system(run: Run, name: str) -> System:
    """Read the data of one run, under a name that is unique in the report.

    Raises
    ------
    VoxshardError : the run is incomplete or damaged; reports which file and what to do.
    """
    config, target = run.config, PredictedTarget.of(run)
    splits: dict[str, SplitResult] = {}
    found: Mapping[str, pa.Table] = {}
    content: Mapping[str, Any] = {}
    if run.metrics_file.exists():
        content, found = run.metrics, run.tables()
        trials = run.trials() if run.trials_file.exists() else None
        by_speaker = content.get("metrics_by_speaker", {})
        for split, metrics in content["metrics"].items():
            here = None if trials is None else known_trials(trials, split, target)
            estimates, over_speakers = _estimates(metrics), _estimates(by_speaker.get(split, {}))
            splits[split] = _split_result(split, estimates, over_speakers, target, here, found)
    return System(
        name=name,
        kind=target.kind,
        label=", ".join(config["label"]),
        features="+".join(item["name"] for item in config["features"]),
        classifier=config["classifier"],
        seed=config.get("seed"),
        settings=json.dumps({key: value for key, value in config.items() if key not in _OF_ONE_RUN}, sort_keys=True),
        splits=splits,
        few_shot=_few_shot(found.get("n-shot")),
        training=training_curves(found.get("training-curve"), found.get("training")),
        config=dump_yaml(dict(config)),
        facts=_facts(config, content, target),
        notes=content.get("notes", []),
        not_scored=""
        if any(part.metrics for part in splits.values())
        else "trained, but no split with labels was scored.",
    )


def _facts(config: Mapping[str, Any], content: Mapping[str, Any], target: PredictedTarget) -> dict[str, str]:
    training = content.get("counts", {}).get("training", {})
    shots = config.get("n_shot")
    facts = {
        "features": "; ".join(f"{item['name']} ({item['fingerprint'][:12]}…)" for item in config["features"]),
        "classifier": config["classifier"],
        "label": ", ".join(config["label"]),
        "classes": _listed(target.classes),
        "higher scores mean": target.positive or "",
        "trained on": f"{training['utterances']:,} utterances" if "utterances" in training else "",
        "results on complete splits": f"{max(shots)} examples per class, first run" if shots else "",
        "software": ", ".join(f"{package} {version}" for package, version in target.software.items()),
        "created": moment(config.get("created", "")),
    }
    return {key: value for key, value in facts.items() if value}


def _few_shot(rows: pa.Table | None) -> list[FewShot]:
    """Convert the table `n-shot`, which has the columns shots, run, split and one per metric."""
    if rows is None:
        return []
    names = [name for name in rows.column_names if name not in ("shots", "run", "split")]
    collected: dict[tuple[str, int], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows.to_pylist():
        collected[str(row["split"]), int(row["shots"])].append(row)
    return [
        FewShot(
            split=split,
            num_shots=shots,
            metrics={name: [row[name] for row in here if row[name] is not None] for name in names},
        )
        for (split, shots), here in sorted(collected.items())
    ]


def _listed(names: Sequence[str], limit: int = 200) -> str:
    """Join names up to about `limit` characters."""
    shown = [name for place, name in enumerate(names) if not place or len(", ".join(names[: place + 1])) <= limit]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more


def _estimates(metrics: Mapping[str, Mapping[str, float | None]]) -> dict[str, MetricEstimate]:
    return {name: MetricEstimate(item["value"], item.get("low"), item.get("high")) for name, item in metrics.items()}


def known_trials(trials: pa.Table, split: str, target: PredictedTarget) -> pa.Table:
    """Return the labelled trials of a split whose label the model has learned; metrics are computed from these."""
    here = pc.fill_null(pc.equal(trials["split"], split), False)
    trials = trials.filter(pc.and_(here, pc.is_valid(trials["label"])))
    if target.kind == "multilabel":
        return trials
    return trials.filter(pc.is_in(trials["label"].cast(pa.string()), pa.array(target.classes, pa.string())))


def training_curves(*tables: pa.Table | None) -> list[TrainingCurve]:
    """Convert a network's tables with the column `epoch` and one column per quantity, empty if not measured. A quantity
    in several tables is taken from the first."""
    curves: dict[str, TrainingCurve] = {}
    for rows in tables:
        if rows is None:
            continue
        epochs = rows["epoch"].to_numpy().astype(np.float64)
        for name in rows.column_names:
            if name in curves or name == "epoch" or not pa.types.is_floating(rows.schema.field(name).type):
                continue
            values = rows[name].to_numpy()
            there = np.isfinite(values)
            if there.any():
                curves[name] = TrainingCurve(name=name, epochs=epochs[there], values=values[there])
    return list(curves.values())


def _split_result(
    split: str,
    metrics: dict[str, MetricEstimate],
    by_speaker: dict[str, MetricEstimate],
    target: PredictedTarget,
    trials: pa.Table | None,
    found: Mapping[str, pa.Table],
) -> SplitResult:
    breakdowns = [
        part
        for stem, rows in found.items()
        if stem == f"by-{file_name(rows.column_names[0])}-{file_name(split)}" or stem == split == FOLDS
        if (part := _breakdown(rows)) is not None
    ]
    result: dict[str, Any] = {"metrics": metrics, "by_speaker": by_speaker, "breakdowns": breakdowns}
    if trials is None:
        return SplitResult(**result)
    result["num_utterances"] = trials.num_rows
    if not trials.num_rows or target.kind == "multilabel":
        return SplitResult(**result)
    truth = texts(trials["label"])
    result["confusion"] = curves.confusion(truth, texts(trials["prediction"]), target.classes)
    if target.kind == "detection" and len(set(truth.tolist())) == 2:
        scores, positive = trials["score"].to_numpy().astype(np.float64), target.positive
        result["error_curve"], threshold = curves.error_curve(scores, truth == positive)
        order = sorted(target.classes, key=lambda name: name != positive)
        result["histogram"] = curves.score_histogram(scores, truth, order, threshold)
    return SplitResult(**result)


def _breakdown(rows: pa.Table) -> Breakdown | None:
    """Convert a table `by-<column>-<split>` or `folds`: the column, counts (`count`, `num_*`), metrics, `_low`,
    `_high`."""
    column, *others = rows.column_names
    ends = {f"{name}_{end}" for name in others for end in ("low", "high")}
    names = [name for name in others if name != "count" and not name.startswith("num_") and name not in ends]
    groups = [
        Group(
            name="(none)" if row[column] in (None, "") else str(row[column]),
            num_utterances=row["count"],
            metrics={
                name: MetricEstimate(row[name], row.get(f"{name}_low"), row.get(f"{name}_high")) for name in names
            },
        )
        for row in rows.to_pylist()
    ]
    return Breakdown(column=column, groups=groups) if groups else None


def moment(text: str) -> str:
    """Format an ISO 8601 time for readers."""
    return text.replace("T", " ").replace("+00:00", " UTC")


def texts(column: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    """Return a column as Python texts."""
    return np.array(column.cast(pa.string()).to_pylist(), dtype=object)
