"""Trainings that are killed, stopped, or shared by two processes end as one that ran through."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.network_trials import network_config, tone_corpus

torch = pytest.importorskip("torch")

from voxshard.config import dump_yaml  # noqa: E402
from voxshard.errors import CorruptFileError, StoppedError  # noqa: E402
from voxshard.learning._torch.states import SafetensorsIO  # noqa: E402
from voxshard.learning._torch.trainer import NetworkTrainer  # noqa: E402
from voxshard.learning.network_config import NetworkConfig  # noqa: E402
from voxshard.networks.network_files import Checkpoint  # noqa: E402
from voxshard.stages import train  # noqa: E402
from voxshard.stages.base import Task  # noqa: E402
from voxshard.store.runs import Run  # noqa: E402

TRAINING = {"epochs": 6, "batch_size": 5, "lr": 0.003, "checkpoint_steps": 1, "schedule": "onecycle"}

LONG = {**TRAINING, "epochs": 30, "checkpoint_steps": 4}
"""Long enough for a signal to arrive in time."""


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tone_corpus(tmp_path_factory.mktemp("tones"))


def config_of(tones: Path, out: Path, **changes: Any) -> NetworkConfig:
    heads = {"hidden": 10, "dropout": 0.3}
    settings = {**network_config(tones, out).settings, "heads": heads}
    return network_config(tones, out, **{"settings": settings, "training": TRAINING, "augment": {"gain": 6}, **changes})


@pytest.fixture(scope="module")
def uninterrupted_long(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = train.run(config_of(tones, tmp_path_factory.mktemp("runs") / "run", training=LONG), Task())
    assert run is not None
    return run


@pytest.fixture(scope="module")
def uninterrupted(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = train.run(config_of(tones, tmp_path_factory.mktemp("runs") / "run"), Task())
    assert run is not None
    return run


def check_equal(found: Run, expected: Run) -> None:
    """The same losses epoch by epoch and the same weights: nothing was left out, nothing done twice."""
    for name in ("train_loss", "learning_rate"):
        one, other = (run.tables()["training"][name].to_numpy() for run in (found, expected))
        np.testing.assert_allclose(one, other, rtol=1e-5)
    one, other = (Checkpoint.read(run.path).load().state_dict() for run in (found, expected))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-4, atol=1e-5)


class StopAfter:
    """Sets the flag of a task once so many steps are done."""

    def __init__(self, stop: threading.Event, steps: int) -> None:
        self.stop, self.left = stop, steps

    def begin(self, what: str, *, items: int | None = None, audio_s: float | None = None) -> None:
        pass

    def advance(self, items: int = 1, audio_s: float = 0.0) -> None:
        self.left -= items
        if self.left == 0:
            self.stop.set()

    def note(self, message: str) -> None:
        pass


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 18])
def test_a_training_that_was_asked_to_stop_goes_on_as_if_nothing_had_happened(
    tones: Path, tmp_path: Path, uninterrupted: Run, steps: int
) -> None:
    config = config_of(tones, tmp_path / "run")
    stop = threading.Event()
    with pytest.raises(StoppedError, match=r"has all it takes, run the same command again to continue$"):
        train.run(config, Task(stop=stop, progress=StopAfter(stop, steps)))
    assert not config.out.exists()
    run = train.run(config, Task())
    assert run is not None
    check_equal(run, uninterrupted)
    assert not config.out.with_name("run.training").exists()


def test_accumulated_gradients_are_not_torn_apart_by_a_stop(tones: Path, tmp_path: Path) -> None:
    training = {**TRAINING, "accumulate": 2}
    whole = train.run(config_of(tones, tmp_path / "whole", training=training), Task())
    stop = threading.Event()
    config = config_of(tones, tmp_path / "run", training=training)
    with pytest.raises(StoppedError):
        train.run(config, Task(stop=stop, progress=StopAfter(stop, 4)))
    run = train.run(config, Task())
    assert run is not None
    assert whole is not None
    check_equal(run, whole)


def test_another_config_starts_anew(tones: Path, tmp_path: Path, uninterrupted: Run) -> None:
    stop = threading.Event()
    with pytest.raises(StoppedError):
        train.run(config_of(tones, tmp_path / "run", seed=7), Task(stop=stop, progress=StopAfter(stop, 4)))
    run = train.run(config_of(tones, tmp_path / "run"), Task())
    assert run is not None
    check_equal(run, uninterrupted)


def test_other_labels_in_the_labels_file_start_anew(tones: Path, tmp_path: Path) -> None:
    groups = tmp_path / "labels.txt"
    groups.write_text("pitch\n")
    config = config_of(tones, tmp_path / "run", label=(), labels_file=groups)
    stop = threading.Event()
    with pytest.raises(StoppedError):
        train.run(config, Task(stop=stop, progress=StopAfter(stop, 2)))
    groups.write_text("speaker\npitch\n")
    run = train.run(config, Task())
    assert run is not None
    assert len(Checkpoint.read(run.path).about.network.groups) == 2


def test_a_training_that_stopped_early_is_not_taken_up_again(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after its last epoch and before its run is there."""
    training = {**TRAINING, "epochs": 20, "lr": 0.01, "schedule": "constant",
                "early_stopping": {"metric": "accuracy", "patience": 1}}  # fmt: skip
    config = config_of(tones, tmp_path / "run", validate_on="test", training=training)

    def killed(*_arguments: Any) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(NetworkTrainer, "trials", killed)
        with pytest.raises(RuntimeError, match="killed"):
            train.run(config, Task())
    rows = (tmp_path / "run.training/training/training.csv").read_text().count("\n") - 1
    run = train.run(config, Task())
    assert run is not None
    assert run.tables()["training"].num_rows == rows < 20


