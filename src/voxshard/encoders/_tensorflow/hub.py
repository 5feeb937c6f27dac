"""SavedModels from TensorFlow Hub and Kaggle, by the names people know them by; for a machine with internet."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from voxshard import files
from voxshard.encoders.trillsson import GRAPH
from voxshard.errors import BackendUnavailableError, ConfigError, MissingWeightsError, TransientFaultError

_KAGGLE_HANDLE = re.compile(r"[\w.-]+(/[\w.-]+){3,4}")
_KAGGLE_WORDS = ("models", "frameworks", "variations", "versions")
"""What separates the parts of a handle in the addresses that kaggle.com shows."""


def fetch_savedmodel(handle_or_url: str, target: Path) -> Path:
    """Bring a SavedModel into a folder; one that exists already is kept as it is.

    Parameters
    ----------
    handle_or_url : `https://tfhub.dev/...` (resolved by tensorflow-hub), or a Kaggle handle
        `owner/model/framework/variation[/version]` or the model's address on kaggle.com (by kagglehub).
    target : the folder that shall hold saved_model.pb and variables/; appears complete or not at all.

    Returns
    -------
    `target`.

    Raises
    ------
    ConfigError : neither an address nor a handle, or `target` holds something else.
    BackendUnavailableError : tensorflow-hub or kagglehub is not installed, or cannot be imported.
    TransientFaultError : it could not be downloaded.
    MissingWeightsError : what came is not a SavedModel.
    """
    if (target / GRAPH).exists():
        return target
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target}: holds something else than a SavedModel; give a folder that is empty or not there")
    cached = _download(handle_or_url)
    if not (cached / GRAPH).is_file():
        found = ", ".join(sorted(path.name for path in cached.iterdir())[:10]) or "nothing"
        raise MissingWeightsError(f"{handle_or_url}: is no SavedModel: no {GRAPH} in it, but {found}")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = files.temp_path_for(target)
    try:
        with files.storage_errors(target):
            shutil.copytree(cached, staging, copy_function=shutil.copyfile)
        os.replace(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _download(handle_or_url: str) -> Path:
    """Into the cache of tensorflow-hub or kagglehub; the folder there."""
    address = urlsplit(handle_or_url)
    on_kaggle = address.netloc in ("kaggle.com", "www.kaggle.com")
    handle = "/".join(part for part in address.path.split("/") if part and not (on_kaggle and part in _KAGGLE_WORDS))
    try:
        if address.scheme == "https" and not on_kaggle:
            import tensorflow_hub

            return Path(tensorflow_hub.resolve(handle_or_url))
        if (on_kaggle or not address.scheme) and _KAGGLE_HANDLE.fullmatch(handle):
            import kagglehub

            return Path(kagglehub.model_download(handle))
    except ImportError as exc:
        raise BackendUnavailableError(
            f"{handle_or_url}: to resolve it takes tensorflow-hub or kagglehub, and `import {exc.name}` fails ({exc});"
            " `pip install 'voxshard[tensorflow]'`, or download it in a browser and unpack it there yourself"
        ) from exc
    except OSError as exc:
        raise TransientFaultError(
            f"{handle_or_url}: could not be fetched: {exc}; check that this machine has internet access; "
            "compute nodes often have none: fetch on a login node or elsewhere, and copy the folder"
        ) from exc
    raise ConfigError(
        f"{handle_or_url!r}: neither an address https://... nor a Kaggle handle owner/model/framework/variation"
    )
