"""VGGish without a framework: log-mel patches, post-processing, and the choice of where it runs."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from support.vggish_reference import pca_parameters, random_weights
from voxshard.encoders.registry import create
from voxshard.encoders.vggish import PostProcessor
from voxshard.encoders.vggish_frontend import PATCH_SAMPLES, log_mel_patches, mel_matrix
from voxshard.encoders.vggish_weights import check_weights
from voxshard.errors import BackendUnavailableError, CorruptFileError, MissingWeightsError, TooShortError

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"


def noise(num_samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


def test_patches_equal_those_of_the_original_front_end() -> None:
    path = REFERENCE / "vggish_logmel_ref.npz"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    reference = np.load(path)
    compared = 0
    for key in reference.files:
        if key == "smoke_sine1k_3s":
            waveform = np.sin(2 * np.pi * 1000 * np.arange(48_000) / 16_000)
        else:
            waveform = soundfile.read(REFERENCE / "wav" / f"{key}.wav", dtype="float32", always_2d=True)[0].mean(axis=1)
        if len(reference[key]):
            np.testing.assert_allclose(log_mel_patches(waveform), reference[key], rtol=0, atol=1e-5)
            compared += 1
        else:
            with pytest.raises(TooShortError):
                log_mel_patches(waveform)
    assert compared == 8


def test_one_frame_equals_the_definition_written_out() -> None:
    samples = noise(PATCH_SAMPLES)
    time = np.arange(400)
    windowed = samples[160 * 5 : 160 * 5 + 400] * (0.5 - 0.5 * np.cos(2 * np.pi * time / 400))
    magnitudes = [abs(np.sum(windowed * np.exp(-2j * np.pi * k * time / 512))) for k in range(257)]
    mel = 1127 * np.log(1 + np.arange(257) * 31.25 / 700)
    edges = np.linspace(1127 * np.log(1 + 125 / 700), 1127 * np.log(1 + 7500 / 700), 66)
    expected = []
    for band in range(64):
        low, centre, high = edges[band : band + 3]
        rising, falling = (mel - low) / (centre - low), (high - mel) / (high - centre)
        triangle = np.clip(np.minimum(rising, falling), 0, None)
        expected.append(np.log(np.sum(triangle[1:] * magnitudes[1:]) + 0.01))
    np.testing.assert_allclose(log_mel_patches(samples)[0, 5], expected, rtol=0, atol=1e-6)


def test_the_direct_current_bin_counts_for_nothing_and_every_band_hears_something() -> None:
    assert mel_matrix().shape == (257, 64)
    assert not mel_matrix()[0].any()
    assert (mel_matrix().sum(axis=0) > 0).all()


@pytest.mark.parametrize(
    ("num_samples", "num_patches"),
    [(15_600, 1), (30_959, 1), (30_960, 2), (15_600 + 15_360 * 149 + 15_359, 150)],
)
def test_a_trailing_part_of_a_patch_is_dropped(num_samples: int, num_patches: int) -> None:
    assert log_mel_patches(noise(num_samples)).shape == (num_patches, 96, 64)


def test_a_long_recording_gives_the_patches_of_its_pieces() -> None:
    samples = noise(15_360 * 130 + 240)
    patches = log_mel_patches(samples)
    for number in (0, 63, 64, 129):
        piece = samples[15_360 * number : 15_360 * number + PATCH_SAMPLES]
        assert log_mel_patches(piece)[0].tobytes() == patches[number].tobytes()


@pytest.mark.parametrize("num_samples", [1, 239, 15_599])
def test_a_clip_too_short_for_a_window_says_what_it_takes(num_samples: int) -> None:
    expected = (
        f"{num_samples} samples at 16 kHz; VGGish needs 15600 (0.975 s) for one window:"
        " `min_seconds=1` with `pad=repeat` or `pad=zero` fills short recordings up"
    )
    with pytest.raises(TooShortError, match=f"^{re.escape(expected)}$"):
        log_mel_patches(noise(num_samples))


def test_post_processing_projects_clips_and_cuts_off(tmp_path: Path) -> None:
    parameters = pca_parameters(3)
    np.savez(tmp_path / "pca.npz", **parameters)
    process = PostProcessor(tmp_path / "pca.npz")
    embeddings = np.random.default_rng(1).standard_normal((40, 128)).astype(np.float32) * 2
    vectors, means = parameters["pca_eigen_vectors"].astype(float), parameters["pca_means"].astype(float)
    projected = (vectors @ (embeddings.T - means)).T
    np.testing.assert_allclose(process.project(embeddings), projected, rtol=0, atol=1e-12)
    expected = ((np.clip(projected, -2, 2) + 2) * (255 / 4)).astype(np.uint8)
    processed = process(embeddings)
    assert processed.dtype == np.float32
    np.testing.assert_array_equal(processed, expected)
    assert processed.min() == 0
    assert processed.max() == 255


def test_post_processing_without_its_parameters_says_what_brings_them(tmp_path: Path) -> None:
    path = tmp_path / "vggish_pca_params.npz"
    expected = f"{path}: missing, and `postprocess` needs it; `voxshard weights fetch vggish` brings it"
    with pytest.raises(MissingWeightsError, match=f"^{re.escape(expected)}$"):
        PostProcessor(path)


def test_post_processing_refuses_other_arrays_and_pickles(tmp_path: Path) -> None:
    other, pickled, text = tmp_path / "other.npz", tmp_path / "pickled.npz", tmp_path / "text.npz"
    np.savez(other, pca_means=np.zeros(3))
    np.savez(pickled, pca_means=np.array([None]))
    text.write_text("no arrays")
    expected = f"{other}: holds pca_means (3,); expected pca_eigen_vectors (128, 128) and pca_means (128, 1)"
    with pytest.raises(CorruptFileError, match=f"^{re.escape(expected)}$"):
        PostProcessor(other)
    for path in (pickled, text):
        with pytest.raises(CorruptFileError, match=f"^{re.escape(f'{path}: not an npz of arrays: ')}"):
            PostProcessor(path)


def test_weights_without_one_variable_are_refused_by_name() -> None:
    weights = random_weights(0)
    del weights["vggish/conv3/conv3_2/biases"]
    with pytest.raises(MissingWeightsError) as caught:
        check_weights(weights, Path("some.ckpt"))
    message = str(caught.value)
    assert message.startswith("some.ckpt: no vggish/conv3/conv3_2/biases in it; found vggish/conv1/biases, ")
    assert "; VGGish consists of vggish/conv1/weights, vggish/conv1/biases, vggish/conv2/weights, " in message
    assert message.endswith("; is it another model's file?")


def test_weights_that_do_not_fit_together_are_refused() -> None:
    weights = random_weights(0)
    weights["vggish/conv2/weights"] = weights["vggish/conv2/weights"][:, :, :3]
    expected = (
        "some.ckpt: vggish/conv2 has weights (3, 3, 3, 6) and biases (6,); after the layer before it they would be"
        " (3, 3, 4, 6) and (6,)"
    )
    with pytest.raises(CorruptFileError, match=f"^{re.escape(expected)}$"):
        check_weights(weights, Path("some.ckpt"))


def test_a_folder_without_weights_names_both_files(tmp_path: Path) -> None:
    expected = (
        f"{tmp_path}: neither vggish_model.ckpt nor vggish.safetensors in this folder; `voxshard weights fetch vggish`"
        " brings the first, `voxshard weights convert vggish` makes the second of it"
    )
    with pytest.raises(MissingWeightsError, match=f"^{re.escape(expected)}$"):
        create("vggish", {"weights": str(tmp_path)})


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("vggish_model.ckpt", ": a TensorFlow checkpoint, and tensorflow is not installed in this environment;"),
        ("vggish.safetensors", ": needs torch or tensorflow, neither is installed in this environment;"),
    ],
)
def test_without_its_framework_it_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, reason: str
) -> None:
    (tmp_path / file).touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailableError, match=re.escape(f"{tmp_path / file}{reason}")):
        create("vggish", {"weights": str(tmp_path)})


def test_openl3_whose_package_does_not_install_says_so_and_names_ingest() -> None:
    with pytest.raises(BackendUnavailableError) as caught:
        create("openl3", {"embedding_size": 512})
    assert str(caught.value).startswith("openl3 cannot run here: its package (openl3 0.4.2) asks for h5py below 3")
    assert "`voxshard ingest train=FILE.npz --out DIR`" in str(caught.value)
    assert caught.value.exit_code == 4
