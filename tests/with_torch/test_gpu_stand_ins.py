"""What happens on a GPU, tried on a CPU: order and placement are recorded, errors of a GPU are injected."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from support.network_trials import network_config, tone_corpus
from voxshard.cli import main
from voxshard.encoders._torch import precision
from voxshard.encoders._torch.base import TorchEncoder
from voxshard.encoders._torch.device import memory_errors
from voxshard.encoders._torch.precision import arithmetic, stable_attention, tensor_cores
from voxshard.encoders.base import EncoderInfo, EncoderSettings
from voxshard.encoders.batching import collate
from voxshard.encoders.registry import create
from voxshard.errors import DeviceFaultError, DeviceMemoryError
from voxshard.extraction.decode import PreparedUtterance
from voxshard.extraction.encode import Budget, ShardEncoder, deviation_rms
from voxshard.extraction.telemetry import Timers
from voxshard.learning._torch.module import TrainedNetwork
from voxshard.learning._torch.prediction import Predictor
from voxshard.learning.train_config import EvaluateConfig
from voxshard.stages.evaluate import run as evaluate
from voxshard.stages.train import run as train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tone_corpus(tmp_path_factory.mktemp("tones"), per_class=6)


def test_a_network_is_back_on_the_training_device_before_it_is_scored(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    run, to = Predictor._run, torch.nn.Module.to

    def recorded_to(module: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
        calls.append("to")
        return to(module, *args, **kwargs)

    def recorded_run(self: Predictor, network: Any, forward: Any, rows: Any) -> Any:
        calls.append("score")
        return run(self, network, forward, rows)

    monkeypatch.setattr(TrainedNetwork, "cpu", lambda self: calls.append("cpu"))
    monkeypatch.setattr(torch.nn.Module, "to", recorded_to)
    monkeypatch.setattr(Predictor, "_run", recorded_run)
    train(network_config(tones, tmp_path / "run", training={"epochs": 1, "batch_size": 4}))
    assert calls[calls.index("cpu") :] == ["cpu", "to", "score"]


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    ],
)
def test_a_gpu_that_fails_is_a_fault_of_the_machine(text: str) -> None:
    error = torch.AcceleratorError(text) if text.startswith("CUDA error") else RuntimeError(text)
    with pytest.raises(DeviceFaultError, match="the GPU or its driver fails") as caught, memory_errors(CPU):
        raise error
    assert caught.value.exit_code == 4
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["CUDA out of memory. Tried to allocate 2 GiB", "GET was unable to find an engine to execute this computation"],
)
def test_what_says_that_memory_is_low_is_tried_again_in_smaller_batches(text: str) -> None:
    with pytest.raises(DeviceMemoryError), memory_errors(CPU):
        raise RuntimeError(text)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="sizes differ"), memory_errors(CPU):
        raise RuntimeError("sizes differ")


def test_a_gpu_that_fails_in_an_extraction_ends_the_task_with_code_4_and_publishes_nothing(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def forward(*_: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")

    from voxshard.encoders._torch.hf import HfEncoder

    monkeypatch.setattr(HfEncoder, "forward", forward)
    words = ["extract", str(tones), "--encoder", "hf", "--set", f"weights={make_model('wav2vec2-group')}"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--out", str(tmp_path / "set"), "--device", "cpu", "--workers", "1"])
    assert ended.value.code == 4
    assert "uncorrectable ECC error" in capsys.readouterr().err
    assert not list((tmp_path / "set" / "shards").glob("*.h5"))


class Greedy(TorchEncoder):
    """Fits `limit` rows; remembers how many activations of earlier batches are alive when a batch begins."""

    settings = EncoderSettings()
    info = EncoderInfo(
        name="greedy",
        sample_rate=16000,
        dim=1,
        granularity="utterance",
        batch_policy="padded",
        fingerprint="",
        provenance={},
    )
    limit = 8

    def __init__(self) -> None:
        self.activations: list[weakref.ref[torch.Tensor]] = []
        self.held: list[int] = []

    def build(self) -> torch.nn.Module:
        return torch.nn.Identity()

    def forward(self, features_BL: torch.Tensor, lengths_B: Any) -> dict[str, torch.Tensor]:
        self.held.append(sum(reference() is not None for reference in self.activations))
        activation_BL = features_BL * 2
        self.activations.append(weakref.ref(activation_BL))
        if len(features_BL) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return {"embedding": activation_BL.mean(1, keepdim=True)}


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_nothing_of_a_batch_that_did_not_fit_is_held_while_smaller_ones_are_tried() -> None:
    encoder = Greedy()
    encoder.load("cpu")
    encoder._streams, encoder.in_flight = None, 2  # as on a GPU: begun by the calling thread
    shard = ShardEncoder(
        encoder, Budget(64.0, print), [str(n) for n in range(64)], store_dtype="float32", timers=Timers()
    )
    for position in range(64):
        shard.add(position, PreparedUtterance([np.ones(16000, np.float32)], 1.0))
    assert len(shard.finish()) == 64
    assert len(encoder.held) > 8
    assert max(encoder.held) <= 1, "one that is in flight next to it"


def test_the_budget_grows_back_once_batches_fit_again_and_later_after_every_failure() -> None:
    budget = Budget(64.0, print, grow_after=2)
    budget.halve(64.0)
    assert budget.seconds == 32
    budget.succeeded()
    budget.succeeded()
    assert budget.seconds == 64
    budget.halve(64.0)
    budget.halve(32.0)
    for _ in range(4):
        budget.succeeded()
    assert budget.seconds == 32


class Waits(TorchDispatchMode):
    """Counts the operations for which the host waits for the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(function).partition(".default")[0] in ("aten._local_scalar_dense", "aten.is_nonzero", "aten.nonzero"):
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["wav2vec2-group", "wavlm-layer", "w2v-bert"])
def test_a_forward_pass_of_a_padded_batch_does_not_wait_for_the_gpu(kind: str, make_model: Any) -> None:
    encoder = create("hf", {"weights": str(make_model(kind))})
    encoder.load("cpu")
    waveforms = [np.float32(0.1) * np.ones(length, np.float32) for length in (16000, 12000, 9000)]
    batch = collate([encoder.prepare(waveform) for waveform in waveforms], "padded")
    with Waits() as waits:
        encoder.encode(*batch)
    assert waits.found == []