def command(config: NetworkConfig, folder: Path) -> list[str]:
    path = folder / "config.yaml"
    path.write_text(dump_yaml(config.model_dump(mode="json")))
    return [sys.executable, "-m", "voxshard", "train", "--config", str(path)]


def one_thread() -> dict[str, str]:
    """As the trainings in this process have it: sums over more threads round otherwise."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run_until(arguments: list[str], file: Path, number: signal.Signals) -> int:
    """Start a training, send a signal once `file` is there, wait; its exit code."""
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, env=one_thread())
    deadline = time.monotonic() + 800
    while not file.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate()
    return process.returncode


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGUSR1, 75), (signal.SIGTERM, 75)])
def test_a_killed_or_signalled_training_ends_like_an_uninterrupted_one(
    tones: Path, tmp_path: Path, uninterrupted_long: Run, number: signal.Signals, code: int
) -> None:
    config = config_of(tones, tmp_path / "run", training=LONG)
    arguments = command(config, tmp_path)
    state = tmp_path / "run.training/training/state.safetensors"
    assert run_until(arguments, state, number) == code
    assert state.exists()
    assert not config.out.exists()
    assert subprocess.run(arguments, capture_output=True, check=False, env=one_thread()).returncode == 0
    check_equal(Run.read(config.out), uninterrupted_long)


@pytest.mark.slow
def test_two_processes_train_as_one_does(make_model: Any, tones: Path, tmp_path: Path) -> None:
    """Without batch normalisation and dropout, whose draws differ, and with the batch shared between them."""
    settings = {
        "weights": str(make_model("wav2vec2-group", hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
                                  feat_proj_dropout=0.0, mask_time_prob=0.05)),  # published models have such a mask
        "heads": {"hidden": 8, "dropout": 0.0},
    }  # fmt: skip
    training = {"epochs": 2, "batch_size": 6, "lr": 0.003, "optimizer": "sgd"}
    losses = []
    for devices in (1, 2):
        config = network_config(
            tones, tmp_path / f"run{devices}", network="wav2vec2", settings=settings, training=training,
            devices=devices, clip={"max_seconds": 0.3, "pad": "repeat"},
        )  # fmt: skip
        folder = tmp_path / str(devices)
        folder.mkdir()
        done = subprocess.run(command(config, folder), capture_output=True, text=True, check=False, env=one_thread())
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("epoch 2: loss ") == 1
        losses.append(Run.read(config.out).tables()["training"]["train_loss"].to_numpy())
        lines = (tmp_path / "runs.csv").read_text().splitlines()
        assert sum(f",run{devices}," in line and ",accuracy," in line for line in lines) == 1
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_bf16_trains_on_the_cpu(tones: Path, tmp_path: Path) -> None:
    run = train.run(network_config(tones, tmp_path / "run", precision="bf16"), Task())
    assert run is not None
    losses = run.tables()["training"]["train_loss"].to_pylist()
    assert losses[-1] < losses[0]


def test_a_state_survives_the_way_to_disk_with_its_types(tmp_path: Path) -> None:
    state = {"a": {0: (1, 2.5), "b": [None, True, torch.arange(3)]}, "name": "x"}
    path = tmp_path / "state.safetensors"
    SafetensorsIO().save_checkpoint(state, path)
    found = SafetensorsIO().load_checkpoint(path)
    assert torch.equal(found["a"]["b"].pop(), state["a"]["b"].pop())
    assert found == state
    path.write_bytes(b"something else")
    with pytest.raises(CorruptFileError, match="not the state of a training"):
        SafetensorsIO().load_checkpoint(path)
