"""A network's training from manifest to run directory: once, on few examples, or by cross-validation."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa

from voxshard import __version__
from voxshard.errors import ConfigError
from voxshard.learning import results
from voxshard.learning._torch.data import Ints
from voxshard.learning._torch.faults import reading_faults
from voxshard.learning._torch.trainer import FittedNetwork, NetworkTrainer
from voxshard.learning.data import ManifestColumns, source_of
from voxshard.learning.label_groups import learn_groups, number_groups, read_groups
from voxshard.learning.network_config import NetworkConfig
from voxshard.learning.stored_logmel import StoredLogMel
from voxshard.learning.train_classifier import (
    cross_validate,
    few_shot_curve,
    labelled_rows,
    split_to_train_on,
    table_of,
    tested_splits,
)
from voxshard.learning.training import Check
from voxshard.learning.training_inputs import inputs_of
from voxshard.locations import as_path, local_copy, origin
from voxshard.manifest import Manifest
from voxshard.networks.network_files import write_checkpoint
from voxshard.progress import Progress
from voxshard.store.runs import check_is_run, publish_run


@reading_faults()
def train(config: NetworkConfig, progress: Progress, check: Check, stop: threading.Event) -> bool:
    """Train and test as `config` specifies, and publish the run.

    Returns
    -------
    Whether this process published it: of several that train together the first one does.

    Raises
    ------
    ConfigError, DataError : what is wrong with the config or the manifest; nothing is published.
    StoppedError : asked to stop; the same command continues from there.
    TransientFaultError : the storage fails, or a process that reads recordings dies; the same.
    """
    check_is_run(as_path(config.out))
    inputs = inputs_of(config)
    trainer, chosen, split = _prepare(config, progress, check, stop)
    tested = tested_splits(trainer, split)
    trials: list[pa.Table] = []
    tables: dict[str, pa.Table] = {}
    facts: dict[str, Any] = {}
    if config.folds:
        trials.append(cross_validate(trainer, chosen, tables))
        fitted = trainer.fit(chosen, config.seed, "training on all folds")
    elif config.n_shot:
        fitted, chosen = few_shot_curve(trainer, chosen, tested, tables, facts)
    else:
        fitted = trainer.fit(chosen, config.seed, "training")
    if not fitted.is_first:
        return False
    progress.begin("score", items=len(tested))
    for name, rows in tested.items():
        trials.append(trainer.trials(fitted, rows, name))
        progress.advance()
    if not trials:
        trainer.note("no other split has labels: the network is kept, nothing was measured")
        trials = [trainer.trials(fitted, np.empty(0, np.int64), "")]
    tables["training-curve"] = table_of(fitted.curve)
    tables["training"] = table_of([dict(row) for row in fitted.history])
    if trainer.failures:
        trainer.note(f"{len(trainer.failures):,} recordings cannot be used and are left out: see tables/failures.csv")
        tables["failures"] = table_of(
            [{"utterance_id": name, "error": error, "message": message}
             for name, (error, message) in sorted(trainer.failures.items())]
        )  # fmt: skip
    _publish(trainer, fitted, pa.concat_tables(trials), tables, facts, chosen, split, inputs)
    shutil.rmtree(trainer.folder, ignore_errors=True)
    return True


def _prepare(
    config: NetworkConfig, progress: Progress, check: Check, stop: threading.Event
) -> tuple[NetworkTrainer, Ints, str | None]:
    """The trainer, the utterances to train on, and their split."""
    stored = None
    if config.features is not None:
        stored = StoredLogMel.open(local_copy(config.features))
        config = config.model_copy(update={"settings": stored.network_settings(config.settings)})
        manifest = stored.manifest
    else:
        assert config.manifest is not None
        manifest = Manifest.read(local_copy(config.manifest))
    config.network_settings()
    groups = read_groups(local_copy(config.labels_file)) if config.labels_file else None
    columns = [name for group in groups for name in group] if groups else config.label
    data = ManifestColumns(manifest.table)
    split, in_split = split_to_train_on(config, data)
    target, learned = learn_groups(manifest.table, columns, groups, in_split, config.positive)
    alone = [group.labels[0] for group in learned if len(group.labels) == 1]
    if alone and config.loss == "cross_entropy":
        raise ConfigError(
            f"loss=cross_entropy: label {alone[0]} is alone in its group, nothing to choose from; give bce"
        )
    labels = number_groups(manifest.table, target, learned)
    trainer = NetworkTrainer(config, manifest, labels, learned, progress, stop, check, stored)
    return trainer, labelled_rows(trainer, in_split), split


def _publish(
    trainer: NetworkTrainer,
    fitted: FittedNetwork,
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
        clip = config.clip.model_dump(mode="json")
        about = write_checkpoint(run.model, fitted.network, target=asdict(target), clip=clip)
        run.write_inputs(inputs)
        run.write_trials(trials)
        run.write_scores(results.scores_table(trials, target))
        for name, table in {**tables, **results.confusions(trials, target)}.items():
            run.write_table(name, table)
        summary["counts"] = {"training": _counts(trainer, chosen), **summary["counts"]}
        run.write_metrics({**summary, **facts, "notes": trainer.notes})
        splits = [name for name in results.split_names(trials) if name]
        run.write_config(_resolved(trainer, about.fingerprint, split, splits))


def _counts(trainer: NetworkTrainer, chosen: Ints) -> dict[str, Any]:
    totals = np.nansum(trainer.targets_UC[chosen], axis=0)
    classes = dict(zip(trainer.labels.target.classes, totals.astype(int).tolist(), strict=True))
    return {"utterances": len(chosen), "classes": classes}


def _resolved(trainer: NetworkTrainer, fingerprint: str, split: str | None, splits: list[str]) -> dict[str, Any]:
    config, target = trainer.config, trainer.labels.target
    content = json.loads(config.model_dump_json(exclude={"out", "label", "settings", "split", "manifest", "features"}))
    packages = ("torch", "lightning", "transformers", "speechbrain", "numpy")
    return {
        "features": [vars(source_of(trainer.stored.features))] if trainer.stored else [],
        "manifest": str(origin(local_copy(config.manifest).resolve())) if config.manifest else None,
        "label": list(target.labels),
        "kind": target.kind,
        "classes": list(target.classes),
        "classifier": config.network,
        "settings": trainer.spec.settings,
        **content,
        "split": split,
        "splits": splits,
        "fingerprint": fingerprint,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "software": {"voxshard": __version__, **{name: version(name) for name in packages}},
    }
