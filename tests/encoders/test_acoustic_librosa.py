"""`mfcc`, `logmel` and `cqt` against librosa called by hand."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import librosa
import numpy as np
import pytest

from voxshard.encoders import registry
from voxshard.encoders.base import Encoder
from voxshard.errors import ConfigError

LENGTHS = [1, 100, 700, 1023, 1024, 1025, 2047, 2048, 3000, 5119, 6880, 16000, 51317]


def clip(num_samples: int) -> np.ndarray:
    rng = np.random.default_rng(num_samples)
    chirp = 0.3 * np.sin(np.arange(num_samples) ** 1.2 * 0.05)
    return (chirp + 0.05 * rng.standard_normal(num_samples)).astype(np.float32)


def prepared(name: str, waveform: np.ndarray, **values: Any) -> np.ndarray:
    return registry.create(name, values).prepare(waveform)


@pytest.fixture(autouse=True)
def _librosa_may_complain_of_short_clips() -> Any:
    """By hand librosa states that a clip is shorter than a window; ours must not (its own test below)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="n_fft=.* is too large")
        yield


@pytest.mark.parametrize("num_samples", LENGTHS)
def test_mfcc_frames_are_librosas_to_the_last_bit(num_samples: int) -> None:
    waveform = clip(num_samples)
    expected = librosa.feature.mfcc(y=waveform, sr=16000, n_mfcc=20)
    found = prepared("mfcc", waveform, pooling="none", deltas=0)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected.T)


@pytest.mark.parametrize("num_samples", LENGTHS)
def test_logmel_frames_are_librosas_to_the_last_bit(num_samples: int) -> None:
    waveform = clip(num_samples)
    expected = librosa.power_to_db(librosa.feature.melspectrogram(y=waveform, sr=16000))
    np.testing.assert_array_equal(prepared("logmel", waveform), expected.T)


@pytest.mark.parametrize("num_samples", LENGTHS)
def test_cqt_frames_are_librosas_to_the_last_bit(num_samples: int) -> None:
    waveform = clip(num_samples)
    expected = np.abs(librosa.cqt(waveform, sr=16000))
    np.testing.assert_array_equal(prepared("cqt", waveform), expected.T)


def test_settings_of_the_mel_spectrogram_mean_what_librosas_mean() -> None:
    waveform = clip(20000)
    sizes = {"n_fft": 512, "hop_length": 160, "n_mels": 40, "fmin": 80.0, "fmax": 7600.0}
    expected = librosa.feature.mfcc(y=waveform, sr=22050, n_mfcc=13, **sizes)
    found = prepared("mfcc", waveform, pooling="none", deltas=0, n_mfcc=13, sample_rate=22050, **sizes)
    np.testing.assert_array_equal(found, expected.T)
    expected = librosa.power_to_db(librosa.feature.melspectrogram(y=waveform, sr=22050, **sizes))
    np.testing.assert_array_equal(prepared("logmel", waveform, sample_rate=22050, **sizes), expected.T)


def test_settings_of_cqt_mean_what_librosas_mean() -> None:
    waveform = clip(20000)
    sizes = {"hop_length": 256, "fmin": 65.0, "n_bins": 96, "bins_per_octave": 24}
    expected = librosa.amplitude_to_db(np.abs(librosa.cqt(waveform, sr=22050, **sizes)), ref=np.max)
    found = prepared("cqt", waveform, sample_rate=22050, decibels=True, **sizes)
    np.testing.assert_array_equal(found, expected.T)


@pytest.mark.parametrize("num_samples", [1024, 1100, 6880, 51317])
def test_mfcc_gives_the_statistics_of_the_knn_baseline(num_samples: int) -> None:
    """Its 120 numbers in its order: neural-classifiers-with-few-audio, src/knn_mfcc.py."""
    waveform = clip(num_samples)
    mfcc = librosa.feature.mfcc(y=waveform, sr=12000, n_mfcc=20)
    first = mfcc[:, 1:] - mfcc[:, :-1]
    second = first[:, 1:] - first[:, :-1]
    expected = np.concatenate([statistic(x, axis=1) for x in (mfcc, first, second) for statistic in (np.mean, np.std)])
    found = prepared("mfcc", waveform, sample_rate=12000)
    assert found.shape == (120,)
    np.testing.assert_array_equal(found, expected)


def test_mfcc_frames_hold_the_deltas_beside_the_coefficients() -> None:
    waveform = clip(16000)
    mfcc = librosa.feature.mfcc(y=waveform, sr=16000, n_mfcc=20).T
    found = prepared("mfcc", waveform, pooling="none")
    assert found.shape == (len(mfcc), 60)
    np.testing.assert_array_equal(found[:, :20], mfcc)
    np.testing.assert_array_equal(found[1:, 20:40], mfcc[1:] - mfcc[:-1])
    np.testing.assert_array_equal(found[2:, 40:], (mfcc[2:] - mfcc[1:-1]) - (mfcc[1:-1] - mfcc[:-2]))
    assert not found[0, 20:].any()


