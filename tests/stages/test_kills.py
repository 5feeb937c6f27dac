"""Extractions killed for real: SIGKILL to a task, its group, its parent, its workers; then the same command again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import h5py
import pytest

from conftest import MakeCorpus
from voxshard.stages.merge import MergeConfig
from voxshard.stages.merge import run as merge
from voxshard.stages.verify import VerifyConfig
from voxshard.stages.verify import run as verify

TESTS = Path(__file__).parent.parent
NUM_UTTERANCES, NUM_SHARDS = 144, 36
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def manifest(make_corpus: MakeCorpus) -> Path:
    return make_corpus([0.05 + 0.001 * n for n in range(NUM_UTTERANCES)])  # every length once: it names the utterance


@pytest.fixture
def start(tmp_path: Path, manifest: Path) -> Iterator[Start]:
    """Start `voxshard extract` in its own group, with the toy encoder registered as another package would."""
    plugin = tmp_path / "plugin" / "voxshard_toy-1.0.dist-info"
    plugin.mkdir(parents=True)
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: voxshard-toy\nVersion: 1.0\n")
    (plugin / "entry_points.txt").write_text("[voxshard.encoders]\ntoy = support.toy_encoder:ToyEncoder\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(plugin.parent), str(TESTS)])}
    started: list[subprocess.Popen[bytes]] = []

    def begin(index: int = 0, count: int = 1, out: str = "set", delay_s: float = 0.005) -> subprocess.Popen[bytes]:
        settings = {"prepare_s": delay_s, "log": tmp_path / "prepared.log"}
        words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        command = [sys.executable, "-m", "voxshard", "extract", str(manifest), "--encoder", "toy", *words]
        command += ["--out", str(tmp_path / out), "--shards", str(NUM_SHARDS), "--workers", "1"]
        command += ["--task", str(index), "--tasks", str(count)]
        with open(tmp_path / "output.log", "ab") as log:
            child = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        started.append(child)
        return child

    yield begin
    for child in started:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def arrays(folder: Path) -> dict[str, bytes | list[str]]:
    with h5py.File(folder / "features.h5", "r", locking=False) as file:
        return {"ids": file["utterance_id"].asstr()[:].tolist(), "embeddings": file["embeddings"][:].tobytes()}


def published(folder: Path) -> int:
    return len(list((folder / "shards").glob("*.h5"))) if folder.exists() else 0


def processes_of(group: int) -> list[int]:
    """Living processes of a session, by /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == group and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 600.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.02)


def wait_for_another_shard(folder: Path, tasks: Collection[subprocess.Popen[bytes]]) -> None:
    before = published(folder)
    wait_until(lambda: published(folder) > before or all(task.poll() is not None for task in tasks), "a shard")


@pytest.mark.parametrize(("count", "num_kills"), [(1, 10), (3, 6), (7, 4)])
def test_kills_at_random_moments_lose_nothing(start: Start, tmp_path: Path, count: int, num_kills: int) -> None:
    draw = random.Random(count)
    folders: list[Path] = []
    kills = 0
    while kills < num_kills:  # where tasks are quick, a set is finished before so many kills: then another one
        folders.append(tmp_path / f"set-{len(folders)}")
        kills += extract_under_fire(start, folders[-1], count, num_kills - kills, draw)
    assert start(out="undisturbed").wait(600) == 0, (tmp_path / "output.log").read_text()
    merge(MergeConfig(features=tmp_path / "undisturbed"))
    for folder in folders:
        merge(MergeConfig(features=folder))
        assert arrays(folder) == arrays(tmp_path / "undisturbed")
        assert not list(folder.rglob("*.tmp"))
        assert verify(VerifyConfig(features=folder)).problems == []
    prepared = Counter((tmp_path / "prepared.log").read_text().split())
    again = sum(times - len(folders) - 1 for times in prepared.values())
    per_shard = NUM_UTTERANCES // NUM_SHARDS
    assert again <= num_kills * 3 * per_shard, "the shard under way, and those decoded and written next to it"


def extract_under_fire(start: Start, folder: Path, count: int, num_kills: int, draw: random.Random) -> int:
    """Fill a folder with `count` tasks, killing and starting again; returns how many kills it took."""
    running = {index: start(index, count, folder.name) for index in range(count)}
    kills = 0
    while kills < num_kills and published(folder) < NUM_SHARDS:
        wait_for_another_shard(folder, running.values())
        time.sleep(draw.uniform(0, 0.1))
        index = draw.randrange(count)
        if running[index].poll() is None:
            os.killpg(running[index].pid, signal.SIGKILL)
            kills += 1
        running[index].wait()
        running[index] = start(index, count, folder.name)
    assert all(child.wait(600) == 0 for child in running.values()), (folder.parent / "output.log").read_text()
    return kills


def test_killing_the_task_alone_leaves_no_orphan(start: Start, tmp_path: Path) -> None:
    task = start(delay_s=0.05)
    wait_until(lambda: published(tmp_path / "set") >= 1, "a shard")
    assert len(processes_of(task.pid)) >= 2
    os.kill(task.pid, signal.SIGKILL)
    task.wait()
    wait_until(lambda: not processes_of(task.pid), "its workers to leave")


def test_killing_the_whole_group_leaves_nothing_in_shared_memory(start: Start, tmp_path: Path) -> None:
    before = set(Path("/dev/shm").iterdir())
    task = start(delay_s=0.05)
    wait_until(lambda: published(tmp_path / "set") >= 1, "a shard")
    os.killpg(task.pid, signal.SIGKILL)
    task.wait()
    wait_until(lambda: not processes_of(task.pid), "the group to end")
    assert {path for path in Path("/dev/shm").iterdir() if "voxshard" in path.name} <= before


def test_killing_one_worker_costs_only_time(start: Start, tmp_path: Path) -> None:
    task = start(delay_s=0.02)
    for number in (1, 3):
        wait_until(lambda: published(tmp_path / "set") >= number, "a shard")  # noqa: B023
        wait_until(lambda: len(processes_of(task.pid)) == 2, "a worker, also after one was replaced")
        (worker,) = [pid for pid in processes_of(task.pid) if pid != task.pid]
        os.kill(worker, signal.SIGKILL)
    assert task.wait(600) == 0, (tmp_path / "output.log").read_text()
    assert published(tmp_path / "set") == NUM_SHARDS
    assert (tmp_path / "output.log").read_text().count("a decode worker ended with code -9") == 2
    merge(MergeConfig(features=tmp_path / "set"))
    assert len(arrays(tmp_path / "set")["ids"]) == NUM_UTTERANCES


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT"])
def test_a_signal_means_publish_what_is_whole_and_exit_75(start: Start, tmp_path: Path, name: str) -> None:
    task = start(delay_s=0.02)
    wait_until(lambda: published(tmp_path / "set") >= 2, "two shards")
    os.killpg(task.pid, getattr(signal, name))  # as SLURM does: to every process of the job
    assert task.wait(600) == 75, (tmp_path / "output.log").read_text()
    assert 2 <= published(tmp_path / "set") < NUM_SHARDS
    assert not list((tmp_path / "set").rglob("*.tmp"))
    assert not list((tmp_path / "set").rglob("*.lease"))
    assert start(delay_s=0.0).wait(600) == 0
