"""Memory that training needs, and memory that is available."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from voxshard.errors import DataError
from voxshard.learning.classifiers import CLASSIFIERS, classifier_of
from voxshard.learning.train_config import ForestSettings

GB = 10**9
BYTES_PER_VALUE = 12
"""A stored float32 and a float64 copy of it: what a step of preprocessing takes for the rows it works on."""
PREPROCESSING_BYTES_PER_VALUE = 15
"""Bytes per value of the temporary copies of standardize, pca and l2 on all rows at once, measured."""

_NODE_BYTES = 64
"""A node of one of scikit-learn's trees, without its values."""

Strategy = Literal["complete", "in blocks", "streaming"]
"""How rows are fitted: all at once; preprocessed block by block into one array, then all at once; or never all at
once."""


def needed_gb(num_rows: int, dim: int, bytes_per_value: float = BYTES_PER_VALUE) -> float:
    """Return the memory for `num_rows` rows of `dim` values, in GB (10^9 bytes)."""
    return num_rows * dim * bytes_per_value / GB


def most_gb_of_trees(settings: ForestSettings, num_rows: int, num_classes: int) -> float:
    """Return the memory that the trees of a random forest cannot exceed, in GB.

    A tree has less than two nodes per leaf, each with a value per class. Trees reach that many only if the classes
    cannot be told apart.
    """
    leaves = max(1, num_rows // settings.min_samples_leaf)
    if settings.max_depth is not None:
        leaves = min(leaves, 2**settings.max_depth)
    return settings.n_estimators * 2 * leaves * (_NODE_BYTES + 8 * num_classes) / GB


def free_gb() -> float:
    """Return the memory that this process can still use, in GB: free memory of the machine, or of its cgroup (a
    job)."""
    meminfo = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(meminfo["MemAvailable"].split()[0]) * 1024
    limit = _cgroup_free()
    return (free if limit is None else min(free, limit)) / GB


def _cgroup_free() -> int | None:
    """Return the bytes left in this process's cgroup (version 2) and its parents; None if nothing limits them."""
    try:
        line = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return None
    top = Path("/sys/fs/cgroup")
    folder = top / line.removeprefix("0::").lstrip("/")
    left = []
    for group in (folder, *folder.parents):
        if not group.is_relative_to(top):
            break
        try:
            limit = (group / "memory.max").read_text().strip()
            used = int((group / "memory.current").read_text())
        except (OSError, ValueError):
            continue
        if limit != "max":
            left.append(max(0, int(limit) - used))
    return min(left, default=None)


def strategy(name: str, num_rows: int, dim: int, limit_gb: float, *, has_preprocessing: bool) -> tuple[Strategy, float]:
    """Choose how to fit a classifier to its training rows within a limit; return the strategy and its memory in GB.

    Raises
    ------
    DataError : they do not fit and the classifier needs them all at once; reports how much it needs and how much is
        available.
    """
    entry = classifier_of(name)
    needed = needed_gb(num_rows, dim, entry.bytes_per_value)
    complete = max(needed, needed_gb(num_rows, dim, PREPROCESSING_BYTES_PER_VALUE)) if has_preprocessing else needed
    if complete <= limit_gb:
        return "complete", complete
    if has_preprocessing and needed <= limit_gb:
        return "in blocks", needed
    if entry.streams:
        return "streaming", limit_gb
    others = ", ".join(other for other, entry in CLASSIFIERS.items() if entry.streams)
    raise DataError(
        f"{name} needs all training rows in memory: {needed:.3g} GB for {num_rows:,} rows of {dim:,} values, and there "
        f"are {limit_gb:.3g} GB; raise memory_limit_gb or the job's memory, pool frames when extracting, or use a "
        f"classifier that reads piece by piece: {others}"
    )
