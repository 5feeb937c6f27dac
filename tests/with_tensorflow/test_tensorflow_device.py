"""The device TensorFlow is asked for, and why it does not exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import tensorflow as tf

from voxshard.encoders._tensorflow import device
from voxshard.errors import ConfigError, DeviceUnavailableError


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [])
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def driver_is_there(monkeypatch: pytest.MonkeyPatch, *, there: bool) -> None:
    nvidia = ("/proc/driver/nvidia/version", "/dev/nvidiactl")
    real = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: there if str(path) in nvidia else real(path))


def why(request: str = "cuda") -> str:
    with pytest.raises(DeviceUnavailableError) as caught:
        device.choose(request)
    assert caught.value.exit_code == 4
    return str(caught.value)


@pytest.mark.usefixtures("no_gpu")
def test_the_cpu_package_is_named_as_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: False)
    assert why() == (
        f"cuda: TensorFlow {tf.__version__} sees no GPU: this is the CPU package (tensorflow-cpu, or a build without"
        " CUDA); `pip install 'tensorflow[and-cuda]'` in its place"
    )


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_gpus_are_named_as_the_cause(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert why().endswith(
        f"CUDA_VISIBLE_DEVICES={hidden!r} hides them all; unset it, or ask SLURM for a GPU (`--gpus=1`)"
    )


@pytest.mark.usefixtures("no_gpu")
def test_a_missing_driver_is_named_as_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    driver_is_there(monkeypatch, there=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert "there is no NVIDIA driver here; on a cluster ask for a GPU node" in why("cuda:1")


@pytest.mark.usefixtures("no_gpu")
def test_missing_cuda_libraries_are_named_as_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    driver_is_there(monkeypatch, there=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert why().endswith(
        "the driver is installed, the CUDA libraries are not (the package comes without them);"
        " `pip install 'tensorflow[and-cuda]'`"
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert "driver and CUDA packages are installed, but TensorFlow could not open them" in why()


@pytest.mark.usefixtures("no_gpu")
def test_auto_takes_the_cpu_where_there_is_no_gpu_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    driver_is_there(monkeypatch, there=False)
    chosen, reason = device.choose("auto")
    assert chosen == "cpu"
    assert reason.startswith("TensorFlow sees no GPU: there is no NVIDIA driver here")


def test_a_gpu_beyond_those_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [gpu])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: {"device_name": "Some GPU"})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert device.choose("auto") == ("cuda:0", "Some GPU")
    assert device.choose("cuda") == ("cuda:0", "asked for, Some GPU")
    assert why("cuda:1") == ("cuda:1: TensorFlow sees 1 GPU(s), numbered from 0; CUDA_VISIBLE_DEVICES is not set")


def test_only_the_gpu_asked_for_is_used_and_its_memory_taken_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [tf.config.PhysicalDevice(f"/physical_device:GPU:{index}", "GPU") for index in range(2)]
    visible, growing = list(gpus), []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: gpus)
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind=None: visible)
    monkeypatch.setattr(
        tf.config, "set_visible_devices", lambda chosen, kind=None: visible.__setitem__(slice(None), chosen)
    )
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, on: growing.append((gpu, on)))
    device.prepare("cuda:1", "float32")
    assert visible == [gpus[1]]
    assert growing == [(gpus[1], True)]

    def too_late(chosen: object, kind: object = None) -> None:
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config, "set_visible_devices", too_late)
    expected = "cuda:0: TensorFlow already runs otherwise in this process; start one process per device"
    with pytest.raises(DeviceUnavailableError, match=f"^{re.escape(expected)}$"):
        device.prepare("cuda:0", "float32")


def test_tensorfloat_32_is_off_unless_asked_for() -> None:
    try:
        device.prepare("cpu", "tf32")
        assert tf.config.experimental.tensor_float_32_execution_enabled()
    finally:
        device.prepare("cpu", "float32")
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


@pytest.mark.parametrize("request_", ["gpu", "cuda:x", "tpu"])
def test_other_devices_are_refused(request_: str) -> None:
    with pytest.raises(ConfigError, match=f"^--device {request_}: expected auto, cpu, cuda or cuda:N$"):
        device.choose(request_)
