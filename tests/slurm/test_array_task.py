"""What an array element does before it starts its stage, if it starts it at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from support import scheduler_stand_in
from support.earlier_runs import cluster, prepared
from voxshard import files
from voxshard.cli.logs import command as logs
from voxshard.diagnostics.step_status import step_statuses
from voxshard.errors import IncompleteError
from voxshard.leases import STALE_AFTER_S
from voxshard.slurm.array_task import ArrayTask
from voxshard.slurm.record import Record, TaskRecord
from voxshard.stages import extract
from voxshard.store.layout import FeatureDir

NUM_TASKS = 8
RunTask = Callable[[str, int], str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunTask:
    """Run one element of an experiment of three shards; its stage starts, or else what its record specifies."""
    started: list[object] = []

    def child(self: ArrayTask, words: object, environment: object) -> int:
        started.append(words)
        return 0

    monkeypatch.setattr(ArrayTask, "_child", child)
    monkeypatch.setattr(ArrayTask, "_asked", lambda self: {})
    monkeypatch.setenv("PATH", str(scheduler_stand_in.put_into(tmp_path / "bin")), prepend=":")
    own = cluster(tmp_path, "exp", "mfcc", NUM_TASKS)
    prepared(own.experiment, [100.0] * 3)
    own.experiment.freeze()
    own.record.write(own.submission, own.site)
    folder = FeatureDir(own.experiment.features("one"))
    config = extract.ExtractConfig(manifest=own.experiment.manifest, encoder="mfcc", out=folder.path, shards=3)
    assert extract.run(config, plan_only=True).identity.num_shards == 3

    def element(step: str, task: int) -> str:
        started.clear()
        own.record.folder(step).mkdir(exist_ok=True)
        assert ArrayTask(own.experiment.path, step, 1, task, f"7_{task}", 0, threading.Event()).run() == 0
        record = own.record.task(step, task)
        assert record is not None
        return "started" if started else str(record.message)

    return element


@pytest.fixture
def folder(tmp_path: Path) -> FeatureDir:
    return FeatureDir(tmp_path / "exp/features/one")


def test_elements_beyond_the_number_of_shards_end_without_starting_anything(run: RunTask) -> None:
    assert [run("extract-one", task) for task in range(NUM_TASKS)] == ["started"] * 3 + [
        "other tasks process the remaining shards"
    ] * 5


def test_an_element_whose_own_shards_are_there_starts_only_if_nobody_is_at_those_of_the_others(
    run: RunTask, folder: FeatureDir
) -> None:
    folder.shard(0, 3).touch()
    assert run("extract-one", 0) == "started"
    leases = [folder.progress / f"shard-{shard:05d}.lease" for shard in (1, 2)]
    leases[0].touch()
    assert run("extract-one", 0) == "started"
    leases[1].touch()
    assert run("extract-one", 0) == "other tasks process the remaining shards"
    long_ago = leases[0].stat().st_mtime - 2 * STALE_AFTER_S
    os.utime(leases[0], (long_ago, long_ago))
    assert run("extract-one", 0) == "started"
    assert run("extract-one", 1) == "started", "its own is missing, whoever has it"
    for shard in (1, 2):
        folder.shard(shard, 3).touch()
    assert run("extract-one", 0) == "was done already"


def test_what_failed_for_good_stops_the_chain_only_while_it_is_missing(
    run: RunTask, folder: FeatureDir, tmp_path: Path
) -> None:
    pytest.importorskip("submitit", reason="jobs are written with submitit: pip install 'voxshard[slurm]'")
    record = Record(tmp_path / "exp")
    record.folder("extract-one").mkdir()

    def fail(task: int) -> None:
        failed = TaskRecord(task, 1, f"6_{task}", files.host_name(), "cpu", "failed", 0.0, 1.0, exit_code=2)
        record.write_task("extract-one", failed)

    for shard in (0, 1):
        folder.shard(shard, 3).touch()
    fail(7)
    assert "merge-one waits for extract-one" in run("merge-one", 0), "task 7 is of an attempt with more tasks"
    fail(2)
    with pytest.raises(IncompleteError, match="extract-one: task 2 failed"):
        run("merge-one", 0)
    folder.shard(2, 3).touch()
    assert run("merge-one", 0) == "started"


def test_a_step_without_its_inputs_is_blocked_and_names_what_failed(run: RunTask, tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="jobs are written with submitit: pip install 'voxshard[slurm]'")
    record = Record(tmp_path / "exp")
    record.folder("extract-one").mkdir()
    failed = TaskRecord(0, 1, "6_0", files.host_name(), "cpu", "failed", 0.0, 1.0, exit_code=2, message="no such key")
    record.write_task("extract-one", failed)
    with pytest.raises(IncompleteError, match=r"extract-one: task 0 failed \(no such key; .*6_0.out\); fix it"):
        run("merge-one", 0)
    with pytest.raises(IncompleteError, match=r"^extract-one failed, so merge-one did not run; see `voxshard logs"):
        run("report", 0)
    steps = {item.name: item for item in step_statuses(tmp_path / "exp")}
    assert [steps[name].tasks for name in ("merge-one", "report")] == [{"blocked": 1}, {"blocked": 1}]
    assert [steps[name].failures for name in ("extract-one", "merge-one", "report")] == [["1 x no such key"], [], []]
    log = record.logs("extract-one") / "6_0.out"
    log.parent.mkdir()
    log.write_text("what it printed\n")
    (record.logs("merge-one")).mkdir()
    (record.logs("merge-one") / "7_0.out").write_text("a consequence\n")
    printed = CliRunner().invoke(logs, [str(tmp_path / "exp"), "--failed"])
    assert printed.stdout == f"==> {log} <==\nwhat it printed\n[failed: no such key]\n"
    assert printed.stderr == (
        f"did not run because of that: merge-one, report; fix it, then voxshard retry {tmp_path}/exp\n"
    )


def test_a_failed_task_is_recorded_with_the_error_that_its_command_printed(
    run: RunTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record(tmp_path / "exp")
    log = record.logs("extract-one") / "7_0.out"
    log.parent.mkdir(parents=True)
    log.write_text("voxshard: of an earlier run\n")

    def child(self: ArrayTask, words: object, environment: object) -> int:
        with log.open("a") as stream:
            stream.write("mfcc on cpu\nvoxshard: no space left; free some\nsrun: error: n1: task 0: Exited\n")
        return 4

    monkeypatch.setattr(ArrayTask, "_child", child)
    assert ArrayTask(tmp_path / "exp", "extract-one", 1, 0, "7_0", 0, threading.Event()).run() == 4
    assert ArrayTask(tmp_path / "exp", "extract-one", 1, 1, "7_1", 0, threading.Event()).run() == 4
    messages = [task.message for task in record.tasks("extract-one")]
    assert messages == ["exit code 4: no space left; free some", "exit code 4"]


def test_shards_that_were_merged_and_deleted_are_not_missing(run: RunTask, folder: FeatureDir) -> None:
    assert run("extract-one", 0) == "started"
    digest = {"sha256": ""}
    summary = {
        "format_version": 1, "merge_id": "m", "stale": False, "mode": "packed", "reasons": {}, "splits": {},
        "utterances": {"total": 1, "ok": 1, "failed": 0}, "shards": {"total": 1, "deleted": True},
        "files": {"features.h5": digest, "utterances.parquet": digest, "failures.csv": digest},
    }  # fmt: skip
    files.publish_json(folder.summary, summary)
    assert run("extract-one", 0) == "was done already"
