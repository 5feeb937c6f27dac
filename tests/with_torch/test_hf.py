"""hf against transformers' own forward pass, one utterance at a time, and against itself in batches."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from voxshard.encoders.base import Encoder
from voxshard.encoders.registry import create
from voxshard.errors import ConfigError, CorruptFileError, MissingWeightsError
from voxshard.testing import EncoderConformance, encode_together

MakeModel = Callable[..., Path]
KINDS = [
    "wav2vec2-group",
    "wav2vec2-layer",
    "hubert-group",
    "hubert-batch-norm",
    "wavlm-group",
    "wavlm-layer",
    "data2vec",
    "w2v-bert",
]


def loaded(folder: Path, **settings: Any) -> Encoder:
    encoder = create("hf", {"weights": str(folder), **settings})
    encoder.load("cpu")
    return encoder


def stock_layers(folder: Path, waveform: np.ndarray) -> list[np.ndarray]:
    """Hidden states (T, D) that transformers itself gives for one utterance, the last from last_hidden_state."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    inputs = extractor(waveform, sampling_rate=16000, return_tensors="pt")
    if model.config.model_type == "wavlm":
        inputs.pop("attention_mask", None)  # PyTorch warns of the mask's type there
    with torch.inference_mode():
        output = model(**inputs, output_hidden_states=True)
    return [layer[0].numpy() for layer in (*output.hidden_states[:-1], output.last_hidden_state)]


class TestConformance(EncoderConformance):
    @pytest.fixture(params=KINDS)
    def encoder(self, request: pytest.FixtureRequest, make_model: MakeModel) -> Encoder:
        return loaded(make_model(request.param), layer=[0, 2, "last"], pooling="none")


class TestPooledConformance(EncoderConformance):
    @pytest.fixture(params=["mean", "sum", "max", "mean+std"])
    def encoder(self, request: pytest.FixtureRequest, make_model: MakeModel) -> Encoder:
        return loaded(make_model("wav2vec2-group", do_normalize=False), layer=2, pooling=request.param)


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_in_a_padded_batch_is_what_transformers_gives_alone(
    kind: str, make_model: MakeModel, clips: list[np.ndarray]
) -> None:
    folder = make_model(kind)
    encoder = loaded(folder, layer=[0, 1, 2, 3], pooling="none")
    for clip, output in zip(clips, encode_together(encoder, clips), strict=True):
        for number, expected in enumerate(stock_layers(folder, clip)):
            np.testing.assert_allclose(output["frames"][:, number], expected, rtol=0, atol=3e-5 * expected.std() + 1e-6)


