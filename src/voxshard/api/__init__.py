"""The Python API: one function per stage, with the validation, the files and the errors of the commands.

A wrong argument is a `ConfigError` that lists every problem. Nothing is printed unless `progress=True`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from voxshard.api.arguments import as_items, as_text, checked, location_of, or_empty, path_of, place_of, task_of
from voxshard.config import problems_error, validated
from voxshard.errors import ConfigError
from voxshard.extraction.loaded_encoder import LoadedEncoder
from voxshard.learning.network_config import NetworkConfig
from voxshard.learning.train_config import EvaluateConfig, TrainConfig
from voxshard.locations import AnyLocation, local_copy
from voxshard.manifest import Manifest
from voxshard.stages import evaluate as evaluate_stage
from voxshard.stages import extract as extract_stage
from voxshard.stages import merge as merge_stage
from voxshard.stages import prepare as prepare_stage
from voxshard.stages import report as report_stage
from voxshard.stages import train as train_stage
from voxshard.stages.predict import predict
from voxshard.store import runs
from voxshard.store.features import Check, FeatureSet

__all__ = [
    "FeatureSet", "LoadedEncoder", "Manifest", "TrainedRun", "evaluate", "extract", "load_encoder", "merge",
    "open_features", "prepare", "read_scores", "report", "train",
]  # fmt: skip

AnyPath: TypeAlias = str | PathLike[str]
Names: TypeAlias = str | Sequence[str]


class TrainedRun(runs.Run):
    """A run directory: a trained classifier or network with its scores and metrics.

    `metrics`, `scores()`, `trials()`, `tables()`, `config` and `path` read what `voxshard train` and
    `voxshard evaluate` wrote.
    """

    def __repr__(self) -> str:
        model, label = self.config.get("classifier") or self.config.get("network"), ", ".join(self.config["label"])
        results = [
            f"{split}: "
            + ", ".join(f"{name} {found['value']:.4f}" for name, found in values.items() if "." not in name)
            for split, values in self.metrics.get("metrics", {}).items()
        ]
        return f"<TrainedRun {self.path}: {'; '.join([f'{model} of {label}', *results])}>"

    def predict(
        self, features: FeatureSet | AnyPath | Sequence[FeatureSet | AnyPath] | npt.NDArray[Any]
    ) -> npt.NDArray[np.object_]:
        """Apply the trained model to other data; nothing is written.

        Parameters
        ----------
        features : a feature set or its folder; several, as many as the model was trained on, in the same order; or
            rows in memory, (N, D), or (N, L, D) with layers. For a network: the path of a manifest, or a `logmel` set.

        Returns
        -------
        object (N,): the predicted class of each utterance, in the order of the set's rows; with several labels the
        ones that apply, joined by commas. None where the utterance has no frame or its recording cannot be read.

        Raises
        ------
        FeatureMismatchError : features of another fingerprint, or of another size, than the model was trained on.
        ConfigError : what is given is none of these.
        """
        return predict(self, features)


@checked
def prepare(
    format: str,  # noqa: A002  the command's name for it
    root: AnyPath,
    *,
    out: AnyPath,
    glob: str | None = None,
    part: str | None = None,
    split: Names = (),
    split_from: Names = (),
    labels: AnyPath | None = None,
    label_from: str | None = None,
    study: str | None = None,
    limit: int | None = None,
    probe: bool = True,
    settings: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Manifest:
    """List a corpus and write its manifest, as `voxshard prepare` does.

    Parameters
    ----------
    format : corpus format, such as "folder", "table" or "asvspoof5".
    root : folder, URL, or (for "table") file.
    out : the manifest to write.
    glob : only paths that match; `*` stays in one folder, `**` is any number of folders.
    part : only what is below this folder of the root.
    split : "NAME=FILE", one or several: the utterances that FILE lists are split NAME.
    split_from : "REGEX=NAME", one or several: paths in which REGEX is found are split NAME; the first match counts.
    labels : CSV, TSV or Parquet file whose columns are joined by id or path.
    label_from : regular expression searched in the path; each named group becomes a column.
    study : value of a column `study` in every row.
    limit : only the first N utterances.
    probe : read every header; False leaves durations unknown.
    settings : settings of the format, such as `path_column` of "table".
    progress : show progress on stderr.

    Returns
    -------
    The manifest as it was written.

    Raises
    ------
    ConfigError : a wrong argument.
    DataError : the corpus cannot be used; the message gives the reason.
    """
    values = {
        "format": format, "root": as_text(root), "out": out, "glob": glob, "part": part, "split": split,
        "split_from": split_from, "labels": as_text(labels), "label_from": label_from, "study": study, "limit": limit,
        "probe": probe, "settings": or_empty(settings),
    }  # fmt: skip
    config = validated(prepare_stage.PrepareConfig, values, where="prepare")
    with task_of(progress) as task:
        return prepare_stage.run(config, task)


@checked
def extract(
    manifest: AnyPath,
    *,
    encoder: str,
    out: AnyPath,
    settings: Mapping[str, Any] | None = None,
    split: str | None = None,
    shards: int | None = None,
    device: str = "auto",
    batch_seconds: float | None = None,
    workers: int | None = None,
    limit: int | None = None,
    reuse: AnyPath | None = None,
    max_failure_fraction: float = 0.05,
    progress: bool = False,
) -> FeatureSet:
    """Extract embeddings of a manifest's utterances, as `voxshard extract` does, and merge them.

    Shards that exist are not made again: after an interruption, call it again with the same arguments.

    Parameters
    ----------
    manifest : what `prepare` wrote.
    encoder : name of the encoder; `voxshard encoders` lists them.
    out : folder of the feature set.
    settings : settings of the encoder; `voxshard encoders NAME` lists them.
    split : only this split; the others can follow later, into the same folder.
    shards : about how many shards; None: by the amount of audio.
    device : "auto", "cpu", "cuda" or "cuda:1".
    batch_seconds : padded seconds of audio per batch; None: by the device.
    workers : processes that decode; None: by the CPUs of this machine or job.
    limit : only the first N utterances of the manifest.
    reuse : merged feature set of the same encoder; its rows of recordings with the same path, size and span are copied.
    max_failure_fraction : share of failed utterances that is accepted, from 20 failures on.
    progress : show progress on stderr.

    Returns
    -------
    The merged feature set.

    Raises
    ------
    ConfigError : a wrong argument.
    IdentityError : the folder contains features that were made with other inputs.
    DataError, EnvironmentProblemError : what is wrong with the data or the machine; finished shards are kept.
    """
    values = {
        "manifest": path_of("extract", manifest), "encoder": encoder, "out": out, "settings": or_empty(settings),
        "split": split, "shards": shards, "device": device, "batch_seconds": batch_seconds, "workers": workers,
        "limit": limit, "reuse": reuse, "max_failure_fraction": max_failure_fraction,
    }  # fmt: skip
    config = validated(extract_stage.ExtractConfig, values, where="extract")
    with task_of(progress) as task:
        extract_stage.run(config, task)
    return merge(out, progress=progress)


@checked
def merge(
    path: AnyPath,
    *,
    mode: Literal["auto", "packed", "index"] = "auto",
    allow_missing: bool = False,
    labels: AnyPath | None = None,
    delete_shards: bool = False,
    max_failure_fraction: float | None = None,
    progress: bool = False,
) -> FeatureSet:
    """Join the shards of a feature set, as `voxshard merge` does.

    Parameters
    ----------
    path : folder of the feature set, or its URL.
    mode : "packed" writes one contiguous file, "index" leaves the arrays in the shards, "auto" decides by size.
    allow_missing : merge the available shards even if some are missing.
    labels : manifest whose columns describe the utterances; None: the one they were extracted with.
    delete_shards : remove the shards once the packed file has been verified.
    max_failure_fraction : share of failed utterances that is accepted; None: what the extraction was given.
    progress : show progress on stderr.

    Returns
    -------
    The merged feature set.

    Raises
    ------
    ConfigError : a wrong argument.
    DataError : shards are missing, damaged or of another set, or too many utterances failed.
    """
    values = {
        "features": path, "mode": mode, "allow_missing": allow_missing, "labels": labels,
        "delete_shards": delete_shards, "max_failure_fraction": max_failure_fraction,
    }  # fmt: skip
    config = validated(merge_stage.MergeConfig, values, where="merge")
    with task_of(progress) as task:
        merge_stage.run(config, task)
    return open_features(path)


@checked
def open_features(path: AnyPath, *, check: Check = "open") -> FeatureSet:
    """Open a merged feature set for reading.

    Parameters
    ----------
    path : folder of the feature set, or its URL.
    check : what is compared with the digests recorded when the set was written: "open" checks the small files now and
        each block of an array at its first read in a pass; "blocks" also what a single look-up reads; "none" nothing.

    Raises
    ------
    ConfigError : a wrong argument.
    IncompleteError : nothing is merged there yet.
    StaleShardError : shards were rewritten after the merge.
    CorruptFileError, FormatVersionError : a file is damaged, or was written by a newer voxshard.
    """
    if check not in get_args(Check):
        raise problems_error("open_features", [f"check: expected one of {', '.join(get_args(Check))} (got {check!r})"])
    return FeatureSet(local_copy(location_of("open_features", path)).absolute(), check)


@checked
def train(
    features: FeatureSet | AnyPath | Sequence[FeatureSet | AnyPath],
    *,
    out: AnyPath,
    label: Names | None = None,
    classifier: str | None = None,
    network: str | None = None,
    split: str | None = None,
    folds: str | None = None,
    n_shot: int | Sequence[int] = (),
    runs: int = 5,
    seed: int = 0,
    replicates: int = 1000,
    wandb: bool = False,
    settings: Mapping[str, Any] | None = None,
    network_options: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> TrainedRun:
    """Train a classifier on feature sets, or a network on a manifest, as `voxshard train` does.

    Parameters
    ----------
    features : one or several merged feature sets, joined by utterance_id. For a network: the path of a manifest, or
        one `logmel` set.
    out : run directory to write.
    label : column to predict; several yes-or-no columns are learned one against all others.
    classifier : name of the classifier; `voxshard classifiers` lists them.
    network : instead, the name of a network; `voxshard networks` lists them.
    split : split to train on; None: `train`, with `folds` every labelled utterance.
    folds : column for cross-validation: each of its values is tested with a model trained on the others.
    n_shot : examples per class to train on; several numbers give a curve.
    runs : draws of examples for each number in `n_shot`.
    seed : seed of the model, of drawn examples and of bootstrap intervals.
    replicates : bootstrap replicates for intervals; 0: none.
    wandb : log to Weights & Biases too; for the other places that a network can be logged to, `log` in
        `network_options`.
    settings : settings of preprocessing and classifier, or of the network.
    network_options : further options of a network's training, as in a config file: `training`, `augment`, `clip`,
        `validate_on`, `loss`, `device`, `precision` and so on.
    progress : show progress on stderr.

    Returns
    -------
    The run, with `.metrics`, `.scores()` and `.predict(...)`.

    Raises
    ------
    ConfigError : a wrong argument.
    DataError, BackendUnavailableError : what is wrong with the features or this environment; nothing is published.
    """
    values: dict[str, Any] = {
        "out": out, "split": split, "folds": folds, "n_shot": n_shot, "runs": runs, "seed": seed,
        "replicates": replicates, "wandb": wandb, "settings": or_empty(settings),
    }  # fmt: skip
    values |= {} if label is None else {"label": label}
    places = [place_of("train", "features", item) for item in as_items(features)]
    config: TrainConfig | NetworkConfig
    if network is None:
        values |= {} if classifier is None else {"classifier": classifier}
        if network_options is not None:
            raise ConfigError("train: network_options: for a network; give network=NAME")
        config = validated(TrainConfig, {**values, "features": places}, where="train")
    else:
        if classifier is not None or len(places) != 1:
            raise ConfigError("train: network: takes no classifier, and one manifest or logmel set")
        given = "features" if local_copy(location_of("train", places[0])).is_dir() else "manifest"
        options = {} if network_options is None else network_options
        content = {**values, "network": network, given: places[0], **options}
        config = validated(NetworkConfig, content, where="train")
    with task_of(progress) as task:
        run = train_stage.run(config, task)
    assert run is not None, "only the first of several processes trains through this function"
    return TrainedRun.read(run.path.absolute())


@checked
def evaluate(
    run: runs.Run | AnyPath,
    *,
    on: FeatureSet | AnyPath | Sequence[FeatureSet | AnyPath] = (),
    split: str | None = None,
    group_by: Names | Sequence[Names] = (),
    out: AnyPath | None = None,
    replicates: int = 1000,
    progress: bool = False,
) -> TrainedRun:
    """Score a trained run again, as `voxshard evaluate` does; the results go into the run.

    Parameters
    ----------
    run : what `train` returned, or a run directory.
    on : other feature sets, as many as the model was trained on, or a manifest with other labels or splits.
    split : only this split; None: those measured in training, of other features every split.
    group_by : columns to break the metrics down by; "a,b" by combination.
    out : run directory, or URL, to write, a copy of `run` with the results; None: they go into `run` itself.
    replicates : bootstrap replicates for intervals; 0: none.
    progress : show progress on stderr.

    Returns
    -------
    The run, with its new `.metrics`; breakdowns are in `.tables()`.

    Raises
    ------
    ConfigError : a wrong argument, or a split or column that does not exist.
    FeatureMismatchError : features of another fingerprint than those the model was trained on.
    """
    values = {
        "run": place_of("evaluate", "run", run), "on": [place_of("evaluate", "on", item) for item in as_items(on)],
        "split": split, "group_by": group_by,
        "replicates": replicates, "out": out,
    }  # fmt: skip
    config = validated(EvaluateConfig, values, where="evaluate")
    with task_of(progress) as task:
        evaluate_stage.run(config, task)
    return TrainedRun.read(local_copy(config.out or config.run).absolute())


@checked
def report(
    paths: runs.Run | FeatureSet | AnyPath | Sequence[runs.Run | FeatureSet | AnyPath],
    *,
    out: AnyPath,
    title: str | None = None,
    progress: bool = False,
) -> AnyLocation:
    """Write one HTML report on runs, experiments or feature sets, as `voxshard report` does.

    Parameters
    ----------
    paths : what to report on, one or several.
    out : the HTML file; results.csv and results.tex are written next to it.
    title : heading; None: the name of the run or experiment.
    progress : show progress on stderr.

    Returns
    -------
    The path, or the URL, of the HTML file.

    Raises
    ------
    ConfigError : a wrong argument.
    DataError : a path is no run, experiment or feature set, or is damaged.
    """
    values = {"paths": [place_of("report", "paths", item) for item in as_items(paths)], "out": out, "title": title}
    config = validated(report_stage.ReportConfig, values, where="report")
    with task_of(progress) as task:
        return report_stage.run(config, task)


@checked
def load_encoder(name: str, *, device: str = "auto", **settings: Any) -> LoadedEncoder:
    """Load an encoder into this process, to embed recordings and waveforms directly.

    Parameters
    ----------
    name : name of the encoder; `voxshard encoders` lists them.
    device : "auto", "cpu", "cuda" or "cuda:1".
    settings : settings of the encoder, such as `weights=FOLDER` and `layer=9`; `voxshard encoders NAME` lists them.

    Returns
    -------
    The encoder; `.embed(...)` gives the numbers that `extract` stores.

    Raises
    ------
    ConfigError : no such encoder, or settings it does not take.
    BackendUnavailableError, MissingWeightsError, DeviceUnavailableError : what this environment lacks.

    Examples
    --------
    >>> encoder = voxshard.load_encoder("hf", weights="weights/wavlm-base", layer=9)  # doctest: +SKIP
    >>> encoder.embed(waveform, sample_rate=16000)  # doctest: +SKIP
    >>> encoder.embed(["a.wav", "b.flac"])  # doctest: +SKIP
    """
    for key, value in (("name", name), ("device", device)):
        if not isinstance(value, str):
            raise ConfigError(f"load_encoder: {key}: expected a text (got {value!r})")
    chosen = {key: as_text(value) for key, value in settings.items()}
    return LoadedEncoder(name, chosen, device=device)


@checked
def read_scores(path: AnyPath) -> pa.Table:
    """Read the scores of a run, or a score file: a scores.tsv, or the official tab-separated one of ASVspoof 5.

    Parameters
    ----------
    path : run directory or file.

    Returns
    -------
    The columns of the file; ids and predictions are text, scores are float64.

    Raises
    ------
    ScoreError : the file is no score file; the message names its columns.
    """
    return runs.read_scores(local_copy(location_of("read_scores", path)))
