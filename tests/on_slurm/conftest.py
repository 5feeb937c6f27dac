"""A SLURM cluster of its own for each kind of configuration: two nodes on this machine, preemption, made-up GPUs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import slurm_faults
from support.slurm_cluster import PATIENCE_S, ROOT, SCRIPT, Experiment, Slurm, unavailable


@pytest.fixture(scope="session")
def start_cluster() -> Iterator[Callable[..., Slurm]]:
    """Start a cluster, or hand out the running one with the same settings."""
    if shutil.which("slurmctld") is None:
        if os.environ.get("REQUIRE_SLURM") != "1" or os.getuid() != 0:
            unavailable(f"slurmctld is not installed; as root: {SCRIPT} install")
        subprocess.run([str(SCRIPT), "install"], check=True, capture_output=True, timeout=PATIENCE_S)
    running: dict[str, Slurm] = {}

    def start(**settings: str) -> Slurm:
        key = json.dumps(settings, sort_keys=True)
        if key not in running:
            for other in list(running):
                running.pop(other).down()  # one at a time: there are few CPUs
            running[key] = Slurm(Path(tempfile.mkdtemp(prefix="vx-slurm-", dir="/tmp")), **settings)
        return running[key]

    yield start
    for cluster in running.values():
        cluster.down()


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that registers the slow encoder as another package would."""
    folder = tmp_path_factory.mktemp("plugin")
    info = folder / "voxshard_slow_mfcc-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: voxshard-slow-mfcc\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[voxshard.encoders]\nslow-mfcc = support.slow_mfcc:SlowMfccEncoder\n")
    return folder


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, plugin: Path) -> dict[str, Any]:
    """The merged set of a run on this machine that nobody disturbs, and how many utterances it prepared."""
    folder = tmp_path_factory.mktemp("undisturbed")
    path, log = folder / "config.yaml", folder / "prepared.log"
    path.write_text(json.dumps({"out": str(folder / "exp"), **slurm_faults.config()}))
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests"), str(plugin)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "SLOW_MFCC_LOG": str(log)}
    command = [sys.executable, "-m", "voxshard", "run", str(path)]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=PATIENCE_S)
    return {"arrays": slurm_faults.arrays(folder / "exp"), "prepared": len(log.read_text().splitlines())}


@pytest.fixture
def experiment(
    start_cluster: Callable[..., Slurm], tmp_path: Path, plugin: Path
) -> Iterator[Callable[..., Experiment]]:
    """Make an experiment on a cluster of some settings; afterwards nothing of it is left in the queue."""
    made: list[Experiment] = []

    def make(environment: dict[str, str] | None = None, **settings: str) -> Experiment:
        made.append(Experiment(start_cluster(**settings), tmp_path, plugin, **(environment or {})))
        return made[-1]

    yield make
    for item in made:
        item.hurry()
        item.cluster.call("scancel", "--me", check=False)
        item.cluster.wait_until_empty()
        item.cluster.restore()
