"""VGGish in TensorFlow, from the checkpoint and from what it is converted to."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from safetensors.numpy import load_file

from support.vggish_reference import forward, pca_parameters, random_weights
from voxshard.encoders._tensorflow.convert import convert_vggish
from voxshard.encoders.base import Encoder
from voxshard.encoders.registry import create
from voxshard.encoders.vggish_frontend import log_mel_patches
from voxshard.errors import CorruptFileError, MissingWeightsError
from voxshard.files import sha256_of
from voxshard.testing import EncoderConformance, encode_together

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"


def save_checkpoint(path: Path, weights: dict[str, np.ndarray]) -> Path:
    """One file in the format of TensorFlow 1, as the published checkpoint."""
    with tf.compat.v1.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = [tf.compat.v1.get_variable(name, initializer=array) for name, array in weights.items()]
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(variables, write_version=tf.compat.v1.train.SaverDef.V1)
        saver.save(session, str(path), write_meta_graph=False, write_state=False)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow network of the published shape, and PCA parameters."""
    folder = tmp_path_factory.mktemp("vggish")
    save_checkpoint(folder / "vggish_model.ckpt", {**random_weights(2), "global_step": np.zeros(1, np.float32)})
    np.savez(folder / "vggish_pca_params.npz", **pca_parameters(2))
    return folder


@functools.cache
def loaded(weights: Path, **settings: object) -> Encoder:
    encoder = create("vggish", {"weights": str(weights), **settings})
    encoder.load("cpu")
    return encoder


def clips() -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    return [(0.1 * rng.standard_normal(int(16_000 * s))).astype(np.float32) for s in (0.975, 1.5, 2.0, 7.7, 70.0)]


