"""Decisions of a trained run on other features; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxshard.errors import ConfigError
from voxshard.stages.evaluate import module_of
from voxshard.store.features import FeatureSet
from voxshard.store.runs import Run

_WANTED = "feature sets, their folders, or an array (N, D)"


def predict(run: Run, data: Any) -> npt.NDArray[np.object_]:
    """Apply the model of a run to feature sets, to rows in memory or, for a network, to a manifest.

    Parameters
    ----------
    data : a FeatureSet, a path, a sequence of these, or an array (N, D) or (N, L, D).

    Returns
    -------
    object (N,): the predicted class of each utterance; None where it has no frame or its recording cannot be read.

    Raises
    ------
    ConfigError : `data` is none of these.
    FeatureMismatchError : features of another fingerprint, or of another size, than the model was trained on.
    """
    module = module_of(run.path)
    if hasattr(data, "__array__"):
        if (run.model / "network.yaml").exists():
            raise ConfigError(f"{run.path}: a network; give the path of a manifest, or a logmel set")
        rows = np.asarray(data)
        if rows.ndim not in (2, 3) or not np.issubdtype(rows.dtype, np.floating):
            raise ConfigError(f"predict: expected {_WANTED} (got {rows.dtype} of shape {rows.shape})")
        return _objects(module.predict_texts(run, rows))
    items = list(data) if isinstance(data, Sequence) and not isinstance(data, str) else [data]
    if not items or not all(isinstance(item, FeatureSet | str | PathLike) for item in items):
        raise ConfigError(f"predict: expected {_WANTED} (got {data!r})")
    if (run.model / "network.yaml").exists():
        if len(items) > 1:
            raise ConfigError(f"{run.path}: a network takes one manifest, or one logmel set (got {len(items)})")
        path = items[0].path if isinstance(items[0], FeatureSet) else Path(items[0])
        return _objects(module.predict_texts(run, path))
    sets = [item if isinstance(item, FeatureSet) else FeatureSet(Path(item)) for item in items]
    return _objects(module.predict_texts(run, sets))


def _objects(texts: Sequence[str | None]) -> npt.NDArray[np.object_]:
    values = np.empty(len(texts), object)
    values[:] = texts
    return values
