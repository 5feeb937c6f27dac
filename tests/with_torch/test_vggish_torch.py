"""VGGish in PyTorch, from converted weights: the numbers of the definition, and of TensorFlow."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.numpy import save_file

from support.vggish_reference import FULL_WIDTHS, forward, pca_parameters, random_weights
from voxshard.encoders._torch.vggish import load_network
from voxshard.encoders.base import Encoder
from voxshard.encoders.registry import create
from voxshard.encoders.vggish_frontend import log_mel_patches
from voxshard.errors import CorruptFileError, MissingWeightsError
from voxshard.testing import EncoderConformance, encode_together

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vggish")
    save_file(random_weights(2), folder / "vggish.safetensors")
    np.savez(folder / "vggish_pca_params.npz", **pca_parameters(2))
    return folder


@functools.cache
def loaded(folder: Path, **settings: object) -> Encoder:
    encoder = create("vggish", {"weights": str(folder), **settings})
    encoder.load("cpu")
    return encoder


def clips() -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    return [(0.1 * rng.standard_normal(int(16_000 * s))).astype(np.float32) for s in (0.975, 1.5, 2.0, 7.7, 70.0)]


def frames(encoder: Encoder, waveforms: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([output["frames"] for output in encode_together(encoder, waveforms)])


def test_converted_weights_run_in_pytorch_where_it_is_installed(folder: Path) -> None:
    info = loaded(folder).info
    assert "torch" in info.requires
    assert list(info.provenance["libraries"]) == ["torch"]


def test_embeddings_equal_the_definition_written_out(folder: Path) -> None:
    patches = np.concatenate([log_mel_patches(clip) for clip in clips()])
    expected = forward(random_weights(2), patches)
    np.testing.assert_allclose(frames(loaded(folder), clips()), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_patch_gets_the_same_bits_whatever_shares_its_batch(folder: Path) -> None:
    encoder = loaded(folder)
    for clip, output in zip(clips(), encode_together(encoder, clips()), strict=True):
        np.testing.assert_array_equal(encode_together(encoder, [clip])[0]["frames"], output["frames"])


def test_another_models_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "vggish.safetensors"
    save_file({"encoder.weight": np.zeros(3, np.float32)}, path)
    expected = f"{path}: no vggish/conv1/weights, vggish/conv1/biases, "
    with pytest.raises(
        MissingWeightsError, match=f"^{re.escape(expected)}.* in it; found encoder.weight; VGGish consists"
    ):
        create("vggish", {"weights": str(tmp_path)}).load("cpu")


def test_a_damaged_file_is_corrupt_and_named(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "vggish.safetensors"
    path.write_bytes((folder / "vggish.safetensors").read_bytes()[:-100])
    expected = f"{path}: cannot be read as safetensors: "
    with pytest.raises(CorruptFileError, match=f"^{re.escape(expected)}.*`voxshard weights convert vggish`$"):
        create("vggish", {"weights": str(path)}).load("cpu")


@pytest.mark.slow
def test_the_published_size_gives_the_reference_vectors(tmp_path: Path) -> None:
    path = REFERENCE / "vggish_net_ref.npz"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    reference = np.load(path)
    save_file(random_weights(21, FULL_WIDTHS), tmp_path / "vggish.safetensors")  # as make_vggish_checkpoint.py does
    np.savez(tmp_path / "vggish_pca_params.npz", **pca_parameters(5))
    network = load_network(tmp_path / "vggish.safetensors", "cpu", "float32")
    processor = create("vggish", {"weights": str(tmp_path), "postprocess": True})._postprocess
    compared = 0
    for name in [key.removesuffix(".embedding") for key in reference.files if key.endswith(".embedding")]:
        if name == "smoke_sine1k_3s":
            samples = np.sin(2 * np.pi * 1000 * np.arange(48_000) / 16_000)
        else:
            samples = soundfile.read(REFERENCE / "wav" / f"{name}.wav", dtype="float32", always_2d=True)[0].mean(axis=1)
        embeddings = network(log_mel_patches(samples))
        np.testing.assert_allclose(embeddings, reference[f"{name}.embedding"], rtol=0, atol=5e-4)
        np.testing.assert_allclose(np.maximum(embeddings, 0), reference[f"{name}.embedding_relu"], rtol=0, atol=5e-4)
        np.testing.assert_allclose(processor.project(embeddings), reference[f"{name}.pca_float"], rtol=0, atol=5e-4)
        np.testing.assert_array_equal(processor(embeddings), reference[f"{name}.post_uint8"])
        compared += 1
    assert compared == 8


class TestVggish(EncoderConformance):
    @pytest.fixture
    def encoder(self, folder: Path) -> Encoder:
        return loaded(folder)


class TestPostProcessed(EncoderConformance):
    @pytest.fixture
    def encoder(self, folder: Path) -> Encoder:
        return loaded(folder, activation="relu", postprocess=True)
