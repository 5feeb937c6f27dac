"""The Python API: one function per stage, with the validation, the files and the errors of the commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from voxshard.config import validated
from voxshard.learning.network_config import NetworkConfig
from voxshard.learning.train_config import EvaluateConfig, TrainConfig
from voxshard.manifest import Manifest
from voxshard.stages import evaluate as evaluate_stage
from voxshard.stages import extract as extract_stage
from voxshard.stages import merge as merge_stage
from voxshard.stages import prepare as prepare_stage
from voxshard.stages import report as report_stage
from voxshard.stages import train as train_stage
from voxshard.store.features import FeatureSet
from voxshard.store.runs import Run

AnyPath: TypeAlias = str | PathLike[str]


def prepare(format: str, root: AnyPath, *, out: AnyPath, **options: Any) -> Manifest:  # noqa: A002  the command's name
    """List a corpus and write its manifest; `options` are those of `voxshard prepare`."""
    values = {"format": format, "root": str(root), "out": out, **options}
    return prepare_stage.run(validated(prepare_stage.PrepareConfig, values, where="prepare"))


def extract(
    manifest: AnyPath, *, encoder: str, out: AnyPath, settings: Mapping[str, Any] | None = None, **options: Any
) -> FeatureSet:
    """Extract embeddings of a manifest's utterances and merge them; `options` are those of `voxshard extract`."""
    values = {"manifest": manifest, "encoder": encoder, "out": out, "settings": dict(settings or {}), **options}
    extract_stage.run(validated(extract_stage.ExtractConfig, values, where="extract"))
    return merge(out)


def merge(path: AnyPath, **options: Any) -> FeatureSet:
    """Join the shards of a feature set; `options` are those of `voxshard merge`."""
    merge_stage.run(validated(merge_stage.MergeConfig, {"features": path, **options}, where="merge"))
    return open_features(path)


def open_features(path: AnyPath) -> FeatureSet:
    """Open a merged feature set for reading."""
    return FeatureSet(Path(path))


def train(features: AnyPath | Sequence[AnyPath], *, label: str | Sequence[str], out: AnyPath, **options: Any) -> Run:
    """Train a classifier on feature sets, or a network on a manifest; `options` are those of `voxshard train`."""
    values = {"label": label, "out": out, **options}
    if "network" in options:
        config: TrainConfig | NetworkConfig = validated(NetworkConfig, {"manifest": features, **values}, where="train")
    else:
        config = validated(TrainConfig, {"features": features, **values}, where="train")
    run = train_stage.run(config)
    assert run is not None, "only the first of several processes trains through this function"
    return run


def evaluate(run: Run | AnyPath, **options: Any) -> Run:
    """Score a trained run again; `options` are those of `voxshard evaluate`."""
    path = run.path if isinstance(run, Run) else Path(run)
    evaluate_stage.run(validated(EvaluateConfig, {"run": path, **options}, where="evaluate"))
    return Run.read(path)


def report(paths: Sequence[Run | AnyPath], *, out: AnyPath, title: str | None = None) -> Path:
    """Write a report on runs, experiments or feature sets."""
    places = tuple(item.path if isinstance(item, Run) else Path(item) for item in paths)
    values = {"paths": places, "out": out, "title": title}
    return report_stage.run(validated(report_stage.ReportConfig, values, where="report"))
