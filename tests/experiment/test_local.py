"""Commands side by side on this machine."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from voxshard.errors import StoppedError
from voxshard.experiment import run
from voxshard.experiment.experiment import Experiment
from voxshard.experiment.local import Job, JobFailedError, run_many
from voxshard.experiment.schema import ExperimentConfig
from voxshard.progress import Silent
from voxshard.runtime.gpus import Gpu, listed_gpus, usable_gpus

TELLS = """
import os, pathlib, sys, time
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
held = folder / f"held-{gpu}"
held.touch(exist_ok=gpu == "none")
(folder / f"{name}.gpu").write_text(gpu)
while len(list(folder.glob("*.gpu"))) < int(sys.argv[3]):
    time.sleep(0.01)
held.unlink(missing_ok=True)
"""


def jobs(folder: Path, count: int, at_once: int) -> list[Job]:
    """Each notes which GPU it sees, fails if another holds it too, and ends when `at_once` have begun."""
    return [
        Job(f"job-{number}", [sys.executable, "-c", TELLS, str(folder), str(number), str(at_once)])
        for number in range(count)
    ]


def seen(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.glob("*.gpu"))]


def test_every_job_has_a_gpu_to_itself(tmp_path: Path) -> None:
    run_many(jobs(tmp_path, 5, 2), 8, tmp_path / "logs", threading.Event(), Silent(), "jobs", ["3", "GPU-7f"])
    assert len(seen(tmp_path)) == 5
    assert set(seen(tmp_path)) == {"3", "GPU-7f"}


def test_without_gpus_as_many_run_as_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    run_many(jobs(tmp_path, 4, 2), 2, tmp_path / "logs", threading.Event(), Silent(), "jobs")
    assert seen(tmp_path) == ["none"] * 4


def test_after_a_failure_no_more_are_started(tmp_path: Path) -> None:
    failing = Job("failing", [sys.executable, "-c", "raise SystemExit('no luck')"])
    with pytest.raises(JobFailedError, match="failing ended with exit code 1") as caught:
        run_many([failing, *jobs(tmp_path, 2, 1)], 1, tmp_path / "logs", threading.Event(), Silent(), "jobs")
    assert "no luck" in str(caught.value)
    assert seen(tmp_path) == []


@pytest.mark.parametrize(
    ("allowed", "found"),
    [
        ("0,2", ["0", "2"]),
        (" 3, 1 ", ["3", "1"]),
        ("GPU-7f", ["GPU-7f"]),
        ("GPU-7f,GPU-08", ["GPU-7f", "GPU-08"]),
        ("MIG-c6,MIG-1f", ["MIG-c6", "MIG-1f"]),
        ("MIG-GPU-8932/1/0,MIG-GPU-8932/2/0", ["MIG-GPU-8932/1/0", "MIG-GPU-8932/2/0"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0,-1,2", ["0"]),  # what comes after a name that means nothing is hidden
        ("GPU-7f,1", ["GPU-7f"]),
        ("1,1", []),
    ],
)
def test_only_gpus_that_are_allowed_are_used(monkeypatch: pytest.MonkeyPatch, allowed: str, found: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    assert usable_gpus() == found


LISTED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5b)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-77aa)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4)
  MIG 1g.5gb+me   Device  1: (UUID: MIG-1f03)
"""


def driver_that_lists(folder: Path, text: str) -> None:
    """Put a stand-in for nvidia-smi into a folder of $PATH."""
    tool = folder / "nvidia-smi"
    memory = "GPU-5d5b, 40960\nGPU-77aa, 40960"
    tool.write_text(f"#!/bin/sh\nif [ $1 = -L ]; then echo '{text}'; else echo '{memory}'; fi\n")
    tool.chmod(0o755)


def test_the_driver_lists_the_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert usable_gpus() == []
    driver_that_lists(tmp_path, LISTED)
    assert listed_gpus() == [Gpu("GPU-5d5b", 42.94967296), Gpu("MIG-c6d4", 20.0), Gpu("MIG-1f03", 5.0)]
    assert usable_gpus() == ["GPU-5d5b", "MIG-c6d4", "MIG-1f03"]
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho No devices were found\n")
    assert usable_gpus() == []


def test_an_experiment_extracts_with_one_task_per_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stages are was in for by a script that notes its words and its GPU."""
    log = tmp_path / "log"
    log.mkdir()
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "gpu=$CUDA_VISIBLE_DEVICES $*" > "{log}/$$"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setattr(run, "available_cpus", lambda: 16)
    content = {
        "out": tmp_path / "exp",
        "prepare": {"format": "folder", "root": "corpus"},
        "extract": {
            "big": {"encoder": "metis8d", "runtime": f"venv:{tmp_path / 'venv'}"},
            "small": {"encoder": "mfcc"},
        },
    }
    run.run_experiment(Experiment(ExperimentConfig.model_validate(content)), threading.Event(), Silent())
    lines = [path.read_text() for path in log.iterdir()]
    big = sorted(line for line in lines if "extract --config" in line and "extract-big.yaml" in line)
    assert [line.split()[0] for line in big] == ["gpu=4", "gpu=4,6", "gpu=6"]
    assert big[1].rstrip().endswith("--plan-only")
    assert {line.partition("--workers ")[2].rstrip() for line in (big[0], big[2])} <= {
        "6 --task 0 --tasks 2", "6 --task 1 --tasks 2"
    }  # fmt: skip
    assert len({line.partition("--task ")[2] for line in (big[0], big[2])}) == 2
    (small,) = [line for line in lines if "extract --config" in line and "extract-small.yaml" in line]
    assert small.startswith("gpu=4,6"), "an encoder without a framework needs no GPU"
    logs = sorted(path.name for path in (tmp_path / "exp" / "jobs").glob("*.log"))
    assert logs == ["extract-big-0.log", "extract-big-1.log"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_job_that_a_stop_ends_before_it_can_handle_it_is_stopped(name: str, tmp_path: Path) -> None:
    script = f"import os, signal; signal.signal(signal.{name}, signal.SIG_DFL); os.kill(os.getpid(), signal.{name})"
    with pytest.raises(StoppedError, match="early was stopped"):
        run_many([Job("early", [sys.executable, "-c", script])], 1, tmp_path, threading.Event(), Silent(), "jobs")
