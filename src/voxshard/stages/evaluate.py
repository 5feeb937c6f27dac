"""Score a trained run on a split, with other labels, or on other features."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from voxshard.learning.train_config import EvaluateConfig
from voxshard.stages.base import Task
from voxshard.stages.train import learning

if TYPE_CHECKING:
    from voxshard.learning.evaluation import Evaluation


def run(config: EvaluateConfig, task: Task | None = None) -> Evaluation:
    """Score, measure, and put scores, metrics and tables into the run.

    Raises
    ------
    BackendUnavailableError : what the run needs (scikit-learn, or PyTorch) is not installed here.
    FeatureMismatchError : features of another fingerprint than those the model was trained on.
    ConfigError, DataError : a split, column, run or feature set that is not there.
    """
    task = task or Task()
    found: Evaluation = module_of(config.run).evaluate(config, task.progress, task.check)
    return found


def module_of(run: Path) -> ModuleType:
    """The module that scores a run: with PyTorch if it is a network's, else with scikit-learn."""
    is_network = (run / "model" / "network.yaml").exists()
    return learning("voxshard.learning._torch.evaluation" if is_network else "voxshard.learning.evaluation")