def test_a_batch_can_be_encoded_in_another_precision_than_the_settings(make_model: Any) -> None:
    encoder = create("hf", {"weights": str(make_model("wav2vec2-group"))})
    encoder.load("cpu")
    batch = collate([np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)] * 2, "padded")
    exact, half, again = encoder.encode(*batch), encoder.encode_in("bf16", *batch), encoder.encode(*batch)
    assert encoder.precisions == ("float32", "tf32", "bf16", "fp16")
    assert 1e-4 < deviation_rms(half[0], exact[0], "bf16") < 0.1
    np.testing.assert_array_equal(again[0]["embedding"], exact[0]["embedding"])


def test_cudnn_attention_is_off_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    with stable_attention():
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled() == before
    monkeypatch.setattr(precision.torch, "autocast", lambda *_, **__: stable_attention())  # it warns without a GPU
    with arithmetic("float32", torch.device("cuda")):
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert not torch.backends.cuda.matmul.allow_tf32


@pytest.fixture
def tf32_as_speechbrain_leaves_it() -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    earlier = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = True
    yield
    matmul.allow_tf32, cudnn.allow_tf32 = earlier


@pytest.mark.usefixtures("tf32_as_speechbrain_leaves_it")
def test_training_in_float32_is_float32_whatever_an_import_has_set(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    step = TrainedNetwork.training_step

    def recorded(self: TrainedNetwork, batch: Any, number: int) -> torch.Tensor:
        seen.append(torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32)
        return step(self, batch, number)

    monkeypatch.setattr(TrainedNetwork, "training_step", recorded)
    train(network_config(tones, tmp_path / "run", training={"epochs": 1, "batch_size": 4}))
    assert seen
    assert not any(seen)


@pytest.mark.usefixtures("tf32_as_speechbrain_leaves_it")
@pytest.mark.parametrize("mode", ["float32", "tf32"])
def test_the_two_switches_of_tf32_agree_so_that_reading_either_raises_nothing(mode: Any) -> None:
    with tensor_cores(mode):
        assert torch.backends.cuda.matmul.allow_tf32 == (mode == "tf32")
        assert torch.backends.cudnn.allow_tf32 == (mode == "tf32")
    assert torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32


def test_a_training_step_does_not_wait_for_its_loss(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[list[str]] = []
    loss_of = TrainedNetwork.training_step

    def recorded(self: TrainedNetwork, batch: Any, number: int) -> torch.Tensor:
        with Waits() as found:
            loss = loss_of(self, batch, number)
        waits.append(found.found)
        return loss

    monkeypatch.setattr(TrainedNetwork, "training_step", recorded)
    monkeypatch.setattr("voxshard.learning._torch.module._CURVE_ROWS", 1)  # its rows are means, which are read
    train(network_config(tones, tmp_path / "run", training={"epochs": 1, "batch_size": 2}))
    assert len(waits) > 2
    assert waits[0] == []


def test_the_random_state_of_a_gpu_is_part_of_the_state_of_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    restored: list[list[int]] = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.tensor([7, 8], dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: restored.append(state.tolist()))
    monkeypatch.setattr(TrainedNetwork, "device", torch.device("cuda:0"))
    modules = [TrainedNetwork(torch.nn.Linear(1, 1), None, None, None, None) for _ in range(2)]  # type: ignore[arg-type]
    checkpoint: dict[str, Any] = {}
    modules[0].on_save_checkpoint(checkpoint)
    modules[1].on_load_checkpoint(checkpoint)
    modules[1].on_train_batch_start(None, 0)  # type: ignore[arg-type]
    modules[1].on_train_batch_start(None, 1)  # type: ignore[arg-type]
    assert restored == [[7, 8]]


def test_results_by_group_come_from_the_stored_scores_where_these_suffice(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(network_config(tones, tmp_path / "run", training={"epochs": 1, "batch_size": 4}))
    assert run is not None
    again = EvaluateConfig(run=run.path, group_by=(("speaker",),), replicates=0)
    scored_again = evaluate(again.model_copy(update={"on": (tones,)}))
    monkeypatch.setattr(Predictor, "_run", None)  # no recording is read, no network is needed
    grouped = evaluate(again)
    assert grouped.tables["by-speaker-test"].equals(scored_again.tables["by-speaker-test"])
    assert grouped.metrics == scored_again.metrics
