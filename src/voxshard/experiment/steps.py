"""Steps of an experiment for a scheduler: what each runs, what it depends on, and which of its tasks are missing.

Everything is worked out from the experiment's files, so that any process on any node comes to the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from voxshard.encoders import registry
from voxshard.errors import CorruptFileError
from voxshard.experiment.experiment import Experiment
from voxshard.experiment.local import Job
from voxshard.experiment.schema import Training
from voxshard.extraction.claims import is_leased
from voxshard.learning.train_config import TrainConfig
from voxshard.reporting.report_inputs import inputs_digest, recorded_inputs
from voxshard.stages.extract import deleted_after_merge
from voxshard.store.features import is_stale
from voxshard.store.inventory import shard_names
from voxshard.store.layout import FeatureDir, Identity, shard_name
from voxshard.store.merged import read_summary
from voxshard.store.shard_table import ShardTable


@dataclass(frozen=True)
class Command:
    """One command line of a task."""

    job: Job
    product: Path | None = None
    """File that the command makes; the command is not run if the file exists."""
    request: Path | None = None
    """File that requests the command; it is removed after success."""


@dataclass(frozen=True)
class Step:
    """One array job: a stage, for one feature set if the stage concerns one."""

    name: str
    stage: str
    depends_on: tuple[str, ...]
    num_tasks: int
    commands: Callable[[int, bool], Sequence[Command]] = field(repr=False)
    """Task, and whether it was given a GPU -> what it runs, one after the other."""
    missing: Callable[[], list[int]] = field(repr=False)
    """Tasks whose results do not exist yet; empty: the step is done."""
    can_take_over: Callable[[int], bool] = field(default=lambda task: False, repr=False)
    """Task that has nothing missing itself -> whether it can do what other tasks have not done."""
    features: FeatureDir | None = None


def steps_of(experiment: Experiment, num_tasks: Mapping[str, int]) -> dict[str, Step]:
    """Return the steps by name, in an order in which they can be submitted.

    Parameters
    ----------
    num_tasks : name of each extraction -> number of its array elements.
    """
    found = [_prepare(experiment)]
    for name in experiment.config.extract:
        makers = [_extract(experiment, name, num_tasks[name])]
        if repair_request(experiment, name).parent.exists():
            makers.append(_repair(experiment, name))
        found += [*makers, _merge(experiment, name, tuple(step.name for step in makers))]
    merges = tuple(step.name for step in found if step.stage == "merge")
    classifiers = experiment.classifiers()
    if classifiers:
        found.append(_train(experiment, classifiers, merges))
    found += [_networks(experiment, name) for name in experiment.config.networks]
    trained = tuple(step.name for step in found if step.stage in ("train", "networks"))
    if trained and experiment.config.evaluate.group_by:
        found.append(_evaluate(experiment, experiment.trainings(), trained))
        trained = ("evaluate",)
    found.append(_report(experiment, trained if classifiers else (*merges, *trained)))
    if experiment.config.publish is not None:
        found.append(_publish(experiment))
    return {step.name: step for step in found}


def extract_kind(experiment: Experiment, name: str) -> str:
    """Return the site's entry for an extraction: `extract`, or `extract_cpu` for one that uses no GPU."""
    section = experiment.config.extract[name]
    if section.device != "auto":
        return "extract_cpu" if section.device == "cpu" else "extract"
    options = section.options()
    return "extract" if registry.needs_gpu(options["encoder"], options["settings"]) else "extract_cpu"


def network_kind(experiment: Experiment, name: str) -> str:
    """Return the site's entry for trainings of networks: `networks`, or on the CPU that of extractions."""
    return "extract_cpu" if experiment.config.networks[name].device == "cpu" else "networks"


def _prepare(experiment: Experiment) -> Step:
    names = list(experiment.config.extract)
    identities = [experiment.features(name) / "identity.json" for name in names]

    def commands(task: int, has_gpu: bool) -> list[Command]:
        # Weights are hashed and plans frozen once, here, and not by every task at the same time.
        first = [(name, experiment.extractions(name)[0]) for name in names]
        plans = [experiment.extract_job(name, config, "--plan-only", part="-plan") for name, config in first]
        return [
            Command(experiment.prepare_job(), experiment.manifest),
            *(Command(job, identity) for job, identity in zip(plans, identities, strict=True)),
        ]

    def missing() -> list[int]:
        return [] if all(path.exists() for path in (experiment.manifest, *identities)) else [0]

    return Step("prepare", "prepare", (), 1, commands, missing)


def _extract(experiment: Experiment, name: str, count: int) -> Step:
    folder = FeatureDir(experiment.features(name))
    splits = experiment.config.extract[name].splits

    def commands(task: int, has_gpu: bool) -> list[Command]:
        device = ["--device", "cuda"] if has_gpu and _must_use_gpu(experiment, name) else []
        return [Command(job) for job in experiment.extract_jobs(name, *task_options(task, count), *device)]

    def missing() -> list[int]:
        groups = shards_by_split(folder, splits)
        if groups is None:
            return list(range(count))
        # Task i of n starts with shards i, i+n, ... of each split: the missing ones show whose work was lost.
        lost = set(missing_shards(folder, groups))
        return sorted({position % count for group in groups for position, shard in enumerate(group) if shard in lost})

    def can_take_over(task: int) -> bool:
        groups = shards_by_split(folder, splits)
        if groups is None or task >= min(count, max(map(len, groups), default=0)):
            return False  # more tasks than shards: none was ever assigned to it
        return any(not is_leased(folder, shard) for shard in missing_shards(folder, groups))

    return Step(f"extract-{name}", "extract", ("prepare",), count, commands, missing, can_take_over, folder)


