"""The config of an experiment: one YAML file, from corpus to report."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from voxshard.config import Settings, as_list, check_one_line, expanded, load_yaml, merged, validated
from voxshard.encoders import registry
from voxshard.encoders.base import Precision
from voxshard.learning.network_config import NetworkConfig, NetworkGrid
from voxshard.learning.train_config import GridOptions, TrainConfig
from voxshard.locations import AnyLocation, LocalPath, Location, local_copy
from voxshard.runtime import runtime
from voxshard.stages.extract import ExtractOptions
from voxshard.stages.prepare import PrepareOptions

Training: TypeAlias = TrainConfig | NetworkConfig
PRETRAINED = {"wav2vec2": "hf", "vggish": "vggish"}
"""Network -> encoder whose weights it starts from."""


_NAME = re.compile(r"\w(?:[\w+.=@ -]*[\w+=@-])?")


def _as_encoder(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _checked_runtime(value: str) -> str:
    runtime.split(value)
    return value


Runtime = Annotated[str, AfterValidator(_checked_runtime)]


class ExtractSection(ExtractOptions):
    """Settings of one feature set of the experiment."""

    encoder: Annotated[dict[str, Any], BeforeValidator(_as_encoder)]
    """Name of the encoder, or its `name` and settings."""
    runtime: Runtime | None = None
    """Runtime that has its framework: here, venv:PATH or image:PATH; null: the experiment's `runtime`."""
    splits: Annotated[tuple[str, ...], BeforeValidator(as_list)] = ()
    """Splits to extract; none given: all."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "name" not in self.encoder:
            raise ValueError("encoder: needs a name")
        options = self.options()
        if registry.spec_of(options["encoder"]).settings is not None:  # a third party's are asked for where it runs
            registry.settings_of(options["encoder"], options["settings"])
        return self

    def options(self) -> dict[str, Any]:
        """Return these settings as fields of ExtractConfig, without paths and split."""
        settings = {key: value for key, value in self.encoder.items() if key != "name"}
        common = self.model_dump(include=set(ExtractOptions.model_fields))
        return {"encoder": self.encoder["name"], "settings": settings, **common}


class ClassifierGrid(GridOptions):
    """Settings of a grid of classifiers; see `voxshard train`."""

    features: list[Annotated[tuple[str, ...], BeforeValidator(as_list)]] = Field(default_factory=list)
    """Names of feature sets; a list among them is joined into one. None given: each set alone."""


class TrainSection(ClassifierGrid):
    """Settings of a grid of classifiers, and of further grids that differ from it."""

    also: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Name -> a further grid, by the keys in which it differs from this one; in EXP/runs/<features>-<name>-..."""

    def grids(self) -> dict[str | None, ClassifierGrid]:
        """Return this grid, without a name, and the further ones.

        Raises
        ------
        ConfigError : what is wrong with one of them.
        """
        own = self.model_dump(exclude={"also"})
        found: dict[str | None, ClassifierGrid] = {None: validated(ClassifierGrid, own, where="train")}
        found |= {
            name: validated(ClassifierGrid, {**own, **changes}, where=f"train.also.{name}")
            for name, changes in self.also.items()
        }
        return found


class NetworkSection(NetworkGrid):
    """Settings of a grid of networks; see `voxshard train --network`."""

    runtime: Runtime | None = None
    """Runtime that has PyTorch: here, venv:PATH or image:PATH; null: the experiment's `runtime`."""
    features: str | None = None
    """Name of a `logmel` feature set to train on; null: the recordings."""


class EvaluateSection(Settings):
    """Settings of the breakdown of results."""

    group_by: Annotated[tuple[str, ...], BeforeValidator(as_list)] = ()
    """Columns to break the results down by."""


class ReportSection(Settings):
    title: str | None = None
    """Heading of the report; null: the experiment's name."""


class JobOptions(Settings):
    """Resources that the jobs of one stage request from a cluster; null: what the site specifies."""

    partitions: Annotated[tuple[str, ...] | None, BeforeValidator(as_list)] = None
    """Names of the site's partitions; the tasks are distributed over them."""
    tasks: int | None = Field(default=None, ge=1)
    """Elements of the array (extract only: elsewhere the work decides); in a site's file the most, see `num_tasks`."""
    minutes: int | None = Field(default=None, ge=1)
    """Time limit of one task, in minutes."""
    mem_gb: float | None = Field(default=None, gt=0)
    """Memory of one task; null on a partition that specifies none: the cluster's default."""
    throttle: int | None = Field(default=None, ge=1)
    """Maximum number of tasks of one array that run at the same time."""
    growth: float | None = Field(default=None, ge=1)
    """Factor on memory and time for every further attempt; null or 1: no growth."""
    precision: Precision | None = None
    """Arithmetic of the encoders that use a GPU and whose settings have none (extract only): float32, tf32, bf16 or
    fp16; part of the fingerprint."""