def frames(encoder: Encoder, waveforms: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([output["frames"] for output in encode_together(encoder, waveforms)])


def test_embeddings_equal_the_definition_written_out(folder: Path) -> None:
    patches = np.concatenate([log_mel_patches(clip) for clip in clips()])
    expected = forward(random_weights(2), patches)
    np.testing.assert_allclose(frames(loaded(folder), clips()), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_the_converted_file_gives_the_same_numbers(folder: Path, tmp_path: Path) -> None:
    converted = convert_vggish(folder / "vggish_model.ckpt", tmp_path)
    encoder = loaded(converted)
    assert encoder.info.requires == ("tensorflow",)
    assert frames(encoder, clips()).tobytes() == frames(loaded(folder), clips()).tobytes()


def test_conversion_keeps_every_variable_and_says_what_it_was_made_of(folder: Path, tmp_path: Path) -> None:
    checkpoint = folder / "vggish_model.ckpt"
    converted = convert_vggish(checkpoint, tmp_path / "new" / "folder")
    assert converted == tmp_path / "new" / "folder" / "vggish.safetensors"
    weights = load_file(converted)
    assert weights.keys() == random_weights(2).keys()
    for name, array in random_weights(2).items():
        np.testing.assert_array_equal(weights[name], array)
    record = json.loads(converted.with_name("vggish.safetensors.json").read_text())
    assert record["source"] == "vggish_model.ckpt"
    assert record["source_sha256"] == sha256_of(checkpoint)
    assert record["sha256"] == sha256_of(converted)
    assert record["variables"]["vggish/conv1/weights"] == [3, 3, 1, 4]
    assert record["tensorflow"] == tf.__version__


def test_each_utterance_gets_its_own_windows(folder: Path) -> None:
    encoder = loaded(folder)
    outputs = encode_together(encoder, clips())
    assert [output["frames"].shape for output in outputs] == [(count, 128) for count in (1, 1, 2, 8, 72)]
    for clip, output in zip(clips(), outputs, strict=True):
        np.testing.assert_array_equal(encode_together(encoder, [clip])[0]["frames"], output["frames"])


def test_activation_and_post_processing_follow_the_embedding(folder: Path) -> None:
    plain = frames(loaded(folder), clips())
    np.testing.assert_array_equal(frames(loaded(folder, activation="relu"), clips()), np.maximum(plain, 0))
    parameters = pca_parameters(2)
    projected = (parameters["pca_eigen_vectors"].astype(float) @ (plain.T - parameters["pca_means"].astype(float))).T
    expected = ((np.clip(projected, -2, 2) + 2) * (255 / 4)).astype(np.uint8)
    found = frames(loaded(folder, postprocess=True), clips())
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_only_post_processing_depends_on_the_pca_parameters(folder: Path) -> None:
    plain, processed = loaded(folder).info, loaded(folder, postprocess=True).info
    assert list(plain.provenance["weights"]) == ["vggish_model.ckpt"]
    assert list(processed.provenance["weights"]) == ["vggish_model.ckpt", "vggish_pca_params.npz"]
    assert (plain.window_s, plain.hop_s, plain.min_samples, plain.dim) == (0.96, 0.96, 15_600, 128)


def test_a_checkpoint_without_one_variable_names_it(tmp_path: Path) -> None:
    weights = random_weights(2)
    del weights["vggish/fc1/fc1_2/weights"]
    checkpoint = save_checkpoint(tmp_path / "vggish_model.ckpt", weights)
    encoder = create("vggish", {"weights": str(tmp_path)})
    with pytest.raises(MissingWeightsError) as caught:
        encoder.load("cpu")
    assert str(caught.value).startswith(f"{checkpoint}: no vggish/fc1/fc1_2/weights in it; found vggish/conv1/biases, ")
    assert "; VGGish consists of vggish/conv1/weights, " in str(caught.value)
    with pytest.raises(MissingWeightsError):
        convert_vggish(checkpoint)
    assert not (tmp_path / "vggish.safetensors").exists()


@pytest.mark.parametrize("kept", [0, 100, 0.5])
def test_a_damaged_checkpoint_is_corrupt_and_named(folder: Path, tmp_path: Path, kept: float) -> None:
    content = (folder / "vggish_model.ckpt").read_bytes()
    checkpoint = tmp_path / "vggish_model.ckpt"
    checkpoint.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    expected = f"{checkpoint}: cannot be read as a TensorFlow checkpoint: "
    with pytest.raises(
        CorruptFileError, match=f"^{re.escape(expected)}.*`voxshard weights fetch vggish` brings it again$"
    ):
        create("vggish", {"weights": str(tmp_path)}).load("cpu")


def test_a_damaged_converted_file_is_corrupt_and_named(folder: Path, tmp_path: Path) -> None:
    converted = convert_vggish(folder / "vggish_model.ckpt", tmp_path)
    converted.write_bytes(converted.read_bytes()[:-100])
    expected = f"{converted}: cannot be read as safetensors: "
    with pytest.raises(CorruptFileError, match=f"^{re.escape(expected)}.*`voxshard weights convert vggish`$"):
        create("vggish", {"weights": str(converted)}).load("cpu")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the published size; 288 MB, removed at the end."""
    script = REFERENCE / "make_vggish_checkpoint.py"
    if not script.exists():
        pytest.skip(f"{script} is not here")
    folder = tmp_path_factory.mktemp("published")
    subprocess.run([sys.executable, str(script), str(folder)], check=True, capture_output=True)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
def test_a_checkpoint_of_the_published_size_gives_the_reference_vectors(published: Path) -> None:
    reference = np.load(REFERENCE / "vggish_net_ref.npz")
    names = [key.removesuffix(".embedding") for key in reference.files if key.endswith(".embedding")]
    waveforms = []
    for name in names:
        if name == "smoke_sine1k_3s":
            waveforms.append(np.sin(2 * np.pi * 1000 * np.arange(48_000) / 16_000))
        else:
            samples = soundfile.read(REFERENCE / "wav" / f"{name}.wav", dtype="float32", always_2d=True)[0]
            waveforms.append(samples.mean(axis=1))
    assert len(names) == 8

    def expected(kind: str) -> np.ndarray:
        return np.concatenate([reference[f"{name}.{kind}"] for name in names])

    encoder = loaded(published)
    embeddings = frames(encoder, waveforms)
    np.testing.assert_allclose(embeddings, expected("embedding"), rtol=0, atol=5e-4)
    np.testing.assert_allclose(np.maximum(embeddings, 0), expected("embedding_relu"), rtol=0, atol=5e-4)
    processor = create("vggish", {"weights": str(published), "postprocess": True})._postprocess
    np.testing.assert_allclose(processor.project(embeddings), expected("pca_float"), rtol=0, atol=5e-4)
    np.testing.assert_array_equal(processor(embeddings), expected("post_uint8"))


class TestVggish(EncoderConformance):
    @pytest.fixture
    def encoder(self, folder: Path) -> Encoder:
        return loaded(folder)


class TestPostProcessed(EncoderConformance):
    @pytest.fixture
    def encoder(self, folder: Path) -> Encoder:
        return loaded(folder, activation="relu", postprocess=True)
