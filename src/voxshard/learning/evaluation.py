"""Scoring of a trained run on its own splits, with new labels, or on other features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from voxshard.errors import ConfigError, FeatureMismatchError, IncompleteError
from voxshard.learning import results
from voxshard.learning.data import ArrayRows, Dataset
from voxshard.learning.labels import label_texts, number_labels
from voxshard.learning.model import Model, Target
from voxshard.learning.results import prediction_texts
from voxshard.learning.train_config import EvaluateConfig
from voxshard.learning.train_flow import FOLDS
from voxshard.learning.training import Check, predict, trials_of
from voxshard.locations import as_path, local_copy, parse
from voxshard.manifest import Manifest
from voxshard.progress import Progress
from voxshard.store.features import FeatureSet
from voxshard.store.runs import Run


@dataclass(frozen=True)
class Evaluation:
    """Results of an evaluation."""

    kind: str
    """Kind of the prediction; see `Target`."""
    metrics: Mapping[str, Mapping[str, Any]]
    """Values as `[split][name]` = {value, low, high}."""
    tables: Mapping[str, pa.Table]
    """Confusion and breakdown tables by name."""
    counts: Mapping[str, Mapping[str, int]]
    """Numbers of utterances as `[split]` = {scored, measured}."""


def evaluate(config: EvaluateConfig, progress: Progress, check: Check) -> Evaluation:
    """Score and measure a trained classifier, and write the results into its run.

    Splits of the run's own features keep their names. What is scored on other features, or by another manifest, goes by
    `<its name>-<split>`, with its scores in `scores-<its name>.tsv`.

    Raises
    ------
    FeatureMismatchError : features of another fingerprint than those the model was trained on.
    ConfigError : a split or column that does not exist.
    """
    run = Run.read(as_path(config.run))
    model = Model.read(run.model)
    data, name = _open(config, run, model)
    data.check_made_for(model)
    there = [column for column in model.target.labels if column in data.table.column_names]
    texts = label_texts(data.table, there) if len(there) == len(model.target.labels) else None
    labels = number_labels(model.target, texts or [[None] * len(data)] * len(model.target.labels))
    if texts is None:
        progress.note(f"{data.sources[0].path} has no column {', '.join(model.target.labels)}: scored, not measured")
    scored = []
    splits = splits_to_score(config, run, data.split_names, name)
    progress.begin("score", items=len(splits))
    for split, title in splits.items():
        check()
        rows = np.flatnonzero(data.in_split(split))
        scores, predicted = predict(model, data, rows)
        scored.append(trials_of(data, labels, rows, title, scores, predicted))
        progress.advance()
    return record(config, run, model.target, scored, name, progress)


def record(
    config: EvaluateConfig, run: Run, target: Target, scored: Sequence[pa.Table], name: str | None, progress: Progress
) -> Evaluation:
    """Measure new trials, and write them into the run in place of earlier ones of the same splits.

    Parameters
    ----------
    name : what results on other data than the run's own go by; None for its own.
    """
    trials = _merged(run, scored)
    titles = [title for part in scored for title in results.split_names(part)]
    fresh = trials.filter(pa.array(np.isin(trials["split"].to_pylist(), titles)))
    summary = results.summarize(fresh, target, replicates=config.replicates, seed=run.config["seed"])
    tables = results.confusions(fresh, target)
    grouped = [*titles, FOLDS] if name is None and config.split in (None, FOLDS) else titles
    for columns in config.group_by:
        for title in grouped:
            part = results.of_split(trials, title)
            if part.num_rows:
                tables[f"by-{'+'.join(columns)}-{title}"] = results.breakdown(
                    part, target, columns, replicates=config.replicates, seed=run.config["seed"]
                )
    unseen = results.unseen_classes(fresh, target)
    _write(run, target, trials, fresh, summary, tables, name, unseen)
    _say_what_was_not_measured(summary["counts"], progress)
    for note in unseen:
        progress.note(note)
    shown = {title: run.metrics["metrics"][title] for title in grouped if title in run.metrics["metrics"]}
    return Evaluation(target.kind, shown, tables, summary["counts"])


def _open(config: EvaluateConfig, run: Run, model: Model) -> tuple[Dataset, str | None]:
    """Return the data to score, and the name of its results (None for the run's own data)."""
    own = [run.found(parse(source.path)) for source in model.features]
    given = [local_copy(path) for path in config.on]
    paths = [path for path in given if path.is_dir()]
    manifests = [path for path in given if not path.is_dir()]
    if len(manifests) > 1:
        raise ConfigError(f"--on: {len(manifests)} manifests; give one, or feature sets")
    if not paths:
        gone = [path for path in own if not path.is_dir()]
        if gone:
            raise IncompleteError(f"{gone[0]}: the features this run was trained on no longer exist; give --on DIR")
    manifest = Manifest.read(manifests[0]) if manifests else None
    data = Dataset.open(paths or own, layer=model.layer, manifest=manifest)
    if manifests:
        return data, manifests[0].stem
    is_own = not paths or [path.resolve() for path in paths] == own
    return data, None if is_own else "+".join(source.name for source in data.sources)


def predict_texts(run: Run, data: Sequence[FeatureSet] | npt.NDArray[Any]) -> list[str | None]:
    """Apply the classifier of a run to feature sets, or to rows (N, D) in memory.

    Returns
    -------
    The decision on each row, or on each utterance of the first set; None where it has no frame or window, or is not
    in every set.

    Raises
    ------
    FeatureMismatchError : features of another fingerprint, or of another size, than those the model was trained on.
    """
    model = Model.read(run.model)
    if isinstance(data, np.ndarray):
        rows = ArrayRows(data, layer=model.layer)
        wanted = model.pipelines[0].n_features_in_
        if rows.dim != wanted:
            raise FeatureMismatchError(f"an array {data.shape}: {rows.dim} values per row; {run.path} wants {wanted}")
        return [*prediction_texts(model.target, predict(model, rows, np.arange(len(data)))[1])]
    dataset = Dataset(data, layer=model.layer)
    dataset.check_made_for(model)
    texts = prediction_texts(model.target, predict(model, dataset, np.arange(len(dataset)))[1])
    of_id = dict(zip(dataset.table["utterance_id"].to_pylist(), texts, strict=True))
    return [of_id.get(name) for name in data[0].ids]


def splits_to_score(
    config: EvaluateConfig, run: Run, split_names: Sequence[str], name: str | None
) -> dict[str | None, str]:
    """Return the splits to score (None: everything), each with its name in the results.

    Raises
    ------
    ConfigError : the split asked for is not among `split_names`.
    """
    if config.split == FOLDS and FOLDS in run.config["splits"]:
        return {}  # its utterances were scored by models that are gone
    wanted: Sequence[str | None]
    if config.split is not None:
        if config.split not in split_names:
            there = ", ".join(split_names) or "none"
            raise ConfigError(f"--split {config.split}: no such split; splits here: {there}")
        wanted = [config.split]
    elif name is None:
        wanted = [split for split in run.config["splits"] if split in split_names]
    else:
        wanted = split_names or [None]
    return {split: "-".join(part for part in (name, split) if part is not None) for split in wanted}


def _merged(run: Run, scored: Sequence[pa.Table]) -> pa.Table:
    """Return the run's trials, with earlier ones of the same split name replaced by the new ones."""
    before = run.trials()
    replaced = {title for part in scored for title in results.split_names(part)}
    kept = before.filter(pa.array([title not in replaced for title in before["split"].to_pylist()], pa.bool_()))
    parts = [kept, *scored] if kept.num_rows else list(scored)
    return pa.concat_tables(parts, promote_options="permissive") if parts else before


def _write(
    run: Run,
    target: Target,
    trials: pa.Table,
    fresh: pa.Table,
    summary: Mapping[str, Any],
    tables: Mapping[str, pa.Table],
    name: str | None,
    unseen: Sequence[str],
) -> None:
    """Replace the run's files that changed; metrics.json is the last one."""
    before = run.metrics
    run.write_trials(trials)
    if name is None:
        own = {*results.split_names(fresh), *run.config["splits"]}
        mine = trials.filter(pa.array([title in own for title in trials["split"].to_pylist()], pa.bool_()))
        run.write_scores(results.scores_table(mine, target))
    else:
        run.write_scores(results.scores_table(fresh, target), of=name)
    for title, table in tables.items():
        run.write_table(title, table)
    updated = {key: {**before.get(key, {}), **summary[key]} for key in ("metrics", "metrics_by_speaker", "counts")}
    notes = [*before.get("notes", []), *(note for note in unseen if note not in before.get("notes", []))]
    run.write_metrics({**before, **updated, "notes": notes})


def _say_what_was_not_measured(counts: Mapping[str, Mapping[str, int]], progress: Progress) -> None:
    for split, count in counts.items():
        missing = count["scored"] - count["measured"]
        if missing:
            progress.note(
                f"{split}: {missing:,} of {count['scored']:,} utterances have no label, or one the model has not "
                "learned; they are scored, not measured"
            )
