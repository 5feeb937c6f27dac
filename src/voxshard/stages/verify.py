"""Verification of a feature set on disk."""

from __future__ import annotations

from voxshard.config import Settings
from voxshard.locations import LocalPath
from voxshard.stages.base import Task
from voxshard.store import verify
from voxshard.store.layout import FeatureDir
from voxshard.store.verify import Problem, Verdict

__all__ = ["Problem", "Verdict", "VerifyConfig", "run"]


class VerifyConfig(Settings):
    """Settings of one verification."""

    features: LocalPath
    """Folder of the feature set (DIR)."""
    quarantine: bool = False
    """Rename bad files to NAME.corrupt, so that they count as missing."""


def run(config: VerifyConfig, task: Task | None = None) -> Verdict:
    """Check every shard and merged file; problems are returned, not raised.

    Raises
    ------
    DataError : there is no feature set, or its plan and identity do not belong together.
    """
    task = task or Task()
    verdict = verify.verify(FeatureDir(config.features), task.progress, task.check)
    if config.quarantine:
        for path in verify.quarantine(verdict.problems):
            task.progress.note(f"{path}: renamed to {path.name}.corrupt")
    return verdict
