"""Results beyond the run directory: runs.csv next to it, always, and Weights & Biases, if asked for."""

from __future__ import annotations

import importlib
import netrc
import os
import socket
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

from voxshard.errors import BackendUnavailableError
from voxshard.progress import Progress
from voxshard.store.runs import Run, append_results

_API = "https://api.wandb.ai"
_PATIENCE_S = 3.0


def append_to_table(run: Run) -> Path:
    """Enter every metric of a run into runs.csv in the folder that holds the run; earlier entries stay."""
    config = run.config
    about = {
        "created": config["created"],
        "run": run.name,
        "features": "+".join(source["name"] for source in config["features"]),
        "label": ",".join(config["label"]),
        "classifier": config["classifier"],
        "seed": config["seed"],
    }
    path = run.path.resolve().parent / "runs.csv"
    append_results(
        path,
        [
            {**about, "split": split, "metric": name, **estimate}
            for split, metrics in run.metrics["metrics"].items()
            for name, estimate in metrics.items()
        ],
    )
    return path


def wandb_module() -> ModuleType:
    """The Weights & Biases client.

    Raises
    ------
    BackendUnavailableError : it is not installed.
    """
    absent = BackendUnavailableError(
        "--wandb needs the package wandb, which is not installed here; pip install 'voxshard[tracking]', or leave "
        "--wandb out: runs.csv has the results anyway"
    )
    try:
        found = importlib.import_module("wandb")
    except ModuleNotFoundError as exc:
        if exc.name != "wandb":
            raise
        raise absent from exc
    if hasattr(found, "__path__") and getattr(found, "__file__", None) is None:  # a folder wandb/ of earlier runs
        raise absent
    return found


def log_to_wandb(wandb: ModuleType, run: Run, progress: Progress) -> None:
    """Log the config and metrics of a finished run; offline, to be synced later, unless the service can be reached.

    `WANDB_MODE`, `WANDB_PROJECT` and `WANDB_BASE_URL` are respected as usual.
    """
    mode = os.environ.get("WANDB_MODE") or ("online" if _reachable() else "offline")
    session = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "voxshard"),
        name=run.name,
        dir=str(run.path.resolve().parent),
        config=dict(run.config),
        mode=mode,
    )
    curves = run.tables().get("training")
    for row in curves.to_pylist() if curves is not None else ():
        session.log({name: value for name, value in row.items() if value is not None}, step=int(row["epoch"]))
    for split, metrics in run.metrics["metrics"].items():
        for name, estimate in metrics.items():
            session.summary[f"{split}/{name}"] = estimate["value"]
    folder = Path(session.dir).parent
    session.finish()
    if mode == "offline":
        progress.note(f"wandb is offline; later: wandb sync {folder}")


def _reachable() -> bool:
    """Whether somebody is logged in and the service answers."""
    address = urlsplit(os.environ.get("WANDB_BASE_URL", _API))
    if not _has_key(address.netloc):
        return False
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        with socket.create_connection((address.hostname or "", port), timeout=_PATIENCE_S):
            return True
    except OSError:
        return False


def _has_key(host: str) -> bool:
    """Whether there is an API key where `wandb login` and its documentation put one; the client's own question for it
    is deprecated."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC", Path.home() / ".netrc")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
