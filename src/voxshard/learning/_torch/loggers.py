"""Lightning's loggers for the training of a network: Weights & Biases, TensorBoard, MLflow, CSV."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from voxshard import files
from voxshard.errors import EnvironmentProblemError
from voxshard.learning.tracking import note_offline, result_values, wandb_options
from voxshard.progress import Progress
from voxshard.store.runs import Run


def open_loggers(trackers: Sequence[str], run: Path, state: Path) -> list[Logger]:
    """Open one logger per tracker; a resumed training continues its earlier log.

    Parameters
    ----------
    run : the run directory. Next to it are `logs/csv/<its name>/version_<n>`, `logs/tensorboard/...` and, unless
        MLFLOW_TRACKING_URI is set, `logs/mlflow.db`.
    state : folder of the training's state; the version of each logger is kept there.

    Raises
    ------
    EnvironmentProblemError : a tracker cannot be used; with its reason.
    """
    path = state / "loggers.json"
    earlier = json.loads(path.read_bytes()) if path.exists() else {}
    loggers, versions = [], {}
    for name in trackers:
        try:
            logger = _open(name, run.resolve(), earlier.get(name))
            versions[name] = logger.version  # of a service, this connects to it
        except Exception as exc:  # each tracker has errors of its own
            raise EnvironmentProblemError(f"--log {name}: {str(exc).strip().partition(chr(10))[0]}") from exc
        loggers.append(logger)
    if loggers and rank_zero_only.rank == 0:
        files.publish_json(path, versions)
    return loggers


def _open(name: str, run: Path, version: Any) -> Logger:
    logs = run.parent / "logs"
    if name == "csv":
        return CSVLogger(logs / name, run.name, version)
    if name == "tensorboard":
        return TensorBoardLogger(logs / name, run.name, version, default_hp_metric=False)
    if name == "mlflow":
        logs.mkdir(exist_ok=True)
        return MLFlowLogger(
            os.environ.get("MLFLOW_EXPERIMENT_NAME", "voxshard"),
            run.name,
            os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{logs}/mlflow.db"),
            artifact_location=str(logs / "mlflow"),
            run_id=version,
        )
    logger = WandbLogger(save_dir=run.parent, id=version, resume="allow", **wandb_options(run))
    _ = logger.experiment  # starts the session, which has the id
    return logger


def log_results(loggers: Sequence[Logger], run: Run, progress: Progress) -> None:
    """Log the config and the metrics of a finished run, and close the loggers."""
    values, num_epochs = result_values(run), run.tables()["training"].num_rows
    for logger in loggers:
        logger.log_hyperparams(dict(run.config))
        logger.log_metrics(values, step=num_epochs)
        logger.save()
        logger.finalize("success")
        if isinstance(logger, WandbLogger):
            session = logger.experiment
            folder, mode = Path(session.dir).parent, "offline" if session.offline else "online"
            session.finish()
            note_offline(mode, folder, progress)