def task_options(task: int, count: int) -> list[str]:
    """Return the options of an extraction that is one task of several."""
    return ["--task", str(task), "--tasks", str(count)]


def _must_use_gpu(experiment: Experiment, name: str) -> bool:
    """Whether an extraction uses the GPU that its job was given, or fails, because the config does not name a device.

    Trainings of networks have the device in their config, and check it themselves.
    """
    return experiment.config.extract[name].device == "auto" and extract_kind(experiment, name) == "extract"


def shards_by_split(folder: FeatureDir, splits: Sequence[str]) -> list[list[int]] | None:
    """Return the shards of each extraction of a set, in its order; None before there is a plan."""
    if not (folder.identity.exists() and folder.plan.exists() and folder.manifest.exists()):
        return None
    shards = ShardTable.read(folder, Identity.read(folder.identity))
    if not splits:
        return [list(range(len(shards)))]
    return [[shard for shard, name in enumerate(shards.splits) if name == split] for split in splits]


def missing_shards(folder: FeatureDir, groups: Sequence[Sequence[int]]) -> list[int]:
    """Return the shards that no task has published; none after they were merged and deleted."""
    if deleted_after_merge(folder):
        return []
    there = set(shard_names(folder))
    total = Identity.read(folder.identity).num_shards
    return [shard for group in groups for shard in group if shard_name(shard, total) not in there]


def repair_request(experiment: Experiment, name: str) -> Path:
    """Return the file that requests a retry of the failed recordings of a feature set."""
    return experiment.jobs / f"repair-{name}" / "wanted"


def _repair(experiment: Experiment, name: str) -> Step:
    folder = FeatureDir(experiment.features(name))
    request = repair_request(experiment, name)

    def commands(task: int, has_gpu: bool) -> list[Command]:
        device = ["--set", "device=cuda"] if has_gpu and _must_use_gpu(experiment, name) else []
        return [Command(experiment.repair_job(name, *device), request=request)]

    return Step(
        f"repair-{name}", "repair", (f"extract-{name}",), 1, commands,
        lambda: [0] if request.exists() else [], features=folder,
    )  # fmt: skip


def _merge(experiment: Experiment, name: str, after: tuple[str, ...]) -> Step:
    folder = FeatureDir(experiment.features(name))

    def missing() -> list[int]:
        summary = read_summary(folder)
        if summary is None or not folder.features.exists():
            return [0]
        try:
            return [0] if is_stale(folder.path) else []
        except CorruptFileError:
            return [0]  # merge writes it again from the shards, or describes what is wrong

    return Step(
        f"merge-{name}", "merge", after, 1,
        lambda task, has_gpu: [Command(experiment.merge_job(name))], missing, features=folder,
    )  # fmt: skip


def _train(experiment: Experiment, trainings: Sequence[TrainConfig], after: tuple[str, ...]) -> Step:
    return Step(
        "train", "train", after, len(trainings),
        lambda task, has_gpu: [Command(experiment.train_job(trainings[task]))],
        lambda: [task for task, training in enumerate(trainings) if not experiment.is_trained(training)],
    )  # fmt: skip


def _networks(experiment: Experiment, name: str) -> Step:
    trainings = experiment.networks(name)
    features = experiment.config.networks[name].features
    return Step(
        f"networks-{name}", "networks", ("prepare" if features is None else f"merge-{features}",), len(trainings),
        lambda task, has_gpu: [Command(experiment.network_job(name, trainings[task]))],
        lambda: [task for task, training in enumerate(trainings) if not experiment.is_trained(training)],
    )  # fmt: skip


def _evaluate(experiment: Experiment, trainings: Sequence[tuple[Training, str]], after: tuple[str, ...]) -> Step:
    def commands(task: int, has_gpu: bool) -> list[Command]:
        training, where = trainings[task]
        return [Command(experiment.evaluate_job(training, where))]

    def missing() -> list[int]:
        return [
            task
            for task, (training, _) in enumerate(trainings)
            if not (experiment.is_trained(training) and experiment.is_evaluated(training))
        ]

    return Step("evaluate", "evaluate", after, len(trainings), commands, missing)


def _report(experiment: Experiment, after: tuple[str, ...]) -> Step:
    def missing() -> list[int]:
        if not experiment.report.exists():
            return [0]
        recorded = recorded_inputs(experiment.report)
        return [0] if recorded not in (None, inputs_digest([experiment.path])) else []

    return Step("report", "report", after, 1, lambda task, has_gpu: [Command(experiment.report_job())], missing)


def _publish(experiment: Experiment) -> Step:
    def missing() -> list[int]:
        return [] if experiment.is_published() else [0]

    return Step(
        "publish", "publish", ("report",), 1, lambda task, has_gpu: [Command(experiment.publish_job())], missing
    )
