"""Scoring of a trained run on a split, with other labels, or on other features."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from voxshard import files
from voxshard.learning.train_config import EvaluateConfig
from voxshard.locations import BEGUN, MARKER, as_path, check_output, local_copy
from voxshard.stages.base import Task
from voxshard.stages.train import learning
from voxshard.store.runs import Run, check_is_run
from voxshard.uploads import output

if TYPE_CHECKING:
    from voxshard.learning.evaluation import Evaluation


def run(config: EvaluateConfig, task: Task | None = None) -> Evaluation:
    """Score a trained run, measure the results, and write scores, metrics and tables into it.

    Raises
    ------
    BackendUnavailableError : what the run needs (scikit-learn, or PyTorch) is not installed here.
    FeatureMismatchError : features of another fingerprint than those the model was trained on.
    ConfigError, DataError : a split, column, run or feature set that does not exist.
    """
    task = task or Task()
    if config.out is None:
        return _evaluate(config, as_path(config.run), task)
    check_output(config.out)
    run = local_copy(config.run)
    Run.read(run)
    with output(config.out) as path:
        check_is_run(path)
        with files.storage_errors(path):
            temporary = files.temp_path_for(path)
            try:
                shutil.copytree(run, temporary, ignore=shutil.ignore_patterns(MARKER, BEGUN))
                found = _evaluate(config, temporary, task)
                if path.exists():
                    shutil.rmtree(path)
                temporary.rename(path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return found


def _evaluate(config: EvaluateConfig, run: Path, task: Task) -> Evaluation:
    """Write the results into a local run directory."""
    local = config.model_copy(update={"run": run, "out": None})
    found: Evaluation = module_of(run).evaluate(local, task.progress, task.check)
    return found


def module_of(run: Path) -> ModuleType:
    """Return the module that scores a run: with PyTorch for a network, otherwise with scikit-learn."""
    is_network = (run / "model" / "network.yaml").exists()
    return learning("voxshard.learning._torch.evaluation" if is_network else "voxshard.learning.evaluation")
