"""A training from features to a run directory: once, on few examples, or by cross-validation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from statistics import fmean, stdev
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from voxshard import __version__
from voxshard.errors import DataError
from voxshard.learning import few_shot, folds, results
from voxshard.learning.data import Dataset, ManifestColumns
from voxshard.learning.labels import Labels, label_texts, learn_target, number_labels
from voxshard.learning.model import Model, Target
from voxshard.learning.network_config import NetworkConfig
from voxshard.learning.train_config import TrainConfig
from voxshard.learning.training import Check, Trainer
from voxshard.learning.training_inputs import inputs_of
from voxshard.locations import as_path, local_copy
from voxshard.progress import Progress
from voxshard.store.runs import check_is_run, publish_run

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

ModelT = TypeVar("ModelT")


class Experimenter(Protocol[ModelT]):
    """Who fits and tests: `Trainer` for classifiers on features, another one for networks from audio."""

    config: Any
    """A config with `folds`, `n_shot`, `runs` and `seed`."""
    labels: Labels
    progress: Progress

    @property
    def settings(self) -> Any:
        """Return settings with `num_folds`."""

    @property
    def data(self) -> ManifestColumns: ...

    def fit(self, utterances: Ints, seed: int, what: str) -> ModelT: ...

    def trials(self, model: ModelT, utterances: Ints, split: str) -> pa.Table: ...

    def note(self, *messages: str) -> None: ...


FOLDS = "folds"
"""Name of the split that cross-validation tests: every utterance by the model that has not seen its fold."""


def train(config: TrainConfig, progress: Progress, check: Check) -> None:
    """Train and test as `config` specifies, and publish the run.

    Raises
    ------
    ConfigError, DataError : what is wrong with the config or the features; nothing is published.
    """
    settings = config.classifier_settings()
    check_is_run(as_path(config.out))
    inputs = inputs_of(config)
    data = Dataset.open([local_copy(path) for path in config.features], layer=settings.layer)
    texts = label_texts(data.table, config.label)
    split, in_split = split_to_train_on(config, data)
    labels = number_labels(learn_target(config.label, texts, in_split, settings.positive), texts)
    trainer = Trainer(config, settings, data, labels, progress, check)
    chosen = labelled_rows(trainer, in_split)
    _say_what_is_missing(trainer)
    tested = tested_splits(trainer, split)
    trials: list[pa.Table] = []
    tables: dict[str, pa.Table] = {}
    facts: dict[str, Any] = {}
    if config.folds:
        trials.append(cross_validate(trainer, chosen, tables))
        model = trainer.fit(chosen, config.seed, "training on all folds")
    elif config.n_shot:
        model, chosen = few_shot_curve(trainer, chosen, tested, tables, facts)
    else:
        progress.begin(f"train {config.classifier}", items=1)
        model = trainer.fit(chosen, config.seed, "training")
        progress.advance()
    trials += [trainer.trials(model, rows, name) for name, rows in tested.items()]
    if not trials:
        trainer.note("no other split has labels: the model is kept, nothing was measured")
        trials = [trainer.trials(model, np.empty(0, np.int64), "")]
    _publish(trainer, model, pa.concat_tables(trials), tables, facts, chosen, split, inputs)


def split_to_train_on(config: TrainConfig | NetworkConfig, data: ManifestColumns) -> tuple[str | None, Mask]:
    """The split that is trained on, None for all of them, and (U,) which utterances have it.

    Raises
    ------
    DataError : none has.
    """
    split = config.split or (None if config.folds else "train")
    in_split = data.in_split(split)
    if not in_split.any():
        raise DataError(
            f"no utterance has split {split!r}; splits here: {data.splits_text}. Give --split, or --folds COLUMN"
        )
    return split, in_split


def labelled_rows(trainer: Experimenter[ModelT], in_split: Mask) -> Ints:
    """The utterances to train on; reports how many of the split have no label."""
    chosen = np.flatnonzero(in_split & trainer.labels.known)
    num_unlabelled = int(in_split.sum()) - len(chosen)
    if num_unlabelled:
        trainer.note(f"{num_unlabelled:,} training utterances have no label and are left out")
    return chosen


def tested_splits(trainer: Experimenter[ModelT], split: str | None) -> dict[str, Ints]:
    """The utterances of every split with labels but the one trained on; none where all splits are trained on."""
    data, given = trainer.data, trainer.labels.given
    names = [] if split is None else [name for name in data.split_names if name != split]
    found = {name: np.flatnonzero(data.in_split(name)) for name in names}
    return {name: rows for name, rows in found.items() if given[rows].any()}


def _say_what_is_missing(trainer: Trainer) -> None:
    data = trainer.data
    if data.num_missing:
        trainer.note(f"{data.num_missing:,} utterances are not in every feature set and are left out")
    if data.num_without_rows:
        trainer.note(f"{data.num_without_rows:,} utterances are too short for a single frame or window")


def cross_validate(trainer: Experimenter[ModelT], chosen: Ints, tables: dict[str, pa.Table]) -> pa.Table:
    """Test every utterance with a model that has not seen its fold; adds the table `folds`."""
    config, target = trainer.config, trainer.labels.target
    assert config.folds is not None
    column = trainer.data.column(config.folds, option="--folds")
    assigned, names = folds.assign([column[row] for row in chosen], trainer.settings.num_folds, column=config.folds)
    if (assigned < 0).any():
        trainer.note(f"{int((assigned < 0).sum()):,} utterances have no {config.folds} and are in no fold")
    parts, rows = [], []
    trainer.progress.begin(f"folds of {config.folds}", items=len(names))
    for number, name in enumerate(names):
        trained_on, tested = chosen[(assigned >= 0) & (assigned != number)], chosen[assigned == number]
        model = trainer.fit(trained_on, config.seed, f"fold {name}")
        parts.append(trainer.trials(model, tested, FOLDS))
        rows.append({"fold": name, "count": len(tested), **_values(parts[-1], target)})
        trainer.progress.advance()
    tables[FOLDS] = table_of(rows)
    return pa.concat_tables(parts)


def few_shot_curve(
    trainer: Experimenter[ModelT],
    chosen: Ints,
    tested: Mapping[str, Ints],
    tables: dict[str, pa.Table],
    facts: dict[str, Any],
) -> tuple[ModelT, Ints]:
    """Train on few examples, several times; adds the tables `n-shot` and `n-shot-mean`.

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
            model = trainer.fit(drawn, config.seed + run, f"{shots} examples per class, run {run}")
            kept = kept or (model, drawn)
            for split, utterances in tested.items():
                found = _values(trainer.trials(model, utterances, split), target)
                rows.append({"shots": shots, "run": run, "split": split, **found})
            trainer.progress.advance()
    tables["n-shot"] = table_of(rows[::-1])
    curve = _curve(rows, config.n_shot)
    tables["n-shot-mean"] = table_of(curve)
    facts["n_shot"] = curve
    assert kept is not None
    return kept


