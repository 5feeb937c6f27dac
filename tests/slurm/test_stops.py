"""A stop is no failed attempt: a busy controller is asked again, and what it did not requeue is not counted."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from support import scheduler_stand_in
from support.earlier_runs import cluster as draft_of
from support.earlier_runs import prepared
from voxshard.errors import IncompleteError
from voxshard.slurm import queue
from voxshard.slurm.array_task import ArrayTask
from voxshard.slurm.record import TaskRecord
from voxshard.slurm.submit import Cluster
from voxshard.stages import extract
from voxshard.store.layout import FeatureDir

BUSY = "slurm_load_jobs error: Socket timed out on send/recv operation"


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return scheduler_stand_in.impatient(tmp_path / "bin", monkeypatch, patience_s=1.0, retry_every_s=0.02)


@pytest.fixture
def cluster(tmp_path: Path, scheduler: Path) -> Cluster:
    """An experiment with two tasks, planned, at work."""
    found = draft_of(tmp_path, "exp", "mfcc", 2)
    prepared(found.experiment, [100.0] * 4)
    found.experiment.freeze()
    found.record.write(found.submission, found.site)
    out = found.experiment.features("one")
    extract.run(
        extract.ExtractConfig(manifest=found.experiment.manifest, encoder="mfcc", out=out, shards=2), plan_only=True
    )
    return found


def stop(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, task: int = 0) -> TaskRecord:
    """Run an element that is asked to stop, and return its record."""
    monkeypatch.setattr(ArrayTask, "_child", lambda self, words, environment: 75)
    monkeypatch.setattr(ArrayTask, "_asked", lambda self: {})
    cluster.record.folder("extract-one").mkdir(exist_ok=True)
    element = ArrayTask(cluster.experiment.path, "extract-one", 1, task, f"7_{task}", 0, threading.Event())
    assert element.run() == 75
    record = cluster.record.task("extract-one", task)
    assert record is not None
    assert record.state == "stopped"
    return record


@pytest.mark.parametrize("command", ["squeue", "scontrol"])
def test_a_controller_that_is_busy_for_a_while_is_asked_again(
    cluster: Cluster, scheduler: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(queue, "PATIENCE_S", 120.0)
    answers = {"squeue": "echo RUNNING", "scontrol": 'echo "$@" >> {folder}/scontrol-calls'}
    for name, lines in answers.items():
        busy = f"""[ $(ls {{folder}} | grep -c busy) -ge 5 ] || {{
  touch $(mktemp {{folder}}/busy.XXXXXX); echo '{BUSY}' >&2; exit 1; }}
"""
        scheduler_stand_in.write(scheduler, name, (busy if name == command else "") + lines)
    assert stop(cluster, monkeypatch).to_requeue
    assert (scheduler / "scontrol-calls").read_text() == "requeue 7_0\n"


def test_what_is_cancelled_stays_so_and_counts(
    cluster: Cluster, scheduler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler_stand_in.write(scheduler, "squeue", "echo CANCELLED")
    scheduler_stand_in.write(scheduler, "scontrol", "touch {folder}/requeued")
    assert not stop(cluster, monkeypatch).to_requeue
    assert not (scheduler / "requeued").exists()


def test_tasks_that_could_not_be_requeued_are_submitted_again_without_using_up_an_attempt(
    cluster: Cluster, scheduler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit", reason="jobs are written with submitit: pip install 'voxshard[slurm]'")
    squeue = (scheduler / "squeue").read_text()
    folder = FeatureDir(cluster.experiment.features("one"))
    folder.shard(1, 2).touch()

    def submit_again() -> int:
        """A merge finds a task missing; how many attempts were counted then."""
        (scheduler / "squeue").write_text(squeue)
        cluster.record.folder("merge-one").mkdir(exist_ok=True)
        assert ArrayTask(cluster.experiment.path, "merge-one", cluster.record.last_number("merge-one"), 0, "8_0", 0,
                         threading.Event()).run() == 0  # fmt: skip
        return cluster.num_automatic("extract-one")

    assert submit_again() == 1
    for _ in range(4):
        scheduler_stand_in.write(scheduler, "squeue", f"echo '{BUSY}' >&2; exit 1")
        monkeypatch.setattr(queue, "PATIENCE_S", 0.1)
        assert stop(cluster, monkeypatch).to_requeue
        assert submit_again() == 1
    assert len(cluster.record.attempts("extract-one")) == 5

    killed = cluster.record.task("extract-one", 0)
    assert killed is not None
    killed.state = "killed"
    cluster.record.write_task("extract-one", killed)
    assert [submit_again() for _ in range(2)] == [2, 3]
    with pytest.raises(IncompleteError, match="1 of 2 tasks missing after 3 attempts"):
        submit_again()
