"""Training of a classifier on features, or of a network on audio, with a test on the other splits."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from voxshard.errors import BackendUnavailableError, ConfigError
from voxshard.learning.network_config import NetworkConfig
from voxshard.learning.tracking import append_to_table, check_trackers, log_to_wandb
from voxshard.learning.train_config import TrainConfig
from voxshard.locations import Url, as_path, check_output, local_copy
from voxshard.stages.base import Task
from voxshard.store.runs import Run
from voxshard.uploads import output

_EXTRAS = {
    "sklearn": ("scikit-learn", "learn"),
    "skops": ("skops", "learn"),
    "scipy": ("scipy", "learn"),
    "joblib": ("joblib", "learn"),
    "torch": ("torch", "torch"),
    "lightning": ("lightning", "torch"),
    "audiomentations": ("audiomentations", "torch"),
    "safetensors": ("safetensors", "torch"),
    "speechbrain": ("speechbrain", "torch"),
    "transformers": ("transformers", "torch"),
}
"""Module -> distribution, and the extra that brings it."""


def run(config: TrainConfig | NetworkConfig, task: Task | None = None) -> Run | None:
    """Train, publish the run directory `config.out`, and add its results to runs.csv next to it.

    Returns
    -------
    The run; None in all but the first of several processes that train a network together.

    Raises
    ------
    BackendUnavailableError : what training needs is not installed here, or what it is to be logged with.
    ConfigError, DataError : what is wrong with the config or the features; nothing is published.
    StoppedError : a network's training was asked to stop; the same command continues.
    """
    task = task or Task()
    check_trackers(config.trackers)
    if isinstance(config.out, Url) and isinstance(config, NetworkConfig):
        if config.devices > 1:
            raise ConfigError(f"--out {config.out}: several devices need a local folder; then `voxshard publish`")
        if config.trackers:
            raise ConfigError(
                f"--out {config.out}: --log {config.trackers[0]} writes next to a run; give a local folder, then "
                "`voxshard publish`"
            )
    check_output(config.out)
    with output(config.out, resumes=isinstance(config, NetworkConfig)) as path:
        trained = _train(config.model_copy(update={"out": path}), task)
        if trained is None:
            return None
        if isinstance(config.out, Path):
            append_to_table(trained)
        if config.wandb and isinstance(config, TrainConfig):
            log_to_wandb(trained, task.progress)
    return trained if isinstance(config.out, Path) else Run.read(local_copy(config.out))


def _train(config: TrainConfig | NetworkConfig, task: Task) -> Run | None:
    """Train into a local folder."""
    if isinstance(config, NetworkConfig):
        module = learning("voxshard.learning._torch.train_network")
        if not module.train(config, task.progress, task.check, task.stop):
            return None
    else:
        learning("voxshard.learning.train_classifier").train(config, task.progress, task.check)
    return Run.read(as_path(config.out))


def learning(module: str) -> ModuleType:
    """Import a module that needs scikit-learn or PyTorch, or raise an error that names the extra to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as exc:
        package = (exc.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        distribution, extra = _EXTRAS[package]
        raise BackendUnavailableError(
            f"training and evaluating need {distribution}, which is not installed: pip install 'voxshard[{extra}]'"
        ) from exc
