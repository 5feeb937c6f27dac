"""Scoring of a trained network on the splits of its manifest, with other labels, or on another corpus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from voxshard.encoders._torch.device import take_device
from voxshard.errors import ConfigError, IncompleteError
from voxshard.learning import results
from voxshard.learning._torch.data import default_workers
from voxshard.learning._torch.faults import reading_faults
from voxshard.learning._torch.prediction import Predictor, decide, failures_of, trials_of
from voxshard.learning._torch.trainer import examples_of
from voxshard.learning.data import ManifestColumns
from voxshard.learning.evaluation import Evaluation, record, splits_to_score
from voxshard.learning.label_groups import float_targets, number_groups
from voxshard.learning.labels import Labels
from voxshard.learning.model import Target
from voxshard.learning.network_config import TrainingClipSettings
from voxshard.learning.results import prediction_texts
from voxshard.learning.stored_logmel import StoredLogMel
from voxshard.learning.train_config import EvaluateConfig
from voxshard.learning.training import Check
from voxshard.locations import as_path, local_copy, parse
from voxshard.manifest import Manifest
from voxshard.networks.network import Network
from voxshard.networks.network_files import Checkpoint
from voxshard.networks.settings import ON_LOGMEL
from voxshard.progress import Progress, counted
from voxshard.store.runs import Run


@reading_faults()
def evaluate(config: EvaluateConfig, progress: Progress, check: Check) -> Evaluation:
    """Score and measure a trained network, and write the results into its run. Apart from the recordings or features,
    everything needed is in the run directory.

    Raises
    ------
    ConfigError : a split or column that does not exist, or features for a network that takes none.
    FeatureMismatchError : features extracted otherwise than the network wants its input.
    IncompleteError : what the network was trained on is gone, and nothing else was given.
    TransientFaultError : the storage fails, or a process that reads recordings dies.
    """
    run = Run.read(as_path(config.run))
    if (stored_trials := _stored_trials(config, run)) is not None:
        progress.note("the stored scores have every column to group by: nothing is scored again")
        target = Target(**Checkpoint.read(run.model).about.target.model_dump())
        return record(config, run, target, stored_trials, None, progress)
    path, name = _place(config, run)
    scorer = _Scorer.open(run, path, check)
    manifest, labels, target = scorer.manifest, scorer.labels, scorer.labels.target
    if not any(column in manifest.table.column_names for column in target.labels):
        progress.note(f"{path} has no column {', '.join(target.labels)}: scored, not measured")
    data = ManifestColumns(manifest.table)
    scored: list[Any] = []
    failures: dict[str, tuple[str, str]] = {}
    splits = splits_to_score(config, run, data.split_names, name)
    progress.begin("score", items=len(splits))
    for split, title in splits.items():
        check()
        rows = np.flatnonzero(data.in_split(split))
        found = scorer.predictor.outputs(scorer.network, rows)
        failures |= failures_of(found, manifest)
        scored.append(trials_of(found, scorer.network.spec, manifest, labels, title))
        progress.advance()
    for utterance, (error, message) in sorted(failures.items())[:10]:
        progress.note(f"{utterance}: {error}: {message}")
    if failures:
        progress.note(f"without a score, because they cannot be used: {counted(len(failures), 'recording')}")
    return record(config, run, target, scored, name, progress)


@reading_faults()
def predict_texts(run: Run, path: Path) -> list[str | None]:
    """Return the decision on each utterance of a manifest or feature set; None if it cannot be used."""
    scorer = _Scorer.open(run, path, check=lambda: None)
    num_utterances = len(scorer.manifest)
    found = scorer.predictor.outputs(scorer.network, np.arange(num_utterances))
    target = scorer.labels.target
    _, predicted = decide(found.values, target, scorer.network.spec)
    texts: list[str | None] = [None] * num_utterances
    for row, text in zip(found.rows.tolist(), prediction_texts(target, predicted), strict=True):
        texts[row] = text
    return texts


@dataclass(frozen=True)
class _Scorer:
    """A trained network with the data that it scores."""

    network: Network
    manifest: Manifest
    labels: Labels
    predictor: Predictor

    @classmethod
    def open(cls, run: Run, path: Path, check: Check) -> _Scorer:
        """Load the network of a run; `path` is a manifest, or a feature set if the network takes one."""
        checkpoint = Checkpoint.read(run.model)
        about = checkpoint.about
        stored = None
        if path.is_dir():
            if about.network.family not in ON_LOGMEL:
                raise ConfigError(f"--on {path}: network {about.network.family} scores recordings; give a MANIFEST")
            stored = StoredLogMel.open(path)
            stored.network_settings(about.network.settings)
        manifest = stored.manifest if stored else Manifest.read(path)
        labels = number_groups(manifest.table, Target(**about.target.model_dump()), about.network.groups)
        network = checkpoint.load().to(take_device("auto"))
        clip = TrainingClipSettings(**about.clip)
        examples = examples_of(manifest, stored, float_targets(labels), network, clip=clip, seed=0)
        predictor = Predictor(examples, run.config["precision"], default_workers(), check)
        return cls(network, manifest, labels, predictor)


def _place(config: EvaluateConfig, run: Run) -> tuple[Path, str | None]:
    """Return the manifest or feature set to score, and the name of its results (None for the run's own data)."""
    features = run.config["features"]
    recorded = features[0]["path"] if features else run.config["manifest"]
    own = None if recorded is None else run.found(parse(recorded))
    if len(config.on) > 1:
        raise ConfigError(f"--on: {len(config.on)} places; a network scores one manifest, or one stored logmel set")
    if config.on:
        (path,) = map(local_copy, config.on)
        return path, None if path.resolve() == own else path.stem
    if own is None:
        raise IncompleteError(f"{run.path}: a converted model, without data of its own; give --on MANIFEST")
    if not own.exists():
        raise IncompleteError(
            f"{own}: what this network was trained on no longer exists; give --on MANIFEST, or --on DIR"
        )
    return own, None


def _stored_trials(config: EvaluateConfig, run: Run) -> list[pa.Table] | None:
    """Return the run's own trials by split if they suffice: only results by group on the tested data are wanted.
    Scoring the recordings again would give the same numbers."""
    if config.on or not config.group_by:
        return None
    trials = run.trials()
    if not {name for columns in config.group_by for name in columns} <= set(trials.column_names):
        return None
    splits = splits_to_score(config, run, run.config["splits"], None)
    return [results.of_split(trials, title) for title in splits.values()]