def test_librosas_deltas_are_to_be_had() -> None:
    waveform = clip(16000)
    mfcc = librosa.feature.mfcc(y=waveform, sr=16000, n_mfcc=20)
    parts = [mfcc, librosa.feature.delta(mfcc), librosa.feature.delta(mfcc, order=2)]
    expected = np.concatenate([statistic(part, axis=1) for part in parts for statistic in (np.mean, np.std)])
    np.testing.assert_array_equal(prepared("mfcc", waveform, delta="librosa"), expected)
    np.testing.assert_array_equal(prepared("mfcc", waveform, delta="librosa", pooling="none"), np.concatenate(parts).T)


@pytest.mark.parametrize("pooling", ["mean", "sum", "max", "mean+std"])
@pytest.mark.parametrize("name", ["logmel", "cqt", "lfcc", "mfcc"])
def test_statistics_are_taken_over_the_frames(name: str, pooling: str) -> None:
    waveform = clip(16000)
    deltas = {} if name in ("logmel", "cqt") else {"deltas": 0}
    frames = prepared(name, waveform, pooling="none", **deltas)
    found = prepared(name, waveform, pooling=pooling, **deltas)
    parts = [{"mean": np.mean, "sum": np.sum, "max": np.max, "std": np.std}[part] for part in pooling.split("+")]
    expected = np.concatenate(
        [
            statistic(frames, axis=0, dtype=None if statistic is np.max else np.float64)
            if statistic is not np.max
            else np.max(frames, axis=0)
            for statistic in parts
        ]
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "values", "least"),
    [
        ("mfcc", {}, 1024),
        ("mfcc", {"deltas": 1}, 512),
        ("mfcc", {"deltas": 0}, 1),
        ("mfcc", {"pooling": "none"}, 1),
        ("mfcc", {"delta": "librosa"}, 4096),
        ("logmel", {}, 1),
        ("cqt", {}, 1),
        ("lfcc", {}, 257),
        ("lfcc", {"n_fft": 1024}, 513),
    ],
)
def test_the_shortest_clip_allowed_works_without_a_warning(name: str, values: dict[str, Any], least: int) -> None:
    encoder = registry.create(name, values)
    assert encoder.info.min_samples == least
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for num_samples in (least, least + 1, 3 * least):
            features = encoder.prepare(clip(num_samples))
            assert np.isfinite(features).all()
            assert features.shape[-1] == encoder.info.dim


@pytest.mark.parametrize("name", ["mfcc", "logmel", "cqt", "lfcc"])
def test_threads_of_a_worker_do_not_disturb_each_other(name: str) -> None:
    encoder = registry.create(name, {})
    waveforms = [clip(length) for length in (1500, 4000, 9000, 20000)]
    expected = [encoder.prepare(waveform) for waveform in waveforms]
    found: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        for _ in range(3):
            found[number] = encoder.prepare(waveforms[number])

    before = list(warnings.filters)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before
    for number, features in found.items():
        np.testing.assert_array_equal(features, expected[number])
    assert len(found) == 4


@pytest.mark.parametrize("name", ["mfcc", "logmel", "lfcc"])
def test_two_settings_that_change_numbers_change_the_fingerprint(name: str) -> None:
    fingerprints = {
        registry.create(name, values).info.fingerprint for values in ({}, {"hop_length": 200}, {"sample_rate": 8000})
    }
    assert len(fingerprints) == 3


def test_librosa_and_its_version_are_in_the_fingerprint() -> None:
    for name in ("mfcc", "logmel", "cqt"):
        assert registry.create(name, {}).info.provenance["libraries"]["librosa"] == "0.11"


@pytest.mark.parametrize(
    ("name", "values", "problem"),
    [
        ("mfcc", {"precision": "fp16"}, "precision: Input should be 'float32' (got 'fp16')"),
        ("mfcc", {"n_mfcc": 50, "n_mels": 40}, "n_mfcc=50 coefficients cannot come from n_mels=40 bands"),
        ("mfcc", {"delta_width": 8}, "delta_width=8 is even; an odd number of frames is wanted"),
        (
            "logmel",
            {"fmax": 9000},
            "fmin < fmax <= sample_rate / 2 is wanted, found fmin=0, fmax=9000, sample_rate=16000",
        ),
        ("lfcc", {"win_length": 600}, "a window of win_length=600 does not fit into n_fft=512"),
        ("lfcc", {"n_lfcc": 30}, "n_lfcc=30 coefficients cannot come from n_filter=20 filters"),
        (
            "lfcc",
            {"f_min": 5000, "f_max": 4000},
            "f_min < f_max <= sample_rate / 2 is wanted, found f_min=5000, f_max=4000, sample_rate=16000",
        ),
        (
            "cqt",
            {"n_bins": 100},
            "cqt: its highest bin reaches up to 10387 Hz, beyond half of sample_rate=16000; lower fmin or n_bins, or"
            " raise sample_rate",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(name: str, values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.create(name, values)
    assert problem in str(caught.value)


def test_frame_rates_follow_from_the_settings() -> None:
    assert registry.create("logmel", {}).info.frame_rate_hz == 31.25
    assert registry.create("lfcc", {"pooling": "none"}).info.frame_rate_hz == 100
    assert registry.create("mfcc", {}).info.frame_rate_hz is None
    encoder: Encoder = registry.create("mfcc", {"sample_rate": 8000})
    assert encoder.info.sample_rate == 8000
