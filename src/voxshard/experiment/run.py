"""Run a complete experiment on this machine, stage by stage; finished stages are skipped."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from voxshard.cpus import available_cpus
from voxshard.experiment.experiment import Experiment
from voxshard.experiment.local import Job, run_many, run_one
from voxshard.experiment.schema import Training
from voxshard.experiment.steps import extract_kind, task_options
from voxshard.learning.network_config import NetworkConfig
from voxshard.progress import Progress
from voxshard.runtime.gpus import usable_gpus
from voxshard.store.layout import FeatureDir


def run_experiment(experiment: Experiment, stop: threading.Event, progress: Progress) -> Path:
    """Prepare, extract, merge, train, evaluate, report and, if the config requests it, publish.

    Every stage runs in its own process, in the runtime its framework lives in; its state is its files, so that
    the same command continues wherever an earlier one was stopped or killed.

    Returns
    -------
    The report.

    Raises
    ------
    IdentityError : the experiment's folder was prepared from another corpus, or otherwise.
    JobFailedError, StoppedError : a stage failed, or was stopped; what is finished is kept.
    """
    trainings = experiment.trainings()  # a mistake in one of them is reported before hours of extraction
    _prepare(experiment, stop, progress)
    if not all(FeatureDir(experiment.features(name)).summary.exists() for name in experiment.config.extract):
        experiment.check_columns()  # merged sets may have been given later labels
    gpus = usable_gpus()
    for name in experiment.config.extract:
        _extract(experiment, name, gpus, stop, progress)
        run_one(experiment.merge_job(name), stop)
    _train(experiment, stop, progress)
    for name in experiment.config.networks:
        _train_networks(experiment, name, stop)
    _evaluate(experiment, trainings, stop, progress)
    run_one(experiment.report_job(), stop)
    if experiment.config.publish is not None:
        run_one(experiment.publish_job(), stop)
    return experiment.report


def _prepare(experiment: Experiment, stop: threading.Event, progress: Progress) -> None:
    experiment.freeze()
    if experiment.manifest.exists():
        progress.note(f"{experiment.manifest}: there already")
    else:
        run_one(experiment.prepare_job(), stop)


def _extract(experiment: Experiment, name: str, gpus: Sequence[str], stop: threading.Event, progress: Progress) -> None:
    """Run the extractions: one process, or for an encoder that uses GPUs one per GPU, each with its share of shards."""
    section = experiment.config.extract[name]
    on_gpus = extract_kind(experiment, name) == "extract" and section.device in ("auto", "cuda")
    for config in experiment.extractions(name):
        if not on_gpus or len(gpus) < 2:
            run_one(experiment.extract_job(name, config), stop)
            continue
        run_one(experiment.extract_job(name, config, "--plan-only", part="-plan"), stop)  # weights are hashed once
        cpus = available_cpus() // len(gpus)
        workers = [] if section.workers else ["--workers", str(max(1, cpus - 2))]
        parts = [
            experiment.extract_job(name, config, *workers, *task_options(part, len(gpus)), part=f"-{part}")
            for part in range(len(gpus))
        ]
        run_many(parts, len(parts), experiment.jobs, stop, progress, f"extract {name}", gpus)


def _train(experiment: Experiment, stop: threading.Event, progress: Progress) -> None:
    todo = [training for training in experiment.classifiers() if not experiment.is_trained(training)]
    if todo:
        jobs = [experiment.train_job(training) for training in todo]
        run_many(jobs, available_cpus(), experiment.jobs, stop, progress, "train")


def _train_networks(experiment: Experiment, name: str, stop: threading.Event) -> None:
    """Train networks one after the other: each uses the GPU, or all CPUs."""
    for training in experiment.networks(name):
        if not experiment.is_trained(training):
            run_one(experiment.network_job(name, training), stop)


def _evaluate(
    experiment: Experiment, trainings: Sequence[tuple[Training, str]], stop: threading.Event, progress: Progress
) -> None:
    classifiers: list[Job] = []
    networks: list[Job] = []
    for training, where in trainings:
        if not experiment.is_evaluated(training):
            jobs = networks if isinstance(training, NetworkConfig) else classifiers
            jobs.append(experiment.evaluate_job(training, where))
    if classifiers:
        run_many(classifiers, available_cpus(), experiment.jobs, stop, progress, "evaluate")
    for job in networks:
        run_one(job, stop)
