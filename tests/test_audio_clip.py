"""From a recording to the clip an encoder sees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

from voxshard import audio
from voxshard.encoders.base import ClipSettings

RATE = 16000


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Three seconds, stereo, 44.1 kHz, silent in the first and the last half second."""
    samples = 0.2 * np.random.default_rng(1).standard_normal((3 * 44100, 2)).astype(np.float32)
    samples[:22050] = samples[-22050:] = 0
    path = tmp_path / "x.wav"
    soundfile.write(path, samples, 44100, subtype="FLOAT")
    return path


def clip_of(path: Path, utterance_id: str = "u", start_s: float | None = None, **values: object) -> np.ndarray:
    clip = ClipSettings.model_validate(values)
    return audio.read_clip(path, sample_rate=RATE, clip=clip, utterance_id=utterance_id, start_s=start_s).waveform


def test_without_settings_the_clip_is_the_recording(recording: Path) -> None:
    np.testing.assert_array_equal(clip_of(recording), audio.read(recording, sample_rate=RATE))


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
def test_a_crop_at_the_head_equals_the_head_of_the_whole(tmp_path: Path, rate: int) -> None:
    """Though only a little more than the crop is decoded."""
    path = tmp_path / "x.flac"
    soundfile.write(path, 0.2 * np.random.default_rng(1).standard_normal(4 * rate), rate)
    np.testing.assert_array_equal(clip_of(path, max_seconds=1.5), audio.read(path, sample_rate=RATE)[:24000])


def test_a_crop_at_the_head_decodes_no_more_than_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "x.flac"
    soundfile.write(path, 0.2 * np.random.default_rng(1).standard_normal(8 * RATE), RATE)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert len(clip_of(path, max_seconds=1.5)) == 24000


def test_a_centre_crop_keeps_the_middle(recording: Path) -> None:
    whole = audio.read(recording, sample_rate=RATE)
    np.testing.assert_array_equal(clip_of(recording, max_seconds=1.0, crop="centre"), whole[16000:32000])


def test_a_random_crop_depends_on_seed_and_utterance_alone(recording: Path) -> None:
    whole = audio.read(recording, sample_rate=RATE)
    starts = set()
    for seed in range(3):
        for utterance_id in ("a", "b", "ü\udce9"):
            found = clip_of(recording, utterance_id, max_seconds=1.0, crop="random", seed=seed)
            np.testing.assert_array_equal(
                found, clip_of(recording, utterance_id, max_seconds=1.0, crop="random", seed=seed)
            )
            start = next(n for n in range(len(whole)) if np.array_equal(whole[n : n + 16000], found))
            starts.add(start)
    assert len(starts) == 9


def test_a_random_crop_is_the_same_in_another_process(recording: Path) -> None:
    code = (
        "import sys\n"
        "from voxshard import audio\n"
        "from voxshard.encoders.base import ClipSettings\n"
        "clip = ClipSettings(max_seconds=1.0, crop='random', seed=4)\n"
        f"found = audio.read_clip(sys.argv[1], sample_rate={RATE}, clip=clip, utterance_id='u').waveform\n"
        "sys.stdout.buffer.write(found.tobytes())\n"
    )
    command = [sys.executable, "-c", code, str(recording)]
    there = subprocess.run(command, capture_output=True, check=True, env={"PYTHONHASHSEED": "12"}).stdout
    assert there == clip_of(recording, max_seconds=1.0, crop="random", seed=4).tobytes()


def test_random_crops_begin_anywhere(tmp_path: Path) -> None:
    ramp = np.arange(1000, dtype=np.float32)
    clip = ClipSettings(max_seconds=0.99, crop="random")
    starts = {int(audio.fit(ramp, sample_rate=1000, clip=clip, utterance_id=str(n))[0]) for n in range(300)}
    assert starts == set(range(11))


def test_short_recordings_are_filled_up(tmp_path: Path) -> None:
    samples = np.array([1, 2, 3], np.float32)

    def filled(**values: object) -> list[float]:
        clip = ClipSettings.model_validate({"max_seconds": 0.008, **values})
        return audio.fit(samples, sample_rate=1000, clip=clip, utterance_id="u").tolist()

    assert filled(pad="zero") == [1, 2, 3, 0, 0, 0, 0, 0]
    assert filled(pad="repeat") == [1, 2, 3, 1, 2, 3, 1, 2]
    assert filled(pad="none") == [1, 2, 3]


def test_trim_is_librosas(recording: Path) -> None:
    whole = audio.read(recording, sample_rate=RATE)
    found = clip_of(recording, trim=True)
    np.testing.assert_array_equal(found, librosa.effects.trim(whole)[0])
    assert 1.9 * RATE < len(found) < 2.2 * RATE


def test_silence_is_cut_before_cropping_and_filled_after(recording: Path) -> None:
    trimmed = clip_of(recording, trim=True)
    np.testing.assert_array_equal(clip_of(recording, trim=True, max_seconds=1.0), trimmed[:16000])
    filled = clip_of(recording, trim=True, max_seconds=2.5, pad="zero")
    np.testing.assert_array_equal(filled, np.pad(trimmed, (0, 40000 - len(trimmed))))


@pytest.mark.parametrize("num_samples", [1, 100, 16000])
def test_a_recording_of_silence_is_not_trimmed_to_nothing(tmp_path: Path, num_samples: int) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, np.zeros(num_samples), RATE)
    assert len(clip_of(path, trim=True)) == num_samples


def test_spans_are_cropped_like_recordings(recording: Path) -> None:
    found = clip_of(recording, start_s=1.0, max_seconds=0.5)
    np.testing.assert_array_equal(found, audio.read(recording, sample_rate=RATE, start_s=1.0)[:8000])


@pytest.mark.parametrize(("pad", "values"), [("zero", {}), ("repeat", {}), ("repeat", {"max_seconds": 4.0})])
def test_min_seconds_pads_short_clips_and_leaves_long_ones_complete(
    tmp_path: Path, pad: str, values: dict[str, float]
) -> None:
    for num_samples in (4000, 16000, 40000):
        samples = 0.2 * np.random.default_rng(1).standard_normal(num_samples).astype(np.float32)
        path = tmp_path / "x.wav"
        soundfile.write(path, samples, RATE, subtype="FLOAT")
        found = clip_of(path, min_seconds=1.0, pad=pad, **values)
        expected = np.resize(samples, RATE) if pad == "repeat" else np.pad(samples, (0, max(0, RATE - num_samples)))
        np.testing.assert_array_equal(found, samples if num_samples > RATE else expected)


def test_min_seconds_without_a_way_to_pad_is_refused() -> None:
    with pytest.raises(ValueError, match="min_seconds needs pad=zero or pad=repeat"):
        ClipSettings(min_seconds=1.0)
    with pytest.raises(ValueError, match="min_seconds 2 is more than max_seconds 1"):
        ClipSettings(min_seconds=2.0, max_seconds=1.0, pad="zero")
