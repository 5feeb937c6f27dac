"""TRILLsson window by window against the model called with one clip at a time."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from voxshard.encoders._tensorflow.trillsson import TrillssonEncoder
from voxshard.encoders.registry import create
from voxshard.testing import EncoderConformance, encode_together

Save = Callable[..., Path]

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"
PUBLISHED = ["trillsson_module", "trillsson_keras1", "trillsson_keras5"]
SECONDS = (0.0001, 0.3, 1.2, 1.99, 2.0, 2.5, 3.9, 3.93, 5.31, 7.9)


@functools.cache
def loaded(folder: Path, **settings: object) -> TrillssonEncoder:
    encoder = create("trillsson3", {"weights": str(folder), **settings})
    assert isinstance(encoder, TrillssonEncoder)
    encoder.load("cpu")
    return encoder


def speech_like(seconds: float, seed: int) -> np.ndarray:
    """Noise whose level changes all along, so that every window differs."""
    rng = np.random.default_rng(seed)
    time = np.arange(max(1, round(seconds * 16_000))) / 16_000
    level = 10.0 ** -rng.integers(0, 3) * (0.1 + np.sin(rng.uniform(1, 4) * time) ** 2)
    return (level * rng.standard_normal(len(time))).astype(np.float32)


def clips() -> list[np.ndarray]:
    return [speech_like(seconds, seed) for seed, seconds in enumerate(SECONDS)]


def embeddings(encoder: TrillssonEncoder, waveforms: list[np.ndarray]) -> np.ndarray:
    return np.stack([output["embedding"] for output in encode_together(encoder, waveforms)])


@pytest.mark.parametrize("frame_hop", [7, 17, 195])
def test_a_clip_among_others_gets_what_the_model_gives_it_alone(save_trillsson: Save, frame_hop: int) -> None:
    folder = save_trillsson(frame_hop=frame_hop)
    encoder, model = loaded(folder), tf.saved_model.load(str(folder))
    assert encoder.loaded == {"frame_hop": frame_hop}
    waveforms = clips()
    expected = np.stack([model(tf.constant(waveform[None]))["embedding"][0] for waveform in waveforms])
    np.testing.assert_allclose(embeddings(encoder, waveforms), expected, rtol=0, atol=1e-5 * expected.std())


@pytest.mark.parametrize("settings", [{"frame_hop": 7}, {"frame_hop": 195}, {"after_mean": tf.tanh}])
def test_alone_mixed_and_reversed_are_the_same(save_trillsson: Save, settings: dict[str, object]) -> None:
    encoder = loaded(save_trillsson(**settings))
    waveforms = clips()
    together = embeddings(encoder, waveforms)
    alone = np.concatenate([embeddings(encoder, [waveform]) for waveform in waveforms])
    backwards = embeddings(encoder, waveforms[::-1])[::-1]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-7)
    np.testing.assert_allclose(backwards, alone, rtol=0, atol=1e-7)


def test_a_model_that_is_not_the_mean_of_its_windows_is_called_with_whole_clips(save_trillsson: Save) -> None:
    folder = save_trillsson(after_mean=tf.tanh)
    encoder, model = loaded(folder), tf.saved_model.load(str(folder))
    assert encoder.loaded == {"frame_hop": None}
    waveforms = [*clips(), *clips()[::-1]]  # every length twice
    expected = np.stack([model(tf.constant(waveform[None]))["embedding"][0] for waveform in waveforms])
    np.testing.assert_allclose(embeddings(encoder, waveforms), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("after_mean", [None, tf.tanh])
def test_six_seconds_zero_padded_is_the_call_of_one_equal_length_batch(
    save_trillsson: Save, after_mean: object
) -> None:
    folder = save_trillsson(after_mean=after_mean)
    padded = np.zeros((12, 96_000), np.float32)
    for row, seconds in zip(padded, np.linspace(0.4, 9, 12), strict=True):
        clip = speech_like(seconds, 3)[:96_000]
        row[: len(clip)] = clip
    expected = tf.saved_model.load(str(folder))(tf.constant(padded))["embedding"]
    found = embeddings(loaded(folder, max_seconds=6, pad="zero"), list(padded))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "form",
    [
        {"outputs": tf.identity},
        {"outputs": lambda embedding: {"tf.math.reduce_mean": embedding}},
        {"outputs": lambda embedding: {"logits": tf.zeros((tf.shape(embedding)[0], 3)), "embedding": embedding}},
        {"signature_output": "dense_1"},
        {"signature_output": "tf.math.reduce_mean", "called": False},
    ],
    ids=["tensor", "other name", "two outputs", "signature named otherwise", "signature only"],
)
def test_the_embedding_is_found_whatever_it_is_called(save_trillsson: Save, form: dict[str, object]) -> None:
    plain, encoder = loaded(save_trillsson()), loaded(save_trillsson(**form))
    assert encoder.info.dim == plain.info.dim
    np.testing.assert_allclose(embeddings(encoder, clips()), embeddings(plain, clips()), rtol=0, atol=1e-6)


def test_the_model_meets_few_shapes_however_many_files_pass(
    save_trillsson: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = loaded(save_trillsson(frame_hop=17))
    embed, shapes = encoder._embed, set()
    assert embed is not None

    def recording(batch: tf.Tensor) -> tf.Tensor:
        shapes.add(tuple(batch.shape))
        return embed(batch)

    monkeypatch.setattr(encoder, "_embed", recording)
    rng = np.random.default_rng(1)
    for _ in range(25):
        embeddings(encoder, [speech_like(seconds, 0) for seconds in rng.uniform(0.1, 6, rng.integers(1, 5))])
    assert shapes <= {(size, 31_440) for size in (2, 4, 8, 16, 32, 64)}


def test_what_is_known_before_loading_is_told_before_loading(save_trillsson: Save) -> None:
    info = create("trillsson5", {"weights": str(save_trillsson())}).info
    assert (info.requires, info.batch_policy, info.granularity) == (("tensorflow",), "windows", "utterance")
    assert sorted(info.provenance["weights"]) == [
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    ]
    assert info.provenance["libraries"] == {"tensorflow": tf.__version__.partition(".")[0]}


def test_other_weights_give_another_fingerprint(save_trillsson: Save) -> None:
    first, second = (create("trillsson3", {"weights": str(save_trillsson(seed=seed))}) for seed in (0, 1))
    assert first.info.fingerprint != second.info.fingerprint


WITHOUT = """
import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        absent = name.partition(".")[0] in ("tensorflow_hub", "tf_keras", "keras", "kagglehub")
        return None if absent else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
