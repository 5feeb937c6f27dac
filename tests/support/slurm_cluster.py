"""A SLURM cluster on this machine and experiments on it, for tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from support import asvspoof5

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "tools" / "slurm-cluster.sh"
MINI = asvspoof5.kept()
SCHEDULER = "SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,default_queue_depth=3000"
PATIENCE_S = 900.0
"""For anything a test waits for: CI machines may be slow, and nothing is claimed about time."""
os.environ["PATH"] += os.pathsep + "/usr/sbin"


def unavailable(why: str) -> None:
    """Skip, or fail where CI states that SLURM must be there."""
    if os.environ.get("REQUIRE_SLURM") == "1":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


class Slurm:
    """One running cluster."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self._environment = {
            **os.environ,
            "CLUSTER_DIR": str(folder),
            "CPUS": "8",
            "SMOKE": "0",
            "CRED_EXPIRE": "5",  # how long a requeued job is held; by default two minutes
            **settings,
            "EXTRA_CONF": "\n".join([SCHEDULER, settings.get("EXTRA_CONF", "")]),
        }
        self.control("up")
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def control(self, *words: str) -> None:
        """Call the script that runs the cluster."""
        done = subprocess.run([str(SCRIPT), *words], env=self._environment, capture_output=True, text=True,
                              timeout=PATIENCE_S)  # fmt: skip
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"

    def call(self, *words: str, check: bool = True) -> str:
        """One of SLURM's commands."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=PATIENCE_S)
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def queue(self) -> list[list[str]]:
        """[job, element, name, state, node, reason] of what runs or waits."""
        text = self.call("squeue", "-h", "-r", "-o", "%F|%K|%j|%T|%N|%r", check=False)
        return [line.split("|") for line in text.splitlines()]

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Poll; on a time-out show the queue."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"waited {PATIENCE_S:.0f} s for {what}; queue: {self.queue()}"
            time.sleep(0.3)

    def wait_until_empty(self) -> None:
        """Until nothing runs or waits."""

        def is_empty() -> bool:
            done = subprocess.run(["squeue", "-h"], env=self.environment, capture_output=True, text=True, check=False)
            return done.returncode == 0 and not done.stdout.strip()

        self.wait_until(is_empty, "the queue to be empty")

    def set_partition(self, *settings: str) -> None:
        """Change how the partition that is preempted is treated; see `restore`."""
        self.call("scontrol", "update", "PartitionName=gpu_a100", *settings)

    def restore(self) -> None:
        """What `set_partition` changed, as it was."""
        self.set_partition("GraceTime=10", "PreemptMode=REQUEUE")

    def configure(self, line: str) -> None:
        """Change a line of slurm.conf of the running cluster."""
        path = self.folder / "slurm.conf"
        key = line.partition("=")[0]
        lines = [line if old.startswith(f"{key}=") else old for old in path.read_text().splitlines()]
        path.write_text("\n".join(lines) + "\n")
        self.call("scontrol", "reconfigure")

    def preempt(self) -> None:
        """A job of the other partition takes both nodes for a moment."""
        job = self.call("sbatch", "--parsable", "-p", "gpu_high", "-N", "2", "--exclusive", "-t", "1", "--mem=0",
                        "-o", "/dev/null", "--wrap", "true").strip()  # fmt: skip
        self.wait_until(lambda: not self.call("squeue", "-h", "-j", job, check=False).strip(), "the other job to end")

    def down(self) -> None:
        self.control("down")
        shutil.rmtree(self.folder, ignore_errors=True)


class Experiment:
    """An experiment on a cluster, as a user at a terminal has it."""

    def __init__(self, cluster: Slurm, folder: Path, plugin: Path, **environment: str) -> None:
        self.cluster, self.path = cluster, folder / "exp"
        self.folder = folder
        self.log = folder / "prepared.log"
        self._hurry = folder / "hurry"
        paths = [str(ROOT / "src"), str(ROOT / "tests"), str(plugin)]
        self.environment = {
            **cluster.environment,
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "1",
            "SLOW_MFCC_LOG": str(self.log),
            "SLOW_MFCC_UNTIL": str(self._hurry),
            **environment,
        }

    def voxshard(self, *words: object, check: int = 0) -> subprocess.CompletedProcess[str]:
        """The command line; its exit code is checked."""
        command = [sys.executable, "-m", "voxshard", *map(str, words)]
        done = subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE_S
        )
        assert done.returncode == check, f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def submit(self, config: dict[str, Any], *words: str, check: int = 0) -> subprocess.CompletedProcess[str]:
        path = self.folder / "config.yaml"
        path.write_text(json.dumps({"out": str(self.path), **config}))
        return self.voxshard("submit", path, "--site", "test", *words, check=check)

    def hurry(self) -> None:
        """From now on a slow encoder is fast: what was to happen to it has happened."""
        self._hurry.touch()

    def shards(self, name: str = "mfcc") -> list[Path]:
        return sorted((self.path / "features" / name / "shards").glob("*.h5"))

    def wait_for_shards(self, count: int, name: str = "mfcc") -> None:
        self.cluster.wait_until(lambda: len(self.shards(name)) >= count, f"{count} shards")

    def statuses(self) -> dict[str, dict[str, Any]]:
        """`voxshard status --json`, step by step."""
        return {step["name"]: step for step in json.loads(self.voxshard("status", self.path, "--json").stdout)["steps"]}

    def attempts(self, step: str) -> int:
        return len(list((self.path / "jobs" / step).glob("attempt-*.json")))

    def logs(self, step: str) -> str:
        return "\n".join(log.read_text() for log in sorted((self.path / "jobs" / step / "logs").glob("*.out")))

    def elements(self, step: str, states: Sequence[str] = ("RUNNING",)) -> list[list[str]]:
        """This step's elements in the queue."""
        return [row for row in self.cluster.queue() if row[2] == f"exp:{step}" and row[3] in states]


def command_lines(experiment: Experiment) -> Iterator[tuple[int, list[bytes]]]:
    """Pid and words of every process here whose command line names this experiment."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(str(experiment.path).encode() in word for word in words):
                yield int(entry.name), words
