"""HEAR in both directions, against the API's specification (https://hearbenchmark.com/hear-api.html)."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import voxshard
from voxshard import hear
from voxshard.encoders.base import Encoder
from voxshard.encoders.registry import create
from voxshard.errors import BackendUnavailableError, ConfigError
from voxshard.testing import EncoderConformance, encode_together


class Model(torch.nn.Module):
    sample_rate, scene_embedding_size, timestamp_embedding_size = 16000, 6, 3

    def __init__(self) -> None:
        super().__init__()
        self.frames = torch.nn.Conv1d(1, 3, 800, stride=400, bias=False)


def make_module(name: str, **changes: Any) -> types.ModuleType:
    module = types.ModuleType(name)

    def load_model(model_file_path: str = "") -> Model:
        torch.manual_seed(3)
        model = Model()
        if model_file_path:
            model.load_state_dict(torch.load(model_file_path, weights_only=True))
        return model

    def get_timestamp_embeddings(audio: torch.Tensor, model: Model) -> tuple[torch.Tensor, torch.Tensor]:
        frames = torch.tanh(model.frames(audio[:, None])).transpose(1, 2)
        return frames, (torch.arange(frames.shape[1]) * 25.0 + 25).expand(len(frames), -1)

    def get_scene_embeddings(audio: torch.Tensor, model: Model) -> torch.Tensor:
        frames, _ = get_timestamp_embeddings(audio, model)
        return torch.cat([frames.mean(1), frames.amax(1)], dim=1)

    functions = [load_model, get_timestamp_embeddings, get_scene_embeddings]
    vars(module).update({function.__name__: function for function in functions} | changes)
    return module


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(sys.modules, "hear_example", make_module("hear_example"))
    return "hear_example"


def loaded(**settings: Any) -> Encoder:
    encoder = create("hear", settings)
    encoder.load("cpu")
    return encoder


class TestConformance(EncoderConformance):
    @pytest.fixture(params=["scene", "timestamps"])
    def encoder(self, request: pytest.FixtureRequest, module: str) -> Encoder:
        return loaded(module=module, embedding=request.param)


class TestSharedCalls(EncoderConformance):
    @pytest.fixture
    def encoder(self, module: str) -> Encoder:
        return loaded(module=module, batch="equal_length")


def test_a_module_gives_its_own_numbers(module: str, clips: list[np.ndarray]) -> None:
    api = sys.modules[module]
    model = api.load_model()
    scene = encode_together(loaded(module=module), clips)
    timestamps = loaded(module=module, embedding="timestamps")
    assert (timestamps.info.frame_rate_hz, timestamps.info.batch_policy) == (40.0, "single")
    for clip, one, other in zip(clips, scene, encode_together(timestamps, clips), strict=True):
        audio = torch.from_numpy(clip)[None]
        with torch.inference_mode():
            expected = api.get_scene_embeddings(audio, model)[0].numpy()
            frames = api.get_timestamp_embeddings(audio, model)[0][0].numpy()
        np.testing.assert_allclose(one["embedding"], expected, rtol=0, atol=1e-6)
        np.testing.assert_allclose(other["frames"], frames, rtol=0, atol=1e-6)


def test_the_file_given_to_load_model_counts_in_the_fingerprint(module: str, tmp_path: Path) -> None:
    prints = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(Model().state_dict(), tmp_path / f"{seed}.pt")
        prints.append(create("hear", {"module": module, "weights": str(tmp_path / f"{seed}.pt")}).info.fingerprint)
    assert len({*prints, create("hear", {"module": module}).info.fingerprint}) == 3


class TestWhatIsWrongIsReported:
    def test_no_module(self) -> None:
        with pytest.raises(ConfigError, match=r"^hear needs a module of the HEAR API: `--set module=NAME`$"):
            create("hear", {})

    def test_a_module_that_is_not_installed(self) -> None:
        with pytest.raises(BackendUnavailableError, match="module=hear_nowhere: not installed in this environment"):
            create("hear", {"module": "hear_nowhere"})

    def test_a_module_of_another_kind(self) -> None:
        with pytest.raises(ConfigError, match="module=json: has no load_model, get_scene_embeddings, get_timestamp"):
            create("hear", {"module": "json"})

    def test_a_model_without_a_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        broken = make_module("hear_broken", load_model=lambda: torch.nn.Identity())
        monkeypatch.setitem(sys.modules, "hear_broken", broken)
        with pytest.raises(ConfigError, match="the model's sample_rate is None; the HEAR API asks for an int"):
            create("hear", {"module": "hear_broken"})


@pytest.mark.parametrize("name", ["mfcc", "ge2e"])
def test_an_encoder_is_a_module_of_the_hear_api(name: str, tmp_path: Path) -> None:
    model = hear.load_model(_description(name, tmp_path))
    assert isinstance(model, torch.nn.Module)
    audio = torch.rand(3, round(1.3 * model.sample_rate)) * 2 - 1
    scenes = hear.get_scene_embeddings(audio, model)
    frames, times = hear.get_timestamp_embeddings(audio, model)
    assert scenes.dtype == frames.dtype == torch.float32
    assert scenes.shape == (3, model.scene_embedding_size)
    assert frames.shape == (*times.shape, model.timestamp_embedding_size)
    assert len(times) == 3
    steps = torch.diff(times)
    assert float((steps - steps.mean()).abs().max()) < 1e-3
    assert float(steps.mean()) <= 50.0
    assert float(times.max()) <= 1300.0


def test_scenes_are_what_the_encoder_gives() -> None:
    audio = torch.rand(2, 16000) - 0.5
    found = hear.get_scene_embeddings(audio, hear.load_model("mfcc")).numpy()
    expected = voxshard.load_encoder("mfcc").embed(list(audio.numpy()), sample_rate=16000)
    np.testing.assert_array_equal(found, np.stack(expected))


def _description(name: str, tmp_path: Path) -> str:
    if name == "mfcc":
        return name
    from voxshard.encoders import ge2e_weights

    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        key: (rng.standard_normal(shape) / shape[-1] ** 0.5).astype(np.float32)
        for key, shape in ge2e_weights.SHAPES.items()
    }
    np.savez(tmp_path / ge2e_weights.CONVERTED, **arrays)
    (tmp_path / "encoder.yaml").write_text(f"name: {name}\nweights: {tmp_path}\n")
    return str(tmp_path / "encoder.yaml")
