"""The families of `hf` on small models made here: in any batch what transformers' own code gives for one utterance."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from support.small_models import SMALL_MODELS, save_small_model
from voxshard.encoders.base import Encoder
from voxshard.encoders.registry import create
from voxshard.errors import ConfigError
from voxshard.testing import EncoderConformance, encode_together

POLICIES = {
    "padded": ["unispeech", "unispeech-layer", "unispeech-sat", "conformer-rotary", "conformer-relative"],
    "windows": ["whisper", "qwen2-audio", "ast", "clap", "clap-fused", "clap-projection"],
    "equal_length": ["sew", "mimi", "encodec", "encodec-stereo", "dac"],
    "single": ["speech-to-text"],
}
MakeFolder = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> MakeFolder:
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            torch.manual_seed(1)
            made[kind] = save_small_model(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return make


def loaded(folder: Path, **settings: Any) -> Encoder:
    encoder = create("hf", {"weights": str(folder), **settings})
    encoder.load("cpu")
    return encoder


class TestConformance(EncoderConformance):
    seconds = (0.45, 1.0, 1.0, 2.1)

    @pytest.fixture(params=list(SMALL_MODELS))
    def encoder(self, request: pytest.FixtureRequest, folder_of: MakeFolder) -> Encoder:
        return loaded(folder_of(request.param), pooling="none")


@pytest.mark.parametrize(("policy", "kind"), [(policy, kind) for policy, kinds in POLICIES.items() for kind in kinds])
def test_each_family_declares_how_its_utterances_share_a_batch(policy: str, kind: str, folder_of: MakeFolder) -> None:
    assert create("hf", {"weights": str(folder_of(kind))}).info.batch_policy == policy


def noise(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    return (0.3 * np.random.default_rng(seed).standard_normal(round(seconds * rate))).astype(np.float32)


def stock(folder: Path, model: Any) -> tuple[Any, Callable[[np.ndarray], dict[str, torch.Tensor]]]:
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    model = model.eval()

    def inputs(waveform: np.ndarray) -> dict[str, torch.Tensor]:
        return dict(extractor(waveform, sampling_rate=extractor.sampling_rate, return_tensors="pt"))

    return model, inputs


@pytest.mark.parametrize("kind", [*POLICIES["padded"], "sew"])
def test_speech_models_give_last_hidden_state(kind: str, folder_of: MakeFolder) -> None:
    folder = folder_of(kind)
    model, inputs = stock(folder, transformers.AutoModel.from_pretrained(folder))
    clips = [noise(seconds, 16000) for seconds in (0.5, 0.9, 0.9, 1.3)]
    for clip, output in zip(clips, encode_together(loaded(folder, pooling="none"), clips), strict=True):
        with torch.inference_mode():
            expected = model(input_values=inputs(clip)["input_values"]).last_hidden_state[0].numpy()
        np.testing.assert_allclose(output["frames"], expected, rtol=0, atol=3e-5)


def test_hidden_layers_of_sew_have_a_frame_for_each_group(folder_of: MakeFolder) -> None:
    folder = folder_of("sew")
    model, inputs = stock(folder, transformers.AutoModel.from_pretrained(folder))
    clip = noise(0.7, 16000)
    encoder = loaded(folder, layer=[0, 1], pooling="none")
    with torch.inference_mode():
        hidden = model(input_values=inputs(clip)["input_values"], output_hidden_states=True).hidden_states
    found = encode_together(encoder, [clip])[0]["frames"]
    assert encoder.info.frame_rate_hz == 25
    np.testing.assert_allclose(found, torch.stack(hidden[:2], dim=2)[0].numpy(), rtol=0, atol=3e-5)
    with pytest.raises(ConfigError, match=r"layer=\[1, 2\].*a frame for each 2 of `last`; ask for either"):
        create("hf", {"weights": str(folder), "layer": [1, 2]})


@pytest.mark.parametrize(("kind", "samples_per_frame"), [("whisper", 320), ("qwen2-audio", 640)])
def test_whisper_gives_the_frames_that_cover_audio(kind: str, samples_per_frame: int, folder_of: MakeFolder) -> None:
    folder = folder_of(kind)
    stocked: Any = transformers.AutoModel.from_pretrained(folder)
    encoder = stocked.get_encoder() if kind == "whisper" else stocked.audio_tower
    model, inputs = stock(folder, encoder)
    short, long = noise(0.513, 16000), noise(31.2, 16000)
    found = encode_together(loaded(folder, pooling="none"), [short, long])
    for clip, output in zip((short, long), found, strict=True):
        parts = []
        for window in np.split(clip, range(480_000, len(clip), 480_000)):
            with torch.inference_mode():
                frames = model(inputs(window)["input_features"]).last_hidden_state[0].numpy()
            parts.append(frames[: -(-len(window) // samples_per_frame)])
        np.testing.assert_allclose(output["frames"], np.concatenate(parts), rtol=0, atol=3e-5)


def test_pooled_whisper_sees_the_frames_that_cover_audio(folder_of: MakeFolder) -> None:
    clips = [noise(0.4, 16000), noise(30.5, 16000)]
    frames = encode_together(loaded(folder_of("whisper"), layer=[1, "last"], pooling="none"), clips)
    pooled = encode_together(loaded(folder_of("whisper"), layer=[1, "last"], pooling="mean+std"), clips)
    for one, other in zip(frames, pooled, strict=True):
        expected = np.concatenate([one["frames"].mean(0), one["frames"].std(0)], axis=-1)
        np.testing.assert_allclose(other["embedding"], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", ["ast", "clap", "clap-fused", "clap-projection"])
def test_each_window_is_what_the_model_gives_for_it(kind: str, folder_of: MakeFolder) -> None:
    folder = folder_of(kind)
    classes = {"ast": transformers.ASTModel, "clap-projection": transformers.ClapAudioModelWithProjection}
    model, inputs = stock(folder, classes.get(kind, transformers.ClapModel).from_pretrained(folder))
    encoder = loaded(folder, pooling="none")
    rate, window_s = encoder.info.sample_rate, encoder.info.window_s
    assert window_s == (1.28 if kind == "ast" else 10.0)
    clips = [noise(0.3, rate, 1), noise(1.4 * window_s, rate, 2)]
    for clip, output in zip(clips, encode_together(encoder, clips), strict=True):
        rows = []
        for window in np.split(clip, range(round(window_s * rate), len(clip), round(window_s * rate))):
            with torch.inference_mode():
                if kind == "ast":
                    row = model(**inputs(window)).pooler_output
                elif kind == "clap-projection":
                    row = model(**inputs(window)).audio_embeds
                else:
                    found = model.get_audio_features(**inputs(window))
                    row = found if isinstance(found, torch.Tensor) else found.pooler_output
            rows.append(row[0].numpy())
        np.testing.assert_allclose(output["frames"], np.stack(rows), rtol=0, atol=3e-5)
    mean = encode_together(loaded(folder), clips)[1]["embedding"]
    np.testing.assert_allclose(mean, np.mean(rows, axis=0), rtol=0, atol=3e-5)


@pytest.mark.parametrize("kind", ["mimi", "encodec", "encodec-stereo", "dac"])
def test_codecs_give_latents_and_tokens_by_default(kind: str, folder_of: MakeFolder) -> None:
    folder = folder_of(kind)
    model, inputs = stock(folder, transformers.AutoModel.from_pretrained(folder))
    encoder = loaded(folder)
    assert encoder.info.granularity == "frames"
    rate = encoder.info.sample_rate
    clips = [noise(seconds, rate, 4) for seconds in (0.31, 1.13, 1.13)]
    for clip, output in zip(clips, encode_together(encoder, clips), strict=True):
        given = inputs(np.stack([clip, clip]) if kind == "encodec-stereo" else clip)
        with torch.inference_mode():
            if kind == "dac":
                codes = model.encode(given["input_values"]).audio_codes[0].T
            elif kind == "mimi":
                codes = model.encode(given["input_values"], given["padding_mask"]).audio_codes[0].T
            else:
                found = model.encode(given["input_values"], given["padding_mask"])
                codes = found.audio_codes[:, 0].permute(0, 2, 1).flatten(0, 1)
        expected = codes.numpy()[: len(output["codes"])]
        assert not codes.numpy()[len(output["codes"]) :].any()  # zeros behind a short last piece
        np.testing.assert_array_equal(output["codes"], expected)
        assert output["frames"].shape == (len(expected), encoder.info.dim)
        assert len(expected) == encoder.num_frames(len(encoder.prepare(clip)))  # type: ignore[attr-defined]
    assert "codes" not in encode_together(loaded(folder, codes=False), clips[:1])[0]
    pooled = encode_together(loaded(folder, pooling="mean"), clips[:1])[0]
    assert list(pooled) == ["embedding"]


def test_a_model_without_an_adapter_runs_alone_with_a_note(
    folder_of: MakeFolder, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of("speech-to-text")
    model, inputs = stock(folder, transformers.AutoModel.from_pretrained(folder).get_encoder())
    with caplog.at_level(logging.WARNING):
        encoder = loaded(folder, pooling="none")
    assert "no adapter for model_type speech_to_text: its own extractor and forward pass, one utterance" in caplog.text
    assert encoder.info.frame_rate_hz == 25
    clip = noise(1.2, 16000)
    with torch.inference_mode():
        expected = model(**inputs(clip)).last_hidden_state[0].numpy()
    np.testing.assert_allclose(encode_together(encoder, [clip])[0]["frames"], expected, rtol=0, atol=1e-5)


def test_the_names_of_defaults_do_not_change_the_fingerprint(folder_of: MakeFolder) -> None:
    def fingerprint(kind: str, **settings: Any) -> str:
        return create("hf", {"weights": str(folder_of(kind)), **settings}).info.fingerprint

    assert fingerprint("unispeech") == fingerprint("unispeech", pooling="mean")
    assert fingerprint("dac") == fingerprint("dac", pooling="none") != fingerprint("dac", pooling="mean")


class TestModelsThatCannotRun:
    def folder(self, tmp_path: Path, **config: Any) -> Path:
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    @pytest.mark.parametrize(
        ("model_type", "reason"),
        [
            ("gpt2", "model_type 'gpt2' is a decoder-only model that takes input_ids; hf embeds audio"),
            ("bert", "model_type 'bert' is a text model that takes input_ids; hf embeds audio"),
            ("vit", "model_type 'vit' is a model that takes pixel_values; hf embeds audio"),
            ("wav2vec9", "transformers .* does not know model_type 'wav2vec9'; a newer transformers may, or write an"),
            (None, "transformers .* does not know model_type None"),
        ],
    )
    def test_each_reports_why_in_one_line(self, model_type: str | None, reason: str, tmp_path: Path) -> None:
        folder = self.folder(tmp_path, **({"model_type": model_type} if model_type else {}))
        with pytest.raises(ConfigError, match=f"config\\.json: {reason}") as caught:
            create("hf", {"weights": str(folder)})
        assert "\n" not in str(caught.value)

    def test_hidden_layers_of_a_model_with_one_output(self, folder_of: MakeFolder) -> None:
        with pytest.raises(ConfigError, match=r"layer=1: a dac model .* gives one output; omit `layer`"):
            create("hf", {"weights": str(folder_of("dac")), "layer": 1})
