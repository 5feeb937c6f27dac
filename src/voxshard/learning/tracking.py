"""Results outside the run directory: runs.csv next to it, and the requested experiment trackers.

Networks are logged epoch by epoch through Lightning's loggers, see `learning._torch.loggers`; classifiers, which have
no epochs, once, to Weights & Biases.
"""

from __future__ import annotations

import importlib
import netrc
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal
from urllib.parse import urlsplit

from voxshard.errors import BackendUnavailableError, ConfigError
from voxshard.progress import Progress
from voxshard.store.runs import RUNS_TABLE, Run, append_results

Tracker = Literal["wandb", "tensorboard", "mlflow", "csv"]
EXTRAS = {"wandb": "tracking", "tensorboard": "tensorboard", "mlflow": "mlflow"}
"""Extra that brings the package of a tracker; the package has the tracker's name, and csv needs none."""
_WANDB_API = "https://api.wandb.ai"
_WANDB_MODES = ("online", "offline", "disabled", "shared", "run", "dryrun")
_PATIENCE_S = 3.0


def append_to_table(run: Run) -> Path:
    """Append every metric of a run to runs.csv in the run's parent folder; earlier entries are kept."""
    config = run.config
    about = {
        "created": config["created"],
        "run": run.name,
        "features": "+".join(source["name"] for source in config["features"]),
        "label": ",".join(config["label"]),
        "classifier": config["classifier"],
        "seed": config["seed"],
    }
    path = run.path.resolve().parent / RUNS_TABLE
    append_results(
        path,
        [
            {**about, "split": split, "metric": name, **estimate}
            for split, metrics in run.metrics["metrics"].items()
            for name, estimate in metrics.items()
        ],
    )
    return path


def check_trackers(trackers: Sequence[str]) -> None:
    """Raise an error before a training if one of its trackers cannot be used.

    Raises
    ------
    BackendUnavailableError : the package of a tracker is not installed.
    ConfigError : WANDB_MODE is none of its modes.
    """
    for name in trackers:
        if name in EXTRAS:
            tracker_module(name)
    if "wandb" in trackers:
        check_wandb_mode()


def tracker_module(name: str) -> ModuleType:
    """Import the package of a tracker.

    Raises
    ------
    BackendUnavailableError : it is not installed.
    """
    absent = BackendUnavailableError(
        f"--log {name} needs the package {name}, which is not installed here; pip install 'voxshard[{EXTRAS[name]}]', "
        "or omit it: runs.csv has the results anyway"
    )
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name != name:
            raise
        raise absent from exc
    if hasattr(found, "__path__") and getattr(found, "__file__", None) is None:  # a folder wandb/ of earlier runs
        raise absent
    return found


def check_wandb_mode() -> None:
    """Raise ConfigError if `WANDB_MODE` is invalid.

    Raises
    ------
    ConfigError : none of Weights & Biases' modes.
    """
    mode = os.environ.get("WANDB_MODE")
    if mode and mode not in _WANDB_MODES:
        raise ConfigError(
            f"WANDB_MODE={mode}: no mode of Weights & Biases; give online, offline or disabled, or unset it"
        )


def wandb_options(run: Path) -> dict[str, str]:
    """Return `project`, `name` and `mode` of a run for Weights & Biases. The mode is offline (for a later sync), unless
    `WANDB_MODE` is set or the service can be reached. `WANDB_PROJECT` and `WANDB_BASE_URL` work as usual."""
    mode = os.environ.get("WANDB_MODE") or ("online" if _reachable() else "offline")
    return {"project": os.environ.get("WANDB_PROJECT", "voxshard"), "name": run.resolve().name, "mode": mode}


def log_to_wandb(run: Run, progress: Progress) -> None:
    """Log the config and metrics of a finished run to Weights & Biases."""
    options = wandb_options(run.path)
    session = tracker_module("wandb").init(**options, dir=str(run.path.resolve().parent), config=dict(run.config))
    session.summary.update(result_values(run))
    folder = Path(session.dir).parent
    session.finish()
    note_offline(options["mode"], folder, progress)


def note_offline(mode: str, folder: Path, progress: Progress) -> None:
    """Report the command that uploads an offline run."""
    if mode == "offline":
        progress.note(f"wandb is offline; later: wandb sync {folder}")


def result_values(run: Run) -> dict[str, float]:
    """Return the metrics of a run, named `<split>/<name>`."""
    return {
        f"{split}/{name}": estimate["value"]
        for split, metrics in run.metrics["metrics"].items()
        for name, estimate in metrics.items()
        if estimate["value"] is not None
    }


def _reachable() -> bool:
    """Whether a user is logged in and the service answers."""
    address = urlsplit(os.environ.get("WANDB_BASE_URL", _WANDB_API))
    if not _has_key(address.netloc):
        return False
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        with socket.create_connection((address.hostname or "", port), timeout=_PATIENCE_S):
            return True
    except OSError:
        return False


def _has_key(host: str) -> bool:
    """Whether an API key exists in a place that `wandb login` uses or documents; the client's own query is
    deprecated."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC", Path.home() / ".netrc")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
