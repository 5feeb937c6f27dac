"""shards -> features.h5, utterances.parquet, failures.csv, summary.json."""

from __future__ import annotations

from typing import Any

from voxshard.stages.base import Task
from voxshard.store.merge import MergeConfig, merge

__all__ = ["MergeConfig", "run"]


def run(config: MergeConfig, task: Task | None = None) -> dict[str, Any]:
    """Join the shards of a feature set; a set that is merged already and intact is left as it is.

    Returns
    -------
    What is in summary.json.

    Raises
    ------
    DataError : shards are missing, damaged or of another set, or too many utterances failed; see `store.merge.merge`.
    """
    task = task or Task()
    return merge(config, task.progress, task.check)