def _curve(rows: list[dict[str, Any]], n_shot: Iterable[int]) -> list[dict[str, Any]]:
    """Mean and standard deviation (of a sample: n - 1) over the runs."""
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


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    """One row per mapping; what it lacks is null."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: [row.get(name) for row in rows] for name in names})


def _publish(
    trainer: Trainer,
    model: Model,
    trials: pa.Table,
    tables: Mapping[str, pa.Table],
    facts: Mapping[str, Any],
    chosen: Ints,
    split: str | None,
    inputs: Mapping[str, Any],
) -> None:
    config, target = trainer.config, model.target
    summary = results.summarize(trials, target, replicates=config.replicates, seed=config.seed)
    trainer.note(*results.unseen_classes(trials, target))
    with publish_run(as_path(config.out)) as run:
        model.write(run.model)
        run.write_inputs(inputs)
        run.write_trials(trials)
        run.write_scores(results.scores_table(trials, target))
        for name, table in {**tables, **results.confusions(trials, target)}.items():
            run.write_table(name, table)
        summary["counts"] = {"training": _training_counts(trainer, chosen), **summary["counts"]}
        run.write_metrics({**summary, **facts, "notes": trainer.notes})
        run.write_config(_resolved(trainer, model, split, results.split_names(trials)))


def _training_counts(trainer: Trainer, chosen: Ints) -> dict[str, Any]:
    labels = trainer.labels
    numbers = labels.numbers[chosen]
    if labels.target.kind == "multilabel":
        classes = {name: int((numbers[:, column] == 1).sum()) for column, name in enumerate(labels.target.classes)}
    else:
        classes = {name: int((numbers == number).sum()) for number, name in enumerate(labels.target.classes)}
    return {"utterances": len(chosen), "rows": trainer.data.num_rows(chosen), "classes": classes}


def _resolved(trainer: Trainer, model: Model, split: str | None, splits: list[str]) -> dict[str, Any]:
    config = trainer.config
    return {
        "features": [vars(source) for source in model.features],
        "label": list(config.label),
        "kind": model.target.kind,
        "classes": list(model.target.classes),
        "classifier": config.classifier,
        "settings": json.loads(trainer.settings.model_dump_json()),
        "join": model.join if trainer.data.is_joined else None,
        "seed": config.seed,
        "split": split,
        "splits": [name for name in splits if name],
        "folds": config.folds,
        "n_shot": list(config.n_shot),
        "runs": config.runs if config.n_shot else None,
        "replicates": config.replicates,
        "streamed": trainer.streamed,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "software": {"voxshard": __version__, **{name: version(name) for name in ("scikit-learn", "numpy", "scipy")}},
    }
