"""metis8d against a plain reading of its parts, file by file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn import functional

from voxshard.encoders.base import Encoder
from voxshard.encoders.registry import create
from voxshard.errors import ConfigError, CorruptFileError, MissingWeightsError
from voxshard.testing import EncoderConformance, encode_together

MakeFolder = Callable[..., Path]


def loaded(folder: Path, **settings: Any) -> Encoder:
    encoder = create("metis8d", {"weights": str(folder), "layer": 2, **settings})
    encoder.load("cpu")
    return encoder


class TestConformance(EncoderConformance):
    @pytest.fixture
    def encoder(self, make_metis: MakeFolder) -> Encoder:
        return loaded(make_metis(), codes=True)


def plain_latents(folder: Path, clip: np.ndarray, layer: int) -> torch.Tensor:
    """The published recipe, step by step, for one file: (T, 8)."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder / "w2v-bert-2.0")
    model = transformers.AutoModel.from_pretrained(folder / "w2v-bert-2.0", attn_implementation="eager").eval()
    with torch.inference_mode():
        inputs = extractor(clip, sampling_rate=16000, return_tensors="pt")
        hidden = model(**inputs, output_hidden_states=True).hidden_states[layer][0]
        statistics = torch.load(folder / "wav2vec2bert_stats.pt", weights_only=True)
        x = ((hidden - statistics["mean"]) / torch.sqrt(statistics["var"])).T[None]
        state = load_file(folder / "MaskGCT/semantic_codec/model.safetensors")

        def norm(name: str, value: torch.Tensor) -> torch.Tensor:
            weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
            return functional.layer_norm(value.transpose(1, 2), weight.shape, weight, bias, 1e-6).transpose(1, 2)

        def linear(name: str, value: torch.Tensor) -> torch.Tensor:
            return functional.conv1d(value, state[f"{name}.weight"][:, :, None], state[f"{name}.bias"])

        x = functional.conv1d(x, state["encoder.0.embed.weight"], state["encoder.0.embed.bias"], padding=3)
        x = norm("encoder.0.norm", x)
        for number in range(3):
            block = f"encoder.0.convnext.{number}"
            weight, bias = state[f"{block}.dwconv.weight"], state[f"{block}.dwconv.bias"]
            inner = norm(f"{block}.norm", functional.conv1d(x, weight, bias, padding=3, groups=len(weight)))
            inner = linear(f"{block}.pwconv2", functional.gelu(linear(f"{block}.pwconv1", inner)))
            x = x + state[f"{block}.gamma"][:, None] * inner
        x = linear("encoder.1", norm("encoder.0.final_layer_norm", x))
        name = "quantizer.quantizers.0.in_project"
        direction = state[f"{name}.weight_v"]
        weight = state[f"{name}.weight_g"] * direction / direction.flatten(1).norm(dim=1)[:, None, None]
        return functional.conv1d(x, weight, state[f"{name}.bias"])[0].T


def plain_tokens(folder: Path, latents: torch.Tensor) -> np.ndarray:
    codebook = load_file(folder / "MaskGCT/semantic_codec/model.safetensors")["quantizer.quantizers.0.codebook.weight"]
    return torch.cdist(functional.normalize(latents), functional.normalize(codebook)).argmin(1).numpy()


def test_latents_and_tokens_in_a_padded_batch_are_the_published_recipe_file_by_file(
    make_metis: MakeFolder, clips: list[np.ndarray]
) -> None:
    folder = make_metis()
    odd = 0
    for clip, output in zip(clips, encode_together(loaded(folder, codes=True), clips), strict=True):
        expected = plain_latents(folder, clip, 2)
        num_frames = 1 + (len(clip) - 400) // 160
        odd += num_frames % 2
        assert output["frames"].shape == (-(-num_frames // 2), 8)
        np.testing.assert_allclose(output["frames"], expected.numpy(), rtol=0, atol=1e-4)
        np.testing.assert_array_equal(output["codes"], plain_tokens(folder, expected))
        assert output["codes"].dtype == np.int32
    assert 0 < odd < len(clips), "clips with an incomplete last frame and without are both needed"


def test_the_layer_is_in_the_provenance_and_changes_the_numbers(
    make_metis: MakeFolder, clips: list[np.ndarray]
) -> None:
    folder = make_metis()
    first, second = loaded(folder, layer=1), loaded(folder, layer=2)
    assert first.info.provenance["derived"] == {"layer": 1}
    assert first.info.fingerprint != second.info.fingerprint
    frames = [encode_together(encoder, clips[:1])[0]["frames"] for encoder in (first, second)]
    assert np.abs(frames[0] - frames[1]).max() > 0.1


def test_sizes_come_from_the_tensors(make_metis: MakeFolder, clips: list[np.ndarray]) -> None:
    encoder: Any = loaded(make_metis(channels=16, intermediate=20, blocks=1, tokens=5), codes=True)
    assert encoder.info.dim == 8
    assert encode_together(encoder, clips[:1])[0]["codes"].max() < 5


def test_relative_positions_need_no_table_of_pairs(make_metis: MakeFolder) -> None:
    encoder: Any = loaded(make_metis(), layer=1)
    attention = encoder.model["conformer"].encoder.layers[0].self_attn
    sizes: list[int] = []
    weight = attention.distance_embedding.weight

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                sizes.append(result.numel())
            return result

    frames = 200
    with torch.inference_mode(), Watch():
        attention(torch.randn(1, frames, 32))
    assert weight.shape[1] == 8
    assert max(sizes) == 4 * frames * frames  # heads x T x T: not T x T x size of a head


class TestWhatIsWrongIsSaid:
    def test_a_folder_without_the_codec(self, make_metis: MakeFolder, tmp_path: Path) -> None:
        (tmp_path / "w2v-bert-2.0").symlink_to(make_metis() / "w2v-bert-2.0")
        message = (
            f"{tmp_path}: no MaskGCT/semantic_codec/model.safetensors, wav2vec2bert_stats.pt in this folder; metis8d"
        )
        with pytest.raises(MissingWeightsError, match=f"^{re.escape(message)}"):
            create("metis8d", {"weights": str(tmp_path)})

    def test_a_layer_the_model_does_not_have(self, make_metis: MakeFolder) -> None:
        with pytest.raises(ConfigError, match=r"^layer 17: .* has 3 layers"):
            create("metis8d", {"weights": str(make_metis())})

    def test_a_codec_that_lacks_a_tensor(self, make_metis: MakeFolder) -> None:
        folder = make_metis()
        path = folder / "MaskGCT/semantic_codec/model.safetensors"
        state = load_file(path)
        del state["encoder.0.convnext.1.gamma"]
        save_file(state, path)
        with pytest.raises(CorruptFileError, match=r"not the tensors of a semantic codec: .*VocosBackbone"):
            loaded(folder)

    def test_statistics_of_something_else(self, make_metis: MakeFolder) -> None:
        folder = make_metis()
        torch.save({"mean": torch.zeros(3)}, folder / "wav2vec2bert_stats.pt")
        with pytest.raises(CorruptFileError, match=r"wav2vec2bert_stats\.pt: holds mean; the tensors mean and var"):
            loaded(folder)

    def test_statistics_that_are_none(self, make_metis: MakeFolder) -> None:
        folder = make_metis()
        (folder / "wav2vec2bert_stats.pt").write_bytes(b"not a tensor")
        with pytest.raises(CorruptFileError, match=r"wav2vec2bert_stats\.pt: (not a readable checkpoint|refused)"):
            loaded(folder)