@pytest.mark.parametrize("kind", ["hubert-group", "w2v-bert"])
@pytest.mark.parametrize("pooling", ["mean", "sum", "max", "mean+std"])
def test_pooling_sees_valid_frames_only(
    kind: str, pooling: str, make_model: MakeModel, clips: list[np.ndarray]
) -> None:
    folder = make_model(kind)
    outputs = encode_together(loaded(folder, layer=2, pooling=pooling), clips)
    for clip, output in zip(clips, outputs, strict=True):
        frames = stock_layers(folder, clip)[2]
        if kind == "w2v-bert":
            frames = frames[: (1 + (len(clip) - 400) // 160) // 2]  # the odd last frame is masked
        expected = {
            "mean": frames.mean(0),
            "sum": frames.sum(0),
            "max": frames.max(0),
            "mean+std": np.concatenate([frames.mean(0), frames.std(0)]),
        }[pooling]
        np.testing.assert_allclose(output["embedding"], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_the_last_layer_of_a_pre_norm_model_is_its_last_hidden_state(
    make_model: MakeModel, clips: list[np.ndarray]
) -> None:
    folder = make_model("wav2vec2-layer")
    by_name, by_number = loaded(folder, layer="last"), loaded(folder, layer=3)
    expected = stock_layers(folder, clips[0])[3].mean(0)
    for encoder in (by_name, by_number):
        np.testing.assert_allclose(encode_together(encoder, clips[:1])[0]["embedding"], expected, atol=1e-5)


def test_layers_above_the_one_asked_for_are_not_computed(make_model: MakeModel, clips: list[np.ndarray]) -> None:
    encoder: Any = loaded(make_model("hubert-group"), layer=1)
    assert len(encoder.model.encoder.layers) == 1
    assert len(loaded(make_model("hubert-group"), layer=0).model.encoder.layers) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("do_normalize", [True, False])
def test_waveforms_are_normalised_as_the_preprocessor_says(
    do_normalize: bool, make_model: MakeModel, clips: list[np.ndarray]
) -> None:
    folder = make_model("wavlm-group", do_normalize=do_normalize)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    expected = extractor(clips[3], sampling_rate=16000, return_tensors="np")["input_values"][0]
    np.testing.assert_array_equal(create("hf", {"weights": str(folder)}).prepare(clips[3]), expected)


@pytest.mark.parametrize("num_samples", [560, 720, 719, 16000, 41234])
@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0])
def test_filter_bank_features_equal_the_stock_extractor(num_samples: int, scale: float, make_model: MakeModel) -> None:
    folder = make_model("w2v-bert")
    clip = (scale * np.random.default_rng(num_samples).standard_normal(num_samples)).astype(np.float32)
    stock = transformers.AutoFeatureExtractor.from_pretrained(folder)(clip, sampling_rate=16000, return_tensors="np")
    features = create("hf", {"weights": str(folder), "pooling": "none"}).prepare(clip)
    np.testing.assert_allclose(features[:, :-1], stock["input_features"][0], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(features[:, -1], stock["attention_mask"][0])
    pooled = create("hf", {"weights": str(folder)}).prepare(clip)
    np.testing.assert_array_equal(pooled, features[features[:, -1] == 1])


@pytest.mark.parametrize(("kind", "least"), [("wav2vec2-group", 400), ("data2vec", 400), ("w2v-bert", 560)])
def test_the_shortest_clip_gives_one_frame(kind: str, least: int, make_model: MakeModel) -> None:
    encoder = loaded(make_model(kind), pooling="none")
    assert encoder.info.min_samples == least
    clip = np.random.default_rng(0).standard_normal(least).astype(np.float32)
    assert encode_together(encoder, [clip])[0]["frames"].shape == (1, 32)


@pytest.mark.parametrize("kind", ["wav2vec2-group", "w2v-bert"])
@pytest.mark.parametrize("pooling", ["none", "mean", "sum", "max", "mean+std"])
def test_pieces_of_a_long_clip_join_to_what_their_frames_pool_to(
    kind: str, pooling: str, make_model: MakeModel
) -> None:
    folder = make_model(kind)
    clip = np.random.default_rng(5).standard_normal(16000 * 5).astype(np.float32)
    encoder = loaded(folder, pooling=pooling, chunk_seconds=2.0)
    size = encoder.info.chunk_samples
    assert size is not None
    pieces = [clip[start : start + size] for start in range(0, len(clip), size)]
    parts = [encode_together(encoder, [piece])[0] for piece in pieces]
    joined = encoder.join(parts, [len(encoder.prepare(piece)) for piece in pieces])
    frames = np.concatenate(
        [
            encode_together(loaded(folder, pooling="none"), [piece])[0]["frames"][: _num_valid(kind, piece)]
            for piece in pieces
        ]
        if pooling != "none"
        else [part["frames"] for part in parts]
    )
    if pooling == "none":
        np.testing.assert_array_equal(joined["frames"], frames)
        return
    expected = {
        "mean": frames.mean(0),
        "sum": frames.sum(0),
        "max": frames.max(0),
        "mean+std": np.concatenate([frames.mean(0), frames.std(0)]),
    }[pooling]
    np.testing.assert_allclose(joined["embedding"], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def _num_valid(kind: str, piece: np.ndarray) -> int | None:
    return (1 + (len(piece) - 400) // 160) // 2 if kind == "w2v-bert" else None


@pytest.mark.parametrize(("kind", "lost_s"), [("wav2vec2-group", 0.005), ("w2v-bert", 0.015)])
def test_a_seam_costs_what_the_documentation_says(kind: str, lost_s: float, make_model: MakeModel) -> None:
    encoder: Any = create("hf", {"weights": str(make_model(kind)), "pooling": "none", "chunk_seconds": 30.0})
    piece = np.zeros(encoder.info.chunk_samples, np.float32)
    frames = encoder.num_frames(len(encoder.prepare(piece)))
    assert frames == 1500
    assert len(piece) / 16000 - frames / encoder.info.frame_rate_hz == pytest.approx(lost_s)


def test_attention_makes_long_clips_cost_more_than_their_length(make_model: MakeModel) -> None:
    encoder = create("hf", {"weights": str(make_model("wav2vec2-group"))})
    assert encoder.cost(16000) == pytest.approx(49 / 50 * (1 + 49 / 128))
    assert encoder.cost(320000) > 20 * encoder.cost(16000)


class TestFingerprint:
    def fingerprint(self, folder: Path, **settings: Any) -> str:
        return create("hf", {"weights": str(folder), **settings}).info.fingerprint

    def test_it_changes_with_layer_pooling_precision_and_chunks(self, make_model: MakeModel) -> None:
        folder = make_model("hubert-group")
        prints = [
            self.fingerprint(folder, **settings)
            for settings in (
                {},
                {"layer": 2},
                {"layer": [2]},
                {"pooling": "max"},
                {"precision": "bf16"},
                {"chunk_seconds": 30},
                {"store_dtype": "float16"},
            )
        ]
        assert len(set(prints)) == len(prints)

    def test_it_changes_with_one_byte_of_the_weights_and_not_with_their_place(
        self, make_model: MakeModel, tmp_path: Path
    ) -> None:
        folder = make_model("hubert-group")
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        assert self.fingerprint(copy) == self.fingerprint(folder)
        content = bytearray((copy / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (copy / "model.safetensors").write_bytes(content)
        assert self.fingerprint(copy) != self.fingerprint(folder)

    def test_it_changes_with_the_rate_the_model_wants(self, make_model: MakeModel, tmp_path: Path) -> None:
        copy = edited(make_model("hubert-group"), tmp_path, "preprocessor_config.json", sampling_rate=8000)
        assert create("hf", {"weights": str(copy)}).info.sample_rate == 8000
        assert self.fingerprint(copy) != self.fingerprint(make_model("hubert-group"))


def edited(folder: Path, tmp_path: Path, file: str, **changes: Any) -> Path:
    copy = tmp_path / "edited"
    shutil.copytree(folder, copy)
    content = json.loads((copy / file).read_text())
    content.update(changes)
    (copy / file).write_text(json.dumps(content))
    return copy


class TestWhatIsWrongIsSaid:
    def test_a_layer_the_model_does_not_have(self, make_model: MakeModel) -> None:
        folder = make_model("hubert-group")
        message = f"layer 12: {folder} has 3 layers; choose 0 (input of the first) to 3, or `last`"
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
            create("hf", {"weights": str(folder), "layer": [0, 12]})

    @pytest.mark.parametrize("layer", [-1, "first", 1.5, True, [], [0, "all"]])
    def test_a_layer_that_is_none(self, layer: Any) -> None:
        with pytest.raises(
            ConfigError, match=r"layer: (a layer is 0 \(input of the first layer\)|the list of layers is empty)"
        ):
            create("hf", {"weights": "x", "layer": layer})

    def test_no_model_named(self) -> None:
        with pytest.raises(
            ConfigError, match=r"^hf needs a model: `--set weights=FOLDER`, or `--set weights=org/name` for one"
        ):
            create("hf", {})

    def test_a_model_that_was_not_fetched(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VOXSHARD_WEIGHTS", str(tmp_path))
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        with pytest.raises(MissingWeightsError) as caught:
            create("hf", {"weights": "facebook/wav2vec2-base"})
        assert str(caught.value) == (
            f"weights of hf not found (looked in facebook/wav2vec2-base, {tmp_path}/hf/facebook/wav2vec2-base,"
            f" {tmp_path}/hub/models--facebook--wav2vec2-base); on a"
            " machine with internet run `voxshard weights fetch hf/facebook/wav2vec2-base`, or give the folder with"
            " `--set weights=FOLDER`"
        )

    def test_an_extractor_of_another_kind_of_model(self, make_model: MakeModel, tmp_path: Path) -> None:
        copy = edited(make_model("hubert-group"), tmp_path, "config.json", model_type="audio-spectrogram-transformer")
        message = (
            f"{copy}/preprocessor_config.json: feature_extractor_type Wav2Vec2FeatureExtractor; models of type"
            " audio-spectrogram-transformer take ASTFeatureExtractor"
        )
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
            create("hf", {"weights": str(copy)})

    def test_an_adapter_on_top(self, make_model: MakeModel, tmp_path: Path) -> None:
        copy = edited(make_model("wav2vec2-group"), tmp_path, "config.json", add_adapter=True)
        with pytest.raises(ConfigError, match="add_adapter is true; the adapter on top changes the frame rate"):
            create("hf", {"weights": str(copy)})

    def test_a_checkpoint_that_lacks_tensors(self, make_model: MakeModel, tmp_path: Path) -> None:
        copy = edited(make_model("hubert-group"), tmp_path, "config.json", num_hidden_layers=4)
        with pytest.raises(CorruptFileError, match=r"the checkpoint lacks 16 tensors that config\.json asks for"):
            loaded(copy)

    def test_a_truncated_checkpoint(self, make_model: MakeModel, tmp_path: Path) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(make_model("hubert-group"), copy)
        content = (copy / "model.safetensors").read_bytes()
        (copy / "model.safetensors").write_bytes(content[: len(content) // 2])
        with pytest.raises(CorruptFileError, match=r"the model cannot be loaded: .*`voxshard weights verify`"):
            loaded(copy)

    def test_a_configuration_that_is_not_json(self, make_model: MakeModel, tmp_path: Path) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(make_model("hubert-group"), copy)
        (copy / "config.json").write_text("<html>")
        with pytest.raises(CorruptFileError, match=r"config\.json: not valid JSON"):
            create("hf", {"weights": str(copy)})

    def test_filter_banks_that_do_not_fit_the_model(self, make_model: MakeModel, tmp_path: Path) -> None:
        copy = edited(make_model("w2v-bert"), tmp_path, "preprocessor_config.json", num_mel_bins=40)
        with pytest.raises(ConfigError, match=r"gives 80 values per frame \(40 mel bins x 2\), config\.json wants 160"):
            create("hf", {"weights": str(copy)})


@pytest.fixture
def sharded(make_model: MakeModel, tmp_path: Path) -> Path:
    folder = make_model("hubert-group")
    model = transformers.AutoModel.from_pretrained(folder)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    shutil.copy(folder / "preprocessor_config.json", tmp_path)
    return tmp_path


def test_models_saved_in_several_files_load_and_hash_all_of_them(
    sharded: Path, make_model: MakeModel, clips: list[np.ndarray]
) -> None:
    encoder = loaded(sharded)
    names = [item.name for item in encoder.info.weight_files]
    assert "model.safetensors.index.json" in names
    assert sum(name.startswith("model-0") for name in names) > 1
    expected = encode_together(loaded(make_model("hubert-group")), clips[:2])
    for found, want in zip(encode_together(encoder, clips[:2]), expected, strict=True):
        np.testing.assert_array_equal(found["embedding"], want["embedding"])


def test_a_pickled_checkpoint_loads_too(make_model: MakeModel, tmp_path: Path, clips: list[np.ndarray]) -> None:
    folder = make_model("wavlm-layer")
    shutil.copytree(folder, tmp_path / "bin")
    model = transformers.AutoModel.from_pretrained(folder)
    (tmp_path / "bin/model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "bin/pytorch_model.bin")
    found = encode_together(loaded(tmp_path / "bin"), clips[:1])[0]["embedding"]
    np.testing.assert_array_equal(found, encode_together(loaded(folder), clips[:1])[0]["embedding"])
