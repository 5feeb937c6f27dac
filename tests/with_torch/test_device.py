"""Devices, precision, memory, and that no encoder ever opens a connection."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from voxshard.encoders._torch.device import check_placement, memory_errors, resolve_device
from voxshard.encoders._torch.precision import arithmetic, tensor_cores
from voxshard.encoders.registry import create
from voxshard.errors import ConfigError, DeviceMemoryError, DeviceUnavailableError, EnvironmentProblemError
from voxshard.testing import encode_together

MakeFolder = Callable[..., Path]
CPU = torch.device("cpu")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Pretend that this many GPUs are there."""

    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return pretend


def test_auto_takes_the_gpu_where_there_is_one_and_says_why_where_not(
    gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(2)
    assert resolve_device("auto") == ("cuda:0", "GPU 0")
    assert resolve_device("cuda") == ("cuda:0", "asked for, GPU 0")
    assert resolve_device("cuda:1") == ("cuda:1", "asked for, GPU 1")
    assert resolve_device("cpu") == ("cpu", "asked for")
    gpus(0)
    assert resolve_device("auto") == ("cpu", "no GPU can be used: torch sees no CUDA device")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert resolve_device("auto") == ("cpu", "no GPU can be used: CUDA_VISIBLE_DEVICES is empty")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert resolve_device("auto")[1] == f"no GPU can be used: torch {torch.__version__} is built without CUDA"


def test_a_gpu_that_is_asked_for_and_missing_is_an_error_with_the_mend(gpus: Callable[[int], None]) -> None:
    gpus(0)
    message = (
        "--device cuda:0: torch sees no CUDA device; ask for a GPU (`#SBATCH --gpus=1` and a GPU partition; `--nv` with"
        " Apptainer), or run with `--device cpu`"
    )
    with pytest.raises(DeviceUnavailableError, match=f"^{re.escape(message)}$") as caught:
        resolve_device("cuda:0")
    assert caught.value.exit_code == 4
    gpus(1)
    message = "--device cuda:3: this process sees 1 GPU (CUDA_VISIBLE_DEVICES=not set), numbered from 0"
    with pytest.raises(DeviceUnavailableError, match=f"^{re.escape(message)}$"):
        resolve_device("cuda:3")


def test_a_device_that_is_none_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"^--device gpu: expected auto, cpu, cuda or cuda:N$"):
        resolve_device("gpu")


def test_a_parameter_left_behind_is_named() -> None:
    model = torch.nn.Linear(2, 2, device="meta")
    with pytest.raises(EnvironmentProblemError, match=r"^after loading onto cpu, still elsewhere: weight, bias$"):
        check_placement(model, CPU)


def test_lack_of_memory_is_one_error_whatever_torch_calls_it() -> None:
    with pytest.raises(DeviceMemoryError, match=r"^cpu: out of memory: .*allocate"), memory_errors(CPU):
        torch.empty(1 << 50, dtype=torch.uint8)
    with pytest.raises(DeviceMemoryError, match=r"^cpu: out of memory: CUDA out of memory"), memory_errors(CPU):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")
    with pytest.raises(RuntimeError, match="shapes"), memory_errors(CPU):
        raise RuntimeError("shapes do not fit")


def test_after_lack_of_memory_the_encoder_goes_on(
    make_ecapa: MakeFolder, clips: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder: Any = create("ecapa", {"weights": str(make_ecapa())})
    encoder.load("cpu")
    expected = encode_together(encoder, clips[:1])[0]["embedding"]
    forward = encoder.forward

    def greedy(features: torch.Tensor, lengths: np.ndarray) -> Any:
        if len(features) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(features, lengths)

    monkeypatch.setattr(encoder, "forward", greedy)
    with pytest.raises(DeviceMemoryError):
        encode_together(encoder, clips)
    np.testing.assert_array_equal(encode_together(encoder, clips[:1])[0]["embedding"], expected)


@pytest.mark.parametrize(("precision", "mode"), [("float32", "ieee"), ("tf32", "tf32"), ("bf16", "ieee")])
def test_tf32_is_on_only_where_it_is_asked_for_and_the_process_gets_its_settings_back(
    precision: Any, mode: str
) -> None:
    backends = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [backend.fp32_precision for backend in backends]
    with tensor_cores(precision):
        assert [backend.fp32_precision for backend in backends] == [mode, mode]
    with arithmetic(precision, CPU):  # several batches at once: nothing that all of them share
        assert [backend.fp32_precision for backend in backends] == before
        assert torch.is_autocast_enabled("cpu") == (precision == "bf16")
    assert [backend.fp32_precision for backend in backends] == before


@pytest.mark.parametrize(("precision", "least", "most"), [("bf16", 1e-4, 3e-2), ("fp16", 1e-6, 5e-3)])
@pytest.mark.parametrize("kind", ["wav2vec2-group", "wavlm-layer", "w2v-bert"])
def test_sixteen_bit_arithmetic_is_near_float32_and_not_the_same(
    kind: str, precision: str, least: float, most: float, make_model: MakeFolder, clips: list[np.ndarray]
) -> None:
    outputs = []
    for settings in ({}, {"precision": precision}):
        encoder = create("hf", {"weights": str(make_model(kind)), **settings})
        encoder.load("cpu")
        outputs.append(np.stack([output["embedding"] for output in encode_together(encoder, clips)]))
    assert outputs[1].dtype == np.float32
    deviation = np.abs(outputs[0] - outputs[1]).max() / np.sqrt(np.mean(outputs[0] ** 2))
    assert least < deviation < most


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["hf", "metis8d", "ecapa"])
def test_no_encoder_opens_a_connection(
    name: str, make_model: MakeFolder, make_metis: MakeFolder, make_ecapa: MakeFolder, clips: list[np.ndarray]
) -> None:
    settings: dict[str, Any] = {
        "hf": lambda: {"weights": str(make_model("wav2vec2-group"))},
        "metis8d": lambda: {"weights": str(make_metis()), "layer": 2},
        "ecapa": lambda: {"weights": str(make_ecapa())},
    }[name]()
    encoder = create(name, settings)
    encoder.load("cpu")
    assert len(encode_together(encoder, clips[:2])) == 2


def test_read_only_features_are_taken_as_they_are(make_model: MakeFolder, clips: list[np.ndarray]) -> None:
    encoder = create("hf", {"weights": str(make_model("wav2vec2-group"))})
    encoder.load("cpu")
    batch = encoder.prepare(clips[0])[None].copy()
    expected = encoder.encode(batch, np.array([batch.shape[1]]))[0]["embedding"]
    batch.flags.writeable = False
    before = batch.copy()
    np.testing.assert_array_equal(encoder.encode(batch, np.array([batch.shape[1]]))[0]["embedding"], expected)
    np.testing.assert_array_equal(batch, before)
