"""Merging of shards into features.h5, utterances.parquet, failures.csv and summary.json."""

from __future__ import annotations

from typing import Any

from voxshard.stages.base import Task
from voxshard.store.merge import MergeConfig, merge

__all__ = ["MergeConfig", "run"]


def run(config: MergeConfig, task: Task | None = None) -> dict[str, Any]:
    """Merge the shards of a feature set; a set that is already merged and intact remains unchanged.

    Returns
    -------
    What is in summary.json.

    Raises
    ------
    DataError : shards are missing, damaged or of another set, or too many utterances failed; see `store.merge.merge`.
    """
    task = task or Task()
    return merge(config, task.progress, task.check)
