"""Trainings of networks on a real cluster: stopped, back in the queue, and ending as one that nobody disturbs."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.network_trials import ECAPA, tone_corpus
from support.slurm_cluster import PATIENCE_S, ROOT, Experiment, Slurm
from voxshard.config import dump_yaml
from voxshard.store.runs import Run

TORCH = ROOT / ".venv-torch" / "bin" / "python"
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(3000),  # frameworks are imported several times over, on machines that may be slow
    pytest.mark.skipif(not TORCH.exists(), reason="no .venv-torch (make setup-torch)"),
]
LABEL = r"(?P<pitch>[a-z]+)-(?P<take>\d)\.wav"
SPLITS = [r"-[67]\.wav$=test", r"-[0-5]\.wav$=train"]
TRAINING = {
    "settings": {**ECAPA, "heads": {"hidden": 10, "dropout": 0.3}},
    "augment": {"gain": 6},
    "training": {"epochs": 60, "batch_size": 6, "lr": 0.003, "schedule": "onecycle", "checkpoint_steps": 2},
    "workers": 0,
    "replicates": 0,
    "device": "cpu",
}  # fmt: skip
"""Long enough for a signal to arrive in the middle."""


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tones."""
    folder = tmp_path_factory.mktemp("tones")
    tone_corpus(folder / "corpus", seconds=(0.2,))
    return folder / "corpus" / "audio"


def python(*words: object) -> None:
    """The command line in the environment that has PyTorch, on this machine."""
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [TORCH, "-m", "voxshard", *map(str, words)], env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def manifest(recordings: Path) -> Path:
    path = recordings.parent / "prepared.parquet"
    splits = [word for split in SPLITS for word in ("--split-from", split)]
    python("prepare", "folder", recordings, "--out", path, "--label-from", LABEL, *splits)
    return path


@pytest.fixture(scope="module")
def undisturbed(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training on this machine that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    content = {"manifest": str(manifest), "label": "pitch", "network": "ecapa", "out": str(folder / "run"), **TRAINING}
    (folder / "config.yaml").write_text(dump_yaml(content))
    python("train", "--config", folder / "config.yaml")
    return Run.read(folder / "run")


def check_equal(found: Run, expected: Run) -> None:
    """The same loss in every epoch, the same scores and metrics."""
    for name in ("train_loss", "learning_rate"):
        one, other = (run.tables()["training"][name].to_numpy() for run in (found, expected))
        np.testing.assert_allclose(one, other, rtol=1e-4)
    assert found.metrics["metrics"]["test"]["accuracy"] == expected.metrics["metrics"]["test"]["accuracy"]
    one, other = (run.trials().sort_by("utterance_id")["score_low"].to_numpy() for run in (found, expected))
    np.testing.assert_allclose(one, other, atol=1e-3)


def is_training(run: Path) -> bool:
    """Whether a training has begun and written down how to continue."""
    return any(run.with_name(f"{run.name}.training").glob("*/state.safetensors"))


def test_trainings_told_to_stop_go_back_into_the_queue_and_lose_nothing(
    experiment: Callable[..., Experiment], recordings: Path, undisturbed: Run
) -> None:
    """One as before a time limit (USR2, exit 75, requeued by the host part), one by `scontrol requeue`."""
    network: dict[str, Any] = {"network": "ecapa", "label": "pitch", "runtime": f"venv:{ROOT / '.venv-torch'}"}
    run = experiment()
    run.submit(
        {
            "prepare": {"format": "folder", "root": str(recordings), "label_from": LABEL, "split_from": SPLITS},
            "networks": {name: {**network, **TRAINING} for name in ("told", "requeued")},
        }
    )
    runs = {name: run.path / "runs" / f"{name}-ecapa-0" for name in ("told", "requeued")}
    for name, words in (("told", ["scancel", "--signal=USR2"]), ("requeued", ["scontrol", "requeue"])):
        run.cluster.wait_until(lambda name=name: is_training(runs[name]), f"{name} to train")  # type: ignore[misc]
        job, element = run.elements(f"networks-{name}")[0][:2]
        run.cluster.call(*words, f"{job}_{element}")
    record = run.path / "jobs/networks-told/task-00000.json"
    run.cluster.wait_until(lambda: json.loads(record.read_text())["restarts"] == 1, "the first to start again")
    run.cluster.wait_until_empty()
    for name, path in runs.items():
        assert not path.with_name(f"{path.name}.training").exists()
        log = run.logs(f"networks-{name}")
        assert log.count(f"continuing the training in {path}.training") == 1, log
        assert run.attempts(f"networks-{name}") == 1, "requeued, not submitted again"
        check_equal(Run.read(path), undisturbed)
    assert "was asked to stop and goes back into the queue" in run.logs("networks-told")
    tasks = {name: step["tasks"] for name, step in run.statuses().items()}
    assert tasks == {name: {"done": 1} for name in ("prepare", "networks-told", "networks-requeued", "report")}
    report = (run.path / "report.html").read_text()
    assert all(path.name in report for path in runs.values())


def test_the_script_for_ecapa_as_a_user_types_it_is_stopped_and_goes_on(
    start_cluster: Callable[..., Slurm], manifest: Path, undisturbed: Run, tmp_path: Path
) -> None:
    """`sbatch slurm/ecapa_train.sh MANIFEST LABEL RUN`, with USR1 to its step as before its time limit."""
    cluster = start_cluster()
    config = tmp_path / "config.yaml"
    config.write_text(dump_yaml(TRAINING))
    environment = {
        **cluster.environment, "VENV": str(TORCH.parent.parent), "PYTHONPATH": str(ROOT / "src"),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    run, log = tmp_path / "run", tmp_path / "log"
    command = ["sbatch", "--parsable", "--cpus-per-task=1", "--time=20", f"--output={log}", "slurm/ecapa_train.sh",
               manifest, "pitch", run, "--config", config]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cluster.wait_until(lambda: is_training(run), "the training to begin")
    cluster.call("scancel", "--signal=USR1", done.stdout.strip())
    cluster.wait_until_empty()
    assert log.read_text().count("stopped by a signal") == 1, log.read_text()
    assert log.read_text().count(f"continuing the training in {run}.training") == 1, log.read_text()
    check_equal(Run.read(run), undisturbed)
