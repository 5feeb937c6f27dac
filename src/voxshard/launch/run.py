"""A whole experiment on this machine, stage by stage; what is done is skipped."""

from __future__ import annotations

import threading
from pathlib import Path

from voxshard.cpus import available_cpus
from voxshard.launch.experiment import Experiment
from voxshard.launch.local import run_many, run_one
from voxshard.progress import Progress


def run_experiment(experiment: Experiment, stop: threading.Event, progress: Progress) -> Path:
    """Prepare, extract, merge, train, evaluate and report.

    Every stage runs in a process of its own, in the runtime its framework lives in; its state is its files, so that
    the same command goes on wherever an earlier one was stopped or killed.

    Returns
    -------
    The report.

    Raises
    ------
    IdentityError : the experiment's folder was prepared from another corpus, or otherwise.
    JobFailedError, StoppedError : a stage failed, or was stopped; what is finished is kept.
    """
    _prepare(experiment, stop, progress)
    for name in experiment.config.extract:
        for job in experiment.extract_jobs(name):
            run_one(job, stop)
        run_one(experiment.merge_job(name), stop)
    _train(experiment, stop, progress)
    run_one(experiment.report_job(), stop)
    return experiment.report


def _prepare(experiment: Experiment, stop: threading.Event, progress: Progress) -> None:
    experiment.freeze()
    if experiment.manifest.exists():
        progress.note(f"{experiment.manifest}: there already")
    else:
        run_one(experiment.prepare_job(), stop)


def _train(experiment: Experiment, stop: threading.Event, progress: Progress) -> None:
    grid = experiment.grid()
    if grid is None:
        return
    trainings = grid.expand()
    todo = [training for training in trainings if not experiment.is_trained(training)]
    for training in todo:
        experiment.freeze_training(training)
    if todo:
        jobs = [experiment.train_job(training) for training in todo]
        run_many(jobs, available_cpus(), experiment.jobs, stop, progress, "train")
    jobs = [experiment.evaluate_job(training.out) for training in trainings if not experiment.is_evaluated(training)]
    if jobs:
        run_many(jobs, available_cpus(), experiment.jobs, stop, progress, "evaluate")
