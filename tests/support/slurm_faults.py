"""An experiment to disturb, and what must be true of it afterwards; for tests on a cluster.

Two tasks of some twenty shards each, then merge. The encoder is slow until the disturbance is over, so that it comes
in the middle of the work on any machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py

from support.slurm_cluster import MINI, Experiment
from voxshard.store.layout import Plan

NUM_SHARDS, NUM_TASKS = 42, 2
SLOW = {"SLOW_MFCC_S": "0.5"}
MakeExperiment = Callable[..., Experiment]


def config(**jobs: Any) -> dict[str, Any]:
    """Of the experiment, with further keys of its extraction's jobs."""
    return {
        "prepare": {"format": "asvspoof5", "root": str(MINI), "limit": 252},
        "extract": {"mfcc": {"encoder": "slow-mfcc", "shards": NUM_SHARDS, "workers": 1}},
        "jobs": {"extract": {"partitions": "gpu_a100", "tasks": NUM_TASKS, "minutes": 10, **jobs}},
    }


def arrays(experiment: Path) -> dict[str, Any]:
    """What is in the merged set."""
    with h5py.File(experiment / "features" / "mfcc" / "features.h5", "r", locking=False) as file:
        return {"ids": file["utterance_id"].asstr()[:].tolist(), "embeddings": file["embeddings"][:].tobytes()}


def at_work(experiment: Experiment, *, shards: int = 2) -> None:
    """Until something is published, and a task runs that has more to do."""
    experiment.wait_for_shards(shards)
    experiment.cluster.wait_until(lambda: len(experiment.elements("extract-mfcc")) >= 1, "a running task")


def finish(experiment: Experiment, undisturbed: dict[str, Any], *, disturbed: int, name: str) -> None:
    """Wait for the end; the set is that of an undisturbed run, and not much was computed twice."""
    experiment.hurry()
    experiment.cluster.wait_until_empty()
    assert (experiment.path / "report.html").exists(), "\n".join(
        experiment.logs(step) for step in ("extract-mfcc", "merge-mfcc", "report")
    )
    assert arrays(experiment.path) == undisturbed["arrays"]
    folder = experiment.path / "features" / "mfcc"
    assert not list(folder.rglob("*.tmp"))
    again = len(experiment.log.read_text().splitlines()) - undisturbed["prepared"]
    largest = max(Counter(Plan.read(folder / "plan.parquet").shard.tolist()).values())
    print(f"\n{name}: {again} utterances computed again by {disturbed} disturbed tasks; a shard has up to {largest}")
    assert again <= disturbed * 2 * largest, "the shard under way, and what was decoded of the next one"
