"""`load_encoder(...).embed(...)`: the numbers of an extraction, in order, with the errors of bad recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

import voxshard
from conftest import MakeCorpus
from support import toy_encoder
from voxshard.errors import ConfigError, EmptyAudioError, MissingRecordingError, TooShortError, UtteranceError
from voxshard.extraction import loaded_encoder

SECONDS = [0.4, 1.3, 0.7, 2.2, 0.5]


@pytest.mark.parametrize(
    "settings", [{}, {"pooling": "none"}, {"max_seconds": 0.6, "pad": "repeat"}, {"store_dtype": "float16"}]
)
def test_paths_and_waveforms_give_the_extracted_rows(
    settings: dict[str, object], make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    manifest = make_corpus(SECONDS)
    features = voxshard.extract(manifest, encoder="mfcc", out=tmp_path / "out", settings=settings, workers=1)
    encoder = voxshard.load_encoder("mfcc", **settings)
    paths = [tmp_path / "corpus" / f"{name}.wav" for name in features.ids]
    together = encoder.embed(paths)
    for path, name, found in zip(paths, features.ids, together, strict=True):
        np.testing.assert_array_equal(found, features[name])
        np.testing.assert_array_equal(encoder.embed(str(path)), features[name])
        samples, rate = soundfile.read(path, dtype="float32")
        np.testing.assert_array_equal(encoder.embed(samples, sample_rate=rate), features[name])


def test_a_waveform_of_another_rate_is_resampled_as_a_recording_is(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).standard_normal(4410).astype(np.float32) * 0.1
    soundfile.write(tmp_path / "a.wav", samples, 44100, subtype="FLOAT")
    encoder = voxshard.load_encoder("mfcc")
    np.testing.assert_array_equal(encoder.embed(tmp_path / "a.wav"), encoder.embed(samples, sample_rate=44100))
    doubles = encoder.embed(samples.astype(np.float64), sample_rate=44100)
    np.testing.assert_array_equal(doubles, encoder.embed(samples, sample_rate=44100))


@pytest.mark.parametrize("policy", ["padded", "windows", "equal_length", "single"])
def test_long_recordings_are_chunked_and_batches_keep_the_order(
    policy: str, make_corpus: MakeCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_encoder.install(monkeypatch)
    monkeypatch.setattr(loaded_encoder, "_GROUP_RECORDINGS", 3)
    settings = {"policy": policy, "granularity": "frames", "chunk_seconds": 0.5}
    features = voxshard.extract(make_corpus(SECONDS), encoder="toy", out=tmp_path / "o", settings=settings, workers=1)
    found = voxshard.load_encoder("toy", **settings).embed([tmp_path / "corpus" / f"{n}.wav" for n in features.ids])
    for name, frames in zip(features.ids, found, strict=True):
        np.testing.assert_array_equal(frames, features.frames(name))


def test_an_encoder_that_leaks_its_padding_is_run_on_each_recording_alone(
    make_corpus: MakeCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_encoder.install(monkeypatch)
    make_corpus(SECONDS)
    paths = [tmp_path / "corpus" / f"u{number:04d}.wav" for number in range(5)]
    leaky = voxshard.load_encoder("toy", leak=1e-3).embed(paths)
    np.testing.assert_array_equal(leaky, voxshard.load_encoder("toy").embed(paths))


def test_a_bad_recording_raises_its_error_or_returns_it(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    make_corpus([0.5])
    good, empty, gone = tmp_path / "corpus" / "u0000.wav", tmp_path / "empty.wav", tmp_path / "gone.wav"
    empty.write_bytes(b"")
    short = np.zeros(10, np.float32)
    encoder = voxshard.load_encoder("mfcc")
    with pytest.raises(EmptyAudioError, match=r"empty\.wav: the file is empty"):
        encoder.embed([good, empty])
    results = encoder.embed([good, empty, gone, tmp_path / "nowhere" / "x.wav"], on_error="return")
    assert [type(item) for item in results] == [
        np.ndarray,
        EmptyAudioError,
        MissingRecordingError,
        MissingRecordingError,
    ]
    assert isinstance(encoder.embed(np.zeros(0, np.float32), sample_rate=16000, on_error="return"), EmptyAudioError)
    if encoder.info.min_samples > 10:
        with pytest.raises(TooShortError, match="waveform 0"):
            encoder.embed(short, sample_rate=16000)
    with pytest.raises(UtteranceError, match="NaN"):
        encoder.embed(np.full(16000, np.nan, np.float32), sample_rate=16000)


def test_what_is_odd_about_a_recording_is_the_warning_of_an_extraction(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    manifest = make_corpus(SECONDS)
    odd = tmp_path / "corpus" / "u0001.wav"
    content = bytearray(odd.read_bytes())
    at = content.find(b"data") + 4
    content[at : at + 4] = (int.from_bytes(content[at : at + 4], "little") + 8).to_bytes(4, "little")
    odd.write_bytes(bytes(content))
    features = voxshard.extract(manifest, encoder="mfcc", out=tmp_path / "out", workers=1)
    stated = features.table["warning"].to_pylist()[1]
    with pytest.warns(UserWarning, match="its header promises 8 more bytes") as caught:
        found = voxshard.load_encoder("mfcc").embed([tmp_path / "corpus" / f"{name}.wav" for name in features.ids])
    np.testing.assert_array_equal(found[1], features["u0001"])
    assert [str(item.message) for item in caught] == [f"{odd}: {stated}"]
    assert caught[0].filename == __file__


def test_wrong_arguments_of_embed_are_one_config_error() -> None:
    encoder = voxshard.load_encoder("mfcc")
    good = np.zeros(16000, np.float32)
    for arguments, options, message in (
        ([good], {}, "sample_rate: a waveform needs its sample rate"),
        ([good], {"sample_rate": 16000.0}, "an int in Hz"),
        ([good], {"sample_rate": 16000, "on_error": "ignore"}, "on_error: expected"),
        ([np.zeros((2, 100), np.float32)], {"sample_rate": 16000}, r"mono samples of shape \(S,\) \(got \(2, 100\)\)"),
        ([np.zeros(100, np.int16)], {"sample_rate": 16000}, "divide int16 by 32768"),
        ([5], {}, r"recordings\[0\]: expected a path or an array of samples \(got int\)"),
        ([[good, 0.1]], {"sample_rate": 16000}, r"recordings\[1\]"),
    ):
        with pytest.raises(ConfigError, match=message):
            encoder.embed(*arguments, **options)
    assert encoder.embed([]) == []
    assert "mfcc on cpu" in repr(encoder)


def test_paths_may_come_as_an_array_of_texts(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).standard_normal(8000).astype(np.float32) * 0.1
    paths = [str(tmp_path / name) for name in ("a.wav", "b.wav")]
    for path in paths:
        soundfile.write(path, samples, 16000)
    encoder = voxshard.load_encoder("mfcc")
    for given in (np.array(paths), np.array(paths, dtype=object)):
        np.testing.assert_array_equal(encoder.embed(given), encoder.embed(paths))
