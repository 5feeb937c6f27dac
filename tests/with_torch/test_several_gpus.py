"""Several processes train one network: who starts them, which GPUs they see, and how they meet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

from support.network_trials import network_config, tone_corpus
from voxshard.config import dump_yaml
from voxshard.errors import ConfigError, DeviceUnavailableError
from voxshard.learning._torch import processes
from voxshard.learning._torch.processes import accelerator_of, environment_of, port_of
from voxshard.store.runs import Run

STEP = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_JOB_NAME": "train"}


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tone_corpus(tmp_path_factory.mktemp("tones"), per_class=6)


@pytest.mark.parametrize(
    ("variables", "devices", "expected"),
    [
        ({}, 4, None),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"}, 4, LightningEnvironment),  # a script without srun
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}, 4, LightningEnvironment),
        ({"SLURM_JOB_ID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "1"}, 4, SLURMEnvironment),
    ],
)
def test_slurm_starts_the_processes_only_where_srun_has_several_tasks(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], devices: int, expected: type[Any] | None
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, **variables})
    found = environment_of(devices, variables)
    assert [isinstance(item, expected or object) for item in found] == ([] if expected is None else [True])


@pytest.mark.parametrize(
    ("tasks", "nodes", "what"),
    [("2", "1", "srun started 2 processes on 1 node"), ("4", "2", "srun started 4 processes on 2 nodes")],
)
def test_other_numbers_of_processes_are_refused_before_they_wait_for_each_other(
    tasks: str, nodes: str, what: str
) -> None:
    variables = {"SLURM_JOB_ID": "1", "SLURM_STEP_NUM_TASKS": tasks, "SLURM_STEP_NUM_NODES": nodes}
    with pytest.raises(ConfigError, match=f"^devices: 4, but {what}; start one"):
        environment_of(4, variables)


def test_the_processes_of_a_step_agree_on_a_port_that_other_steps_do_not_have() -> None:
    steps = [{"SLURM_JOB_ID": job, "SLURM_STEP_ID": step} for job in ("14711", "4711") for step in ("0", "1")]
    ports = [port_of(step) for step in steps]
    assert ports == [port_of({**step, "SLURM_PROCID": "1"}) for step in steps]
    assert len(set(ports)) == 4
    assert all(15_000 <= port < 25_000 for port in ports)


def gpus(monkeypatch: pytest.MonkeyPatch, count: int, device: str = "cuda:0") -> None:
    """Let this process see some GPUs."""
    monkeypatch.setattr(processes, "resolve_device", lambda request: (device, "a stand-in"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count))))


def test_a_training_takes_the_gpus_it_was_told_to(monkeypatch: pytest.MonkeyPatch, tones: Path, tmp_path: Path) -> None:
    gpus(monkeypatch, 4)
    training = {"batch_size": 8, "epochs": 1}
    four = network_config(tones, tmp_path, device="auto", devices=4, training=training)
    assert accelerator_of(four) == {"accelerator": "gpu", "devices": 4}
    gpus(monkeypatch, 4, "cuda:2")
    one = network_config(tones, tmp_path, device="cuda:2")
    assert accelerator_of(one) == {"accelerator": "gpu", "devices": [2]}
    gpus(monkeypatch, 1)
    expected = (
        r"devices: 4: this process sees 1 GPU \(CUDA_VISIBLE_DEVICES=0\); ask for 4 on one node \(--gpus-per-node,"
    )
    with pytest.raises(DeviceUnavailableError, match=expected):
        accelerator_of(four)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_trainings_in_one_job_with_their_processes_from_srun(tones: Path, tmp_path: Path) -> None:
    """Each of two steps has two processes, as `srun --ntasks=2` starts them; all four run at once on one node."""
    children = []
    for step in (0, 1):
        config = network_config(
            tones, tmp_path / f"run{step}", devices=2, training={"epochs": 2, "batch_size": 4, "lr": 0.01}
        )
        path = tmp_path / f"{step}.yaml"
        path.write_text(dump_yaml(config.model_dump(mode="json")))
        for rank in (0, 1):
            variables = {**STEP, "SLURM_STEP_ID": str(step), "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": str(rank),
                         "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0", "MASTER_ADDR": "127.0.0.1"}  # fmt: skip
            environment = {**os.environ, **variables, "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-m", "voxshard", "train", "--config", str(path)]
            children.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    errors = [child.communicate(timeout=1500)[1] for child in children]
    assert [child.returncode for child in children] == [0] * 4, "\n".join(errors)
    losses = [Run.read(tmp_path / f"run{step}").tables()["training"]["train_loss"].to_numpy() for step in (0, 1)]
    np.testing.assert_array_equal(losses[0], losses[1])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_process_of_a_stopped_training_continues_with_its_own_random_state(tones: Path, tmp_path: Path) -> None:
    """Two processes with dropout, once without a break and once stopped in the middle of the first epoch."""
    losses = []
    for name, words in (("complete", []), ("stopped", ["--stop-after", "2"])):
        config = network_config(
            tones, tmp_path / name, network="sbcnn", devices=2,
            settings={"sample_rate": 8000, "patch_frames": 32, "num_mels": 32, "n_fft": 256, "hop_length": 80,
                      "channels": 4, "embedding_size": 8, "dropout": 0.5, "heads": {"hidden": 8, "dropout": 0.5}},
            training={"epochs": 2, "batch_size": 4, "lr": 0.01, "checkpoint_steps": 1},
        )  # fmt: skip
        path = tmp_path / f"{name}.yaml"
        path.write_text(dump_yaml(config.model_dump(mode="json")))
        script = Path(__file__).parents[1] / "support" / "stopped_training.py"
        codes = []
        while not codes or codes[-1] == 75:
            done = subprocess.run([sys.executable, str(script), str(path), *words], capture_output=True, text=True,
                                  env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)  # fmt: skip
            codes.append(done.returncode)
            words = []
        assert codes == ([0] if name == "complete" else [75, 0]), done.stderr
        losses.append(Run.read(config.out).tables()["training"]["train_loss"].to_numpy())
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