def check_precision(stages: Mapping[str, JobOptions], where: str) -> None:
    """Raise ValueError for a precision that has no effect: only extractions have one."""
    idle = [name for name, options in stages.items() if options.precision and name.partition("-")[0] != "extract"]
    if idle:
        raise ValueError(
            f"{where}.{idle[0]}.precision: no effect; only {where}.extract has one (networks have their own)"
        )


class ExperimentConfig(Settings):
    """Settings of a complete experiment."""

    out: LocalPath
    """Folder of the experiment (EXP)."""
    runtime: Runtime = "here"
    """Runtime of stages that name none: here, venv:PATH or image:PATH."""
    prepare: PrepareOptions
    extract: dict[str, ExtractSection] = Field(default_factory=dict)
    """Name -> feature set, in EXP/features/<name>."""
    train: TrainSection | None = None
    """Classifiers on features; null: none."""
    networks: dict[str, NetworkSection] = Field(default_factory=dict)
    """Name -> networks from audio, in EXP/runs/<name>-<network>-<seed>."""
    evaluate: EvaluateSection = EvaluateSection()
    report: ReportSection = ReportSection()
    publish: Location | None = None
    """URL that the finished experiment is uploaded to, as the last step; null: it stays local."""
    jobs: dict[str, JobOptions] = Field(default_factory=dict)
    """Resources of jobs by stage (`extract`) or step (`extract-<name>`)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_names()
        if not (self.extract or self.networks):
            raise ValueError("give extract, networks, or both: there is nothing to do except preparing")
        for name, section in self.networks.items():
            if section.features is not None and section.features not in self.extract:
                there = ", ".join(self.extract) or "none"
                raise ValueError(f"networks.{name}.features: no {section.features} under extract; available: {there}")
        if isinstance(self.publish, Path):
            raise ValueError(f"publish: {self.publish} is a local path; expected a URL such as s3://bucket/results")
        if self.train is not None:
            if not self.extract:
                raise ValueError("train: there are no features to train on; give extract")
            chosen = {name for grid in self.train.grids().values() for item in grid.features for name in item}
            unknown = sorted(chosen - set(self.extract))
            if unknown:
                raise ValueError(
                    f"train.features: no {', '.join(unknown)} under extract; available: {', '.join(self.extract)}"
                )
        steps = ["prepare", *(f"{stage}-{name}" for stage in ("extract", "merge") for name in self.extract)]
        steps += [f"networks-{name}" for name in self.networks]
        known = [*steps, "extract", "merge", "train", "networks", "evaluate", "report", "publish"]
        unknown = sorted(set(self.jobs) - set(known))
        if unknown:
            raise ValueError(f"jobs: no stage or step {', '.join(unknown)}; available: {', '.join(known)}")
        check_precision(self.jobs, "jobs")
        return self

    def _check_names(self) -> None:
        """Check names, which become folders of the experiment and words of job scripts."""
        check_one_line({"out": str(self.out), "jobs": self.model_dump(include={"jobs"})["jobs"]})
        also = self.train.also if self.train else {}
        for section, names in (("extract", self.extract), ("networks", self.networks), ("train.also", also)):
            wrong = [name for name in names if not _NAME.fullmatch(name)]
            if wrong:
                raise ValueError(
                    f"{section}: {', '.join(map(repr, wrong))} cannot be the name of a folder; use letters, digits, "
                    "spaces and any of _ - + . = @, with a letter or digit first"
                )


def load(path: AnyLocation, overrides: Mapping[str, Any]) -> ExperimentConfig:
    """Load a config file with single keys replaced (see `parse_assignments`).

    Raises
    ------
    ConfigError : everything that is wrong with it, at once.
    """
    content = load_yaml(local_copy(path), where=str(path))
    sections = content.get("extract")
    for section in sections.values() if isinstance(sections, dict) else ():
        if isinstance(section, dict) and "encoder" in section:  # so that `encoder: NAME` can be given settings, too
            section["encoder"] = _as_encoder(section["encoder"])
    return validated(ExperimentConfig, merged(content, expanded(overrides, where="--set")), where=str(path))
