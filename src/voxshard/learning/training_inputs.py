"""Inputs of a training by content, stored in RUN/inputs.json; file times are not used.

Times of files change when they are copied or touched, and nodes do not agree on them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from voxshard import files
from voxshard.learning.network_config import NetworkConfig
from voxshard.learning.train_config import TrainConfig
from voxshard.locations import local_copy
from voxshard.store.layout import FeatureDir
from voxshard.store.merged import read_summary
from voxshard.store.runs import Run

_OF_A_PLACE = {"out", "features", "manifest"}
"""Fields that name where an experiment is, not what is trained; a moved experiment is the same one."""


def inputs_of(config: TrainConfig | NetworkConfig) -> dict[str, Any]:
    """Return the current inputs of a training: its options, the merges of its feature sets, its manifest.

    Returns
    -------
    `config`: digest of the options that differ from their defaults; `features`: [name, merge_id] of each set, merge_id
    null where nothing is merged; `manifest`: its SHA-256, null where it is not trained from audio or does not exist.
    """
    folders: tuple[Path, ...]
    manifest: Path | None
    if isinstance(config, TrainConfig):
        folders, manifest = tuple(map(local_copy, config.features)), None
    else:
        folders = (local_copy(config.features),) if config.features else ()
        manifest = local_copy(config.manifest) if config.manifest else None
    return {
        "config": files.digest_of(_options(config)),
        "features": [[path.name, _merge_id(path)] for path in folders],
        "manifest": None if manifest is None else _sha256(manifest),
    }


def is_trained_from(run: Run, config: TrainConfig | NetworkConfig, frozen: Mapping[str, Any] | None) -> bool:
    """Whether a run was trained with these options from the current content of its inputs.

    Parameters
    ----------
    frozen : the config that its experiment kept for it. It decides for runs of earlier versions, which have no
        inputs.json.
    """
    if not run.metrics_file.exists():
        return False
    wanted = inputs_of(config)
    if any(merge is None for _, merge in wanted["features"]):
        return False
    try:
        return bool(json.loads(files.read_bytes(run.inputs_file)) == wanted)
    except FileNotFoundError:
        return frozen is not None and _options_of(config, frozen) == _options(config)
    except ValueError:
        return False


def _options(config: TrainConfig | NetworkConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude=_OF_A_PLACE, exclude_defaults=True)


def _options_of(config: TrainConfig | NetworkConfig, content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the options in a config file; None if it cannot be read as one."""
    try:
        return _options(type(config).model_validate(dict(content)))
    except ValueError:
        return None


def _merge_id(path: Path) -> str | None:
    summary = read_summary(FeatureDir(path))
    return None if summary is None else str(summary.get("merge_id"))


def _sha256(path: Path) -> str | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return _hashed(path, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=8)
def _hashed(path: Path, *_: int) -> str:
    """Return the SHA-256 of a file; each file is hashed once per process."""
    return files.sha256_of(path)
