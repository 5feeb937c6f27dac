"""No forward pass, loss or step makes the host wait for a GPU. Tensors without data are in place of a GPU's: whatever
reads one (`item()`, `if mask.any()`, a mask as an index) raises, and copies that wait are recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from support.network_trials import ECAPA, SPECTROGRAM
from support.torch_models import MODELS
from voxshard.encoders._torch import base, device
from voxshard.encoders.batching import collate
from voxshard.encoders.registry import create
from voxshard.learning._torch.data import AudioBatch
from voxshard.learning._torch.losses import NetworkLoss
from voxshard.learning._torch.module import TrainedNetwork
from voxshard.learning._torch.prediction import _one_behind
from voxshard.learning.model import Target
from voxshard.learning.network_config import EpisodeSettings
from voxshard.networks import backbones, speech_backbone
from voxshard.networks.network import Network
from voxshard.networks.network_files import Checkpoint, write_checkpoint
from voxshard.networks.settings import LabelGroup, NetworkSpec

GPU = torch.device("meta")
LENGTHS_S = (0.9, 0.6, 0.5, 0.4)


class Copies(TorchDispatchMode):
    """Collects the copies to another device that make the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        moves = str(function).startswith("aten._to_copy") and options.get("device") not in (None, args[0].device)
        if moves and not options.get("non_blocking"):
            self.waiting.append(f"{tuple(args[0].shape)} to {options['device']}")
        return function(*args, **options)


@pytest.fixture(autouse=True)
def queued_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinned memory needs a GPU; what is copied from there does not wait."""

    def on_device(array: np.ndarray, place: torch.device) -> torch.Tensor:
        return torch.from_numpy(array).to(place, non_blocking=True)

    for module in (base, device, backbones, speech_backbone):
        monkeypatch.setattr(module, "on_device", on_device)
    monkeypatch.setattr("voxshard.learning._torch.module.on_device", on_device)


@contextmanager
def nothing_waits() -> Iterator[None]:
    """Check that the block makes no copy that waits."""
    with Copies() as copies:
        yield
    assert copies.waiting == []


def batch_of(prepare: Callable[[np.ndarray], np.ndarray] | None, rate: int, policy: Any) -> Any:
    """Features of several lengths, and their lengths."""
    rng = np.random.default_rng(0)
    clips = [rng.normal(0, 0.1, int(seconds * rate)).astype(np.float32) for seconds in LENGTHS_S]
    return collate([clip if prepare is None else prepare(clip) for clip in clips], policy)


def on_gpu(encoder: Any) -> None:
    """Load an encoder as on a GPU."""
    encoder.device = GPU
    encoder.model = encoder.build().eval().requires_grad_(False).to(GPU)


@pytest.mark.parametrize("kind", sorted(MODELS))
@pytest.mark.parametrize("setting", [{"pooling": "mean"}, {"pooling": "none", "layer": 1}], ids=["pooled", "frames"])
def test_no_model_of_transformers_waits(kind: str, setting: dict[str, Any], make_model: Any) -> None:
    encoder: Any = create("hf", {"weights": str(make_model(kind)), **setting})
    on_gpu(encoder)
    features, lengths_B = batch_of(encoder.prepare, 16_000, "padded")
    with torch.inference_mode(), nothing_waits():
        encoder.forward(base.on_device(features, GPU), lengths_B)


def test_ecapa_does_not_wait(make_ecapa: Any) -> None:
    encoder: Any = create("ecapa", {"weights": str(make_ecapa())})
    on_gpu(encoder)
    features, lengths_B = batch_of(encoder.prepare, 16_000, "padded")
    with torch.inference_mode(), nothing_waits():
        encoder.forward(base.on_device(features, GPU), lengths_B)


def test_metis_does_not_wait(make_metis: Any) -> None:
    encoder: Any = create("metis8d", {"weights": str(make_metis()), "layer": 2, "codes": True})
    on_gpu(encoder)
    features, lengths_B = batch_of(encoder.prepare, 16_000, "padded")
    with torch.inference_mode(), nothing_waits():
        encoder.device = torch.device("cpu")  # autocast knows no other; every tensor is elsewhere
        encoder.lengths_on_device = lambda lengths_B: base.on_device(lengths_B, GPU)
        encoder.forward(base.on_device(features, GPU), lengths_B)


def spec_of(family: Any, settings: dict[str, Any], *, prototypes: bool = False) -> NetworkSpec:
    return NetworkSpec(
        family=family,
        settings=settings,
        groups=(LabelGroup(labels=("low", "high"), column="pitch"),),
        loss="cross_entropy",
        prototypes=prototypes,
    )


@pytest.mark.parametrize("family", ["ecapa", "sbcnn", "wav2vec2"])
def test_a_network_is_trained_and_scored_without_a_wait(family: str, make_model: Any, tmp_path: Path) -> None:
    """With the loss, its gradients, and the checkpoint that scoring again loads."""
    settings = {"ecapa": ECAPA, "sbcnn": SPECTROGRAM, "wav2vec2": {"weights": str(make_model("wav2vec2-layer"))}}
    spec = spec_of(family, settings[family])
    network = Network(spec, None)
    target = Target(kind="classification", labels=["pitch"], classes=["low", "high"])
    write_checkpoint(tmp_path, network, target=asdict(target), clip={})
    read_again = Checkpoint.read(tmp_path).load().eval().to(GPU)
    backbone = network.backbone
    features, lengths_B = batch_of(backbone.preparer, backbone.sample_rate, backbone.batch_policy)
    targets_BC = torch.eye(2).repeat(2, 1).to(GPU)
    loss = NetworkLoss("cross_entropy", [2], None, 0.2, 30.0).to(GPU)
    network.train().to(GPU)
    with nothing_waits():
        loss(network(base.on_device(features, GPU), lengths_B), targets_BC).backward()
        with torch.no_grad():
            read_again(base.on_device(features, GPU), lengths_B)


def test_an_episode_does_not_wait_for_its_classes() -> None:
    network = Network(spec_of("sbcnn", {**SPECTROGRAM, "shared_dim": 4}, prototypes=True), None).to(GPU)
    module = TrainedNetwork(network, None, None, EpisodeSettings(), None)  # type: ignore[arg-type]
    features, lengths_B = batch_of(network.backbone.preparer, network.backbone.sample_rate, "windows")
    targets_BC = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    batch = AudioBatch(np.arange(4), torch.from_numpy(features), lengths_B, targets_BC, [])
    with nothing_waits():
        loss = module._loss_of(module.transfer_batch_to_device(batch, GPU, 0))
        loss.backward()
    assert loss.device == GPU


def test_a_result_is_read_once_the_next_batch_has_begun() -> None:
    events: list[str] = []

    def batches() -> Iterator[int]:
        for number in range(3):
            events.append(f"begin {number}")
            yield number

    for number in _one_behind(batches()):
        events.append(f"read {number}")
    assert events == ["begin 0", "begin 1", "read 0", "begin 2", "read 1", "read 2"]
