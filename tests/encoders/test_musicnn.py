"""musicnn: exact in any batch, the numbers of its own code on its real weights, and files that are not its own."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.musicnn import random_weights
from voxshard.encoders.base import Encoder
from voxshard.encoders.musicnn import SAMPLE_RATE, LogMelWindows, log_compressed
from voxshard.encoders.musicnn_weights import CONVERTED, MODELS, convert_wheel
from voxshard.encoders.registry import create
from voxshard.encoders.tensor_bundle import read_variables
from voxshard.errors import ConfigError, CorruptFileError, MissingWeightsError
from voxshard.testing import EncoderConformance, encode_together
from voxshard.weights.catalogue import weight_set
from voxshard.weights.fetch import fetch

ORIGINAL = Path(__file__).parents[1] / "data/musicnn/original.npz"
"""What musicnn 0.1.0 gave with TensorFlow 2.21 and tf-keras 2.21 for `tones()`, input_overlap=1."""


@pytest.fixture(scope="module")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("musicnn")
    arrays: dict[str, Any] = {
        f"{model}/{name}": array for model in MODELS for name, array in random_weights(model).items()
    }
    np.savez(folder / CONVERTED, **arrays)
    return folder


@pytest.fixture(scope="module")
def real_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published weights, where pip reaches an index that has them."""
    try:
        return fetch(weight_set("musicnn"), tmp_path_factory.mktemp("weights"))
    except MissingWeightsError as exc:
        pytest.skip(f"the published weights cannot be fetched here: {exc}")


def loaded(folder: Path, **settings: Any) -> Encoder:
    encoder = create("musicnn", {"weights": str(folder), **settings})
    encoder.load("cpu")
    return encoder


def noise(seconds: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal(round(seconds * SAMPLE_RATE)).astype(np.float32) * np.float32(0.1)


def tones() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Two tones of 4 s, one that swells and one that rises."""
    t = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    swelling = 0.1 * np.sin(2 * np.pi * 220 * t) * np.sin(2 * np.pi * 2 * t)
    return np.asarray(swelling + 0.05 * np.sin(2 * np.pi * (300 * t + 400 * t**2)), np.float32)


class TestConformance(EncoderConformance):
    @pytest.fixture(params=["MSD_musicnn", "MTT_vgg"])
    def encoder(self, request: pytest.FixtureRequest, random_folder: Path) -> Encoder:
        return loaded(random_folder, model=request.param, output="taggram", input_overlap=1.0)


@pytest.mark.parametrize("model", MODELS)
def test_published_weights_give_what_musicnn_gives(real_folder: Path, model: str) -> None:
    expected = np.load(ORIGINAL)
    for output in ("taggram", "pool5") if model.endswith("vgg") else ("taggram", "max_pool", "penultimate"):
        encoder = loaded(real_folder, model=model, output=output, input_overlap=1.0)
        wanted = expected[f"{model}/{output}"]
        alone = encode_together(encoder, [tones()])[0]["frames"]
        together = encode_together(encoder, [noise(5), tones()])[1]["frames"]
        np.testing.assert_array_equal(together, alone)
        assert alone.shape == (2, wanted.shape[1])
        worst = float(np.abs(alone[: len(wanted)] - wanted).max() / np.sqrt(np.mean(wanted**2)))
        print(f"{model} {output}: largest deviation from musicnn {worst:.2g} of the output's rms")
        assert worst <= 1e-4


@pytest.mark.parametrize(("seconds", "overlap", "num_windows"), [(2.976, None, 1), (30, None, 10), (30, 1.0, 28)])
def test_windows_start_every_overlap_and_a_last_part_is_dropped(
    random_folder: Path, seconds: float, overlap: float | None, num_windows: int
) -> None:
    encoder = create("musicnn", {"weights": str(random_folder), "input_overlap": overlap})
    assert encoder.prepare(noise(seconds)).shape == (num_windows, 187, 96)
    assert encoder.info.min_samples == round(2.976 * SAMPLE_RATE)
    assert encoder.info.hop_s == (0.976 if overlap else 2.992)


@pytest.mark.parametrize(("output", "size"), [("timbral", 408), ("temporal", 153), ("cnn3", 64)])
def test_outputs_before_pooling_are_frames(random_folder: Path, output: str, size: int) -> None:
    encoder = loaded(random_folder, output=output)
    assert (encoder.info.granularity, encoder.info.frame_rate_hz) == ("frames", 62.5)
    lengths = [len(found["frames"]) for found in encode_together(encoder, [noise(3), noise(7)])]
    assert lengths == [187, 2 * 187]
    assert encoder.info.dim == size


def test_what_overflows_float16_stays_finite_and_the_rest_is_rounded_to_it() -> None:
    mel = np.array([0.0, 0.0123, 6.5, 9.4, 400.0], np.float32)
    found = log_compressed(mel)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[:3], found[:3].astype(np.float16).astype(np.float32))
    np.testing.assert_allclose(found, np.log10(10_000 * mel.astype(np.float64) + 1), rtol=2e-3)


def test_a_loud_recording_gives_finite_numbers(random_folder: Path) -> None:
    t = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
    loud = np.sin(2 * np.pi * 100 * t).astype(np.float32)
    assert LogMelWindows()(loud).max() > 4.82  # more than float16 holds
    (found,) = encode_together(loaded(random_folder), [loud])
    assert np.isfinite(found["frames"]).all()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model": "MSD_vgg"}, "output max_pool does not exist in MSD_vgg; choose taggram or pool5"),
        ({"output": "pool5"}, "output pool5 is that of the vgg models"),
        ({"output": "cnn1", "input_overlap": 1.0}, "leave out input_overlap"),
    ],
)
def test_outputs_that_a_model_does_not_have_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        create("musicnn", settings)


def test_weights_that_are_not_there_name_the_command(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match="`voxshard weights fetch musicnn`"):
        create("musicnn", {"weights": str(tmp_path)})


def test_a_variable_of_another_shape_is_named(random_folder: Path, tmp_path: Path) -> None:
    with np.load(random_folder / CONVERTED) as stored:
        arrays: dict[str, Any] = {name: stored[name] for name in stored.files}
    np.savez(tmp_path / CONVERTED, **{**arrays, "MSD_musicnn/dense_1/bias": np.zeros(3, np.float32)})
    with pytest.raises(CorruptFileError, match=r"dense_1/bias of MSD_musicnn is float32 \(3,\); expected .*\(50,\)"):
        loaded(tmp_path)
    (tmp_path / CONVERTED).write_bytes(b"PK\x03\x04")
    with pytest.raises(CorruptFileError, match="not an npz of arrays"):
        loaded(tmp_path)


@pytest.mark.parametrize("index", [b"", bytes(100), bytes(92) + bytes.fromhex("57fb808b247547db")])
def test_a_file_that_is_no_checkpoint_is_refused(index: bytes) -> None:
    with pytest.raises(CorruptFileError, match=r"^x: not a TensorFlow checkpoint that can be read: "):
        read_variables(index, b"", where="x")


def test_another_wheel_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "musicnn-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("musicnn/__init__.py", b"")
    with pytest.raises(CorruptFileError, match="not musicnn's wheel"):
        convert_wheel(wheel, tmp_path / CONVERTED)
    assert not (tmp_path / CONVERTED).exists()
