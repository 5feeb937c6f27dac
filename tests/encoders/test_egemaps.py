"""`egemaps` against openSMILE called by hand, and against the reference vectors."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from voxshard import audio
from voxshard.encoders import registry
from voxshard.encoders.base import Encoder
from voxshard.extraction.decode import Decoder, PreparedUtterance
from voxshard.manifest import Utterance
from voxshard.store.shard import Failure
from voxshard.testing import EncoderConformance

opensmile = pytest.importorskip("opensmile", reason="openSMILE is not installed")

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"


def clip(num_samples: int, peak: float = 0.4) -> np.ndarray:
    rng = np.random.default_rng(num_samples)
    tone = np.sign(np.sin(np.arange(num_samples) * 0.06)) + 0.1 * rng.standard_normal(num_samples)
    return (peak * tone / np.abs(tone).max()).astype(np.float32)


def by_hand(waveform: np.ndarray, level: Any) -> np.ndarray:
    smile = opensmile.Smile(feature_set=opensmile.FeatureSet.eGeMAPSv02, feature_level=level)
    return smile.process_signal(waveform, 16000).to_numpy()


@pytest.mark.parametrize(
    ("values", "dim"),
    [pytest.param({}, 88, id="functionals"), pytest.param({"pooling": "none"}, 25, id="frames")],
)
class TestEgemaps(EncoderConformance):
    @pytest.fixture
    def encoder(self, values: dict[str, Any]) -> Encoder:
        return registry.create("egemaps", values)

    @pytest.fixture(autouse=True)
    def _uses(self, dim: int) -> None:
        """Every inherited test runs for every row of the table."""

    def test_the_dimension_is_the_one_expected(self, encoder: Encoder, dim: int) -> None:
        assert encoder.info.dim == dim

    @pytest.mark.parametrize("rate", [8000, 16000, 44100])
    def test_the_shortest_clip_allowed_is_finite(self, values: dict[str, Any], dim: int, rate: int) -> None:
        encoder = registry.create("egemaps", {**values, "sample_rate": rate})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.isfinite(encoder.prepare(clip(encoder.info.min_samples))).all()


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100])
@pytest.mark.parametrize("name", ["x.wav", "x.flac"])
def test_recordings_are_described_at_their_own_rate_as_opensmile_does(tmp_path: Path, rate: int, name: str) -> None:
    path = tmp_path / name
    soundfile.write(path, clip(2 * rate), rate, subtype="PCM_16")
    smile = opensmile.Smile(feature_set=opensmile.FeatureSet.eGeMAPSv02)
    expected = smile.process_file(path).to_numpy()[0]
    encoder = registry.create("egemaps", {})
    decoder = Decoder.of(str(tmp_path), encoder.info, registry.settings_of("egemaps", {}), encoder.preparer, ())
    found = decoder.decode(Utterance("u", name))
    assert isinstance(found, PreparedUtterance)
    np.testing.assert_array_equal(found.pieces[0], expected)
    assert found.audio_s == 2.0


def test_at_a_rate_of_its_own_a_clip_shorter_than_the_pitchs_frame_is_too_short(tmp_path: Path) -> None:
    encoder = registry.create("egemaps", {})
    decoder = Decoder.of(str(tmp_path), encoder.info, registry.settings_of("egemaps", {}), encoder.preparer, ())
    for num_samples, is_long_enough in ((479, False), (480, True)):
        soundfile.write(tmp_path / "x.wav", clip(num_samples), 8000)
        assert isinstance(decoder.decode(Utterance("u", "x.wav")), PreparedUtterance) is is_long_enough


def test_the_settings_that_a_short_recording_is_told_make_it_long_enough(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", clip(479), 8000)
    utterance = Utterance("u", "x.wav")

    def decoded(values: dict[str, Any]) -> PreparedUtterance | Failure:
        encoder = registry.create("egemaps", values)
        settings = registry.settings_of("egemaps", values)
        return Decoder.of(str(tmp_path), encoder.info, settings, encoder.preparer, ()).decode(utterance)

    failure = decoded({})
    assert failure == Failure(
        "u",
        "TooShortError",
        "479 samples at 8000 Hz (0.0599 s); this encoder needs at least 480: `--set min_seconds=0.1 --set pad=repeat` "
        "(or pad=zero) fills short recordings up",
    )
    for pad in ("repeat", "zero"):
        found = decoded({"min_seconds": 0.1, "pad": pad})
        assert isinstance(found, PreparedUtterance)
        assert found.audio_s == 0.1


def test_one_rate_for_all_recordings_is_another_feature_set() -> None:
    own, fixed = (registry.create("egemaps", values).info for values in ({}, {"sample_rate": 16000}))
    assert own.fingerprint != fixed.fingerprint
    assert (own.keeps_rate, fixed.keeps_rate) == (True, False)


def test_functionals_and_descriptors_are_opensmiles() -> None:
    waveform = clip(12345)
    levels = opensmile.FeatureLevel
    found = registry.create("egemaps", {}).prepare(waveform)
    np.testing.assert_array_equal(found, by_hand(waveform, levels.Functionals)[0])
    found = registry.create("egemaps", {"pooling": "none"}).prepare(waveform)
    np.testing.assert_array_equal(found, by_hand(waveform, levels.LowLevelDescriptors))


def test_a_full_scale_sample_does_not_wrap_round() -> None:
    """openSMILE's 16 bits end just below 1.0."""
    waveform = clip(8000, peak=1.0)
    encoder = registry.create("egemaps", {})
    expected = encoder.prepare(np.clip(waveform, -1, np.float32(32767 / 32768)))
    np.testing.assert_array_equal(encoder.prepare(waveform), expected)
    np.testing.assert_array_equal(encoder.prepare(np.where(waveform == 1.0, np.float32(1.7), waveform)), expected)


def test_a_clip_shorter_than_the_pitchs_frame_is_too_short() -> None:
    assert registry.create("egemaps", {}).info.min_samples == 960


def test_loading_says_what_the_licence_allows(caplog: pytest.LogCaptureFixture) -> None:
    registry.create("egemaps", {}).load("cpu")
    assert [record.getMessage() for record in caplog.records] == [
        "egemaps: openSMILE's licence allows research and education, not commercial use"
    ]


def test_threads_of_a_worker_do_not_disturb_each_other() -> None:
    encoder = registry.create("egemaps", {})
    waveforms = [clip(length) for length in (3000, 8000, 16000)]
    expected = [encoder.prepare(waveform) for waveform in waveforms]
    found: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        found[number] = encoder.prepare(waveforms[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, features in found.items():
        np.testing.assert_array_equal(features, expected[number])
    assert len(found) == 3


@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference vectors at {REFERENCE}")
def test_the_reference_vectors_come_out() -> None:
    encoder = registry.create("egemaps", {})
    with np.load(REFERENCE / "egemaps_ref.npz", allow_pickle=False) as reference:
        assert len(reference.files) >= 7
        for name in reference.files:
            waveform = audio.read(REFERENCE / "wav" / f"{name}.wav", sample_rate=16000)
            np.testing.assert_allclose(encoder.prepare(waveform), reference[name], rtol=1e-6, atol=1e-6)
