"""Sequence of every training of classifiers and networks: fit, test on the other splits, publish the run.

A training fits one model, or several on few examples each, or one per fold.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from voxshard import __version__
from voxshard.errors import DataError
from voxshard.learning import few_shot, folds, results
from voxshard.learning.data import ManifestColumns
from voxshard.learning.labels import Labels
from voxshard.learning.model import Target
from voxshard.learning.network_config import NetworkConfig
from voxshard.learning.train_config import TrainConfig
from voxshard.locations import as_path
from voxshard.progress import Progress, counted
from voxshard.store.runs import publish_run

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

ModelT = TypeVar("ModelT")

FOLDS = "folds"
"""Name of the split that cross-validation tests: every utterance by the model that has not seen its fold."""


@dataclass
class BaseTrainer(ABC, Generic[ModelT]):
    """Base class of objects that fit models to utterances and score utterances with them."""

    config: TrainConfig | NetworkConfig
    data: ManifestColumns
    labels: Labels
    progress: Progress
    notes: list[str] = field(default_factory=list, kw_only=True)
    """Messages that are stored with the results."""

    PACKAGES: ClassVar[tuple[str, ...]]
    """Names of distributions whose versions the run records."""

    @property
    @abstractmethod
    def num_folds(self) -> int | None:
        """Number of folds over which the groups are distributed; None: each value of the column is one fold."""

    @abstractmethod
    def fit(self, utterances: Ints, seed: int, what: str) -> ModelT:
        """Fit a model to some utterances."""

    @abstractmethod
    def trials(self, model: ModelT, utterances: Ints, split: str) -> pa.Table:
        """Score utterances and return rows for trials.parquet."""

    @abstractmethod
    def write(self, model: ModelT, folder: Path) -> dict[str, Any]:
        """Write the model into a folder and return the entries of config.yaml that describe it."""

    @abstractmethod
    def training_counts(self, utterances: Ints) -> dict[str, Any]:
        """Return facts about the training utterances for metrics.json, in addition to their number."""

    def is_publisher(self, model: ModelT) -> bool:
        """Whether this process publishes the run; only one of several that train together does."""
        return True

    def training_tables(self, model: ModelT) -> dict[str, pa.Table]:
        """Return tables about the training itself, by name."""
        return {}

    @property
    def is_part(self) -> bool:
        """Whether this fit is one of several whose progress is displayed together."""
        return bool(self.config.n_shot or self.config.folds)

    def note(self, *messages: str) -> None:
        """Report a message and store it with the results."""
        for message in messages:
            if message not in self.notes:
                self.notes.append(message)
                self.progress.note(message)


def run(trainer: BaseTrainer[ModelT], split: str | None, in_split: Mask, inputs: Mapping[str, Any]) -> bool:
    """Train and test as the trainer's config specifies, and publish the run.

    Parameters
    ----------
    split, in_split : the split that is trained on, see `split_to_train_on`.
    inputs : see `training_inputs`.

    Returns
    -------
    Whether this process published it.
    """
    config = trainer.config
    chosen = _labelled(trainer, in_split)
    tested = _tested_splits(trainer, split)
    trials: list[pa.Table] = []
    tables: dict[str, pa.Table] = {}
    facts: dict[str, Any] = {}
    if config.folds:
        trials.append(_cross_validate(trainer, chosen, config.folds, tables))
        model = trainer.fit(chosen, config.seed, "training on all folds")
    elif config.n_shot:
        model, chosen = _few_shot_curve(trainer, chosen, tested, tables, facts)
    else:
        model = trainer.fit(chosen, config.seed, "training")
    if not trainer.is_publisher(model):
        return False
    trainer.progress.begin("score", items=len(tested))
    for name, rows in tested.items():
        trials.append(trainer.trials(model, rows, name))
        trainer.progress.advance()
    if not trials:
        trainer.note("no other split has labels: the model is kept, nothing was measured")
        trials = [trainer.trials(model, np.empty(0, np.int64), "")]
    tables |= trainer.training_tables(model)
    _publish(trainer, model, pa.concat_tables(trials), tables, facts, chosen, split, inputs)
    return True


def split_to_train_on(config: TrainConfig | NetworkConfig, data: ManifestColumns) -> tuple[str | None, Mask]:
    """Return the split to train on (None for all utterances), and which utterances have it, (U,).

    Raises
    ------
    DataError : none has.
    """
    split = config.split or (None if config.folds else "train")
    in_split = data.in_split(split)
    if not in_split.any():
        raise DataError(
            f"no utterance has split {split!r}; splits here: {data.splits_text}. Give --split, or test in folds: "
            "--folds COLUMN, such as speaker, or --folds utterance_id --set num_folds=5"
        )
    return split, in_split


def _labelled(trainer: BaseTrainer[ModelT], in_split: Mask) -> Ints:
    """Return the labelled utterances to train on, and report how many have no label."""
    chosen = np.flatnonzero(in_split & trainer.labels.known)
    num_unlabelled = int(in_split.sum()) - len(chosen)
    if num_unlabelled:
        trainer.note(f"left out, because they have no label: {counted(num_unlabelled, 'training utterance')}")
    return chosen


def _tested_splits(trainer: BaseTrainer[ModelT], split: str | None) -> dict[str, Ints]:
    """Return the labelled utterances of every split except the one trained on; empty if all splits are trained on."""
    data, given = trainer.data, trainer.labels.given
    names = [] if split is None else [name for name in data.split_names if name != split]
    found = {name: np.flatnonzero(data.in_split(name)) for name in names}
    return {name: rows for name, rows in found.items() if given[rows].any()}


def _cross_validate(trainer: BaseTrainer[ModelT], chosen: Ints, column: str, tables: dict[str, pa.Table]) -> pa.Table:
    """Test every utterance with a model that was not trained on its fold; adds the table `folds`."""
    target = trainer.labels.target
    values = trainer.data.column(column, option="--folds")
    assigned, names = folds.assign([values[row] for row in chosen], trainer.num_folds, column=column)
    if (assigned < 0).any():
        trainer.note(f"in no fold, because they have no {column}: {counted(int((assigned < 0).sum()), 'utterance')}")
    parts, rows = [], []
    trainer.progress.begin(f"folds of {column}", items=len(names))
    for number, name in enumerate(names):
        trained_on, tested = chosen[(assigned >= 0) & (assigned != number)], chosen[assigned == number]
        model = trainer.fit(trained_on, trainer.config.seed, f"fold {name}")
        parts.append(trainer.trials(model, tested, FOLDS))
        rows.append({"fold": name, "count": len(tested), **_values(parts[-1], target)})
        trainer.progress.advance()
    tables[FOLDS] = results.table_of(rows)
    return pa.concat_tables(parts)


def _few_shot_curve(
    trainer: BaseTrainer[ModelT],
    chosen: Ints,
    tested: Mapping[str, Ints],
    tables: dict[str, pa.Table],
    facts: dict[str, Any],
) -> tuple[ModelT, Ints]:
    """Train on few examples several times; adds the tables `n-shot` and `n-shot-mean`.

    Returns
    -------
    The model of the most examples, first run, and these examples.
    """
    config, target = trainer.config, trainer.labels.target
    rows: list[dict[str, Any]] = []
    kept: tuple[ModelT, Ints] | None = None
    trainer.progress.begin("few-shot trainings", items=len(config.n_shot) * config.runs)
    for shots in reversed(config.n_shot):
        for run in range(config.runs):
            numbers = trainer.labels.numbers[chosen]
            drawn = chosen[few_shot.draw(numbers, shots, names=target.classes, seed=config.seed, run=run)]
            model = trainer.fit(drawn, config.seed + run, f"{counted(shots, 'example')} per class, run {run}")
            kept = kept or (model, drawn)
            for split, utterances in tested.items():
                found = _values(trainer.trials(model, utterances, split), target)
                rows.append({"shots": shots, "run": run, "split": split, **found})
            trainer.progress.advance()
    tables["n-shot"] = results.table_of(rows[::-1])
    curve = _curve(rows, config.n_shot)
    tables["n-shot-mean"] = results.table_of(curve)
    facts["n_shot"] = curve
    assert kept is not None
    return kept


def _curve(rows: list[dict[str, Any]], n_shot: Iterable[int]) -> list[dict[str, Any]]:
    """Return mean and sample standard deviation (n - 1) over the runs."""
    curve = []
    for split in dict.fromkeys(row["split"] for row in rows):
        for shots in n_shot:
            here = [row for row in rows if row["split"] == split and row["shots"] == shots]
            for metric in (name for name in here[0] if name not in ("shots", "run", "split")):
                values = [row[metric] for row in here if row[metric] is not None]
                curve.append(
                    {
                        "split": split,
                        "shots": shots,
                        "metric": metric,
                        "mean": fmean(values) if values else None,
                        "deviation": stdev(values) if len(values) > 1 else None,
                        "runs": len(values),
                    }
                )
    return curve


def _values(trials: pa.Table, target: Target) -> dict[str, float | None]:
    return {name: item.value for name, item in results.metrics(trials, target, replicates=0, seed=0).items()}


def _publish(
    trainer: BaseTrainer[ModelT],
    model: ModelT,
    trials: pa.Table,
    tables: Mapping[str, pa.Table],
    facts: Mapping[str, Any],
    chosen: Ints,
    split: str | None,
    inputs: Mapping[str, Any],
) -> None:
    config, target = trainer.config, trainer.labels.target
    summary = results.summarize(trials, target, replicates=config.replicates, seed=config.seed)
    trainer.note(*results.unseen_classes(trials, target))
    with publish_run(as_path(config.out)) as run:
        described = trainer.write(model, run.model)
        run.write_inputs(inputs)
        run.write_trials(trials)
        run.write_scores(results.scores_table(trials, target))
        for name, table in {**tables, **results.confusions(trials, target)}.items():
            run.write_table(name, table)
        counts = {"utterances": len(chosen), **trainer.training_counts(chosen)}
        summary["counts"] = {"training": counts, **summary["counts"]}
        run.write_metrics({**summary, **facts, "notes": trainer.notes})
        run.write_config(
            {
                "label": list(target.labels),
                "kind": target.kind,
                "classes": list(target.classes),
                **described,
                "split": split,
                "splits": [name for name in results.split_names(trials) if name],
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "software": {"voxshard": __version__, **{name: version(name) for name in trainer.PACKAGES}},
            }
        )