import numpy as np
from voxshard.encoders.registry import create

encoder = create("trillsson3", {"weights": sys.argv[1]})
encoder.load("cpu")
samples = encoder.prepare(np.sin(np.arange(40_000, dtype=np.float32)))
np.save(sys.argv[2], encoder.encode(samples, np.array([len(samples)]))[0]["embedding"])
for name in ("tensorflow_hub", "tf_keras", "keras"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{name} could be imported")
"""


def test_it_runs_with_tensorflow_hub_and_keras_absent(save_trillsson: Save, tmp_path: Path) -> None:
    folder, out = save_trillsson(), tmp_path / "embedding.npy"
    subprocess.run([sys.executable, "-c", WITHOUT, str(folder), str(out)], check=True)
    expected = embeddings(loaded(folder), [np.sin(np.arange(40_000, dtype=np.float32))])[0]
    np.testing.assert_allclose(np.load(out), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_folders_give_the_reference_vectors(name: str) -> None:
    folder = REFERENCE / name
    if not folder.exists():
        pytest.skip(f"{folder} is not here")
    reference, prefix = np.load(REFERENCE / "trillsson_ref.npz"), name.removeprefix("trillsson_") + "."
    keys = [key for key in reference.files if key.startswith(prefix)]
    waveforms = [soundfile.read(REFERENCE / "wav" / f"{key[len(prefix) :]}.wav", dtype="float32")[0] for key in keys]
    encoder = loaded(folder)
    assert encoder.info.dim == 1024
    assert len(keys) == 7
    np.testing.assert_allclose(
        embeddings(encoder, waveforms), np.stack([reference[key] for key in keys]), rtol=0, atol=1e-5
    )


class TestWindows(EncoderConformance):
    @pytest.fixture
    def encoder(self, save_trillsson: Save) -> TrillssonEncoder:
        return loaded(save_trillsson(frame_hop=17))


class TestWholeClips(EncoderConformance):
    @pytest.fixture
    def encoder(self, save_trillsson: Save) -> TrillssonEncoder:
        return loaded(save_trillsson(after_mean=tf.tanh))


class TestPublished(EncoderConformance):
    @pytest.fixture(params=PUBLISHED)
    def encoder(self, request: pytest.FixtureRequest) -> TrillssonEncoder:
        folder = REFERENCE / request.param
        if not folder.exists():
            pytest.skip(f"{folder} is not here")
        return loaded(folder)
