"""Reading: every format, equal to librosa, spans, URLs, and names of any bytes."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

from voxshard import audio
from voxshard.errors import BackendUnavailableError, EmptyAudioError, TooShortError

RATE = 16000
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "pcm24.wav": ("WAV", "PCM_24"),
    "pcm32.wav": ("WAV", "PCM_32"),
    "float.wav": ("WAVEX", "FLOAT"),
    "double.wav": ("WAV", "DOUBLE"),
    "ulaw.wav": ("WAV", "ULAW"),
    "alaw.wav": ("WAV", "ALAW"),
    "adpcm.wav": ("WAV", "MS_ADPCM"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "au": ("AU", "PCM_16"),
    "sph": ("NIST", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
}


def tone(seconds: float = 1.5, rate: int = RATE, channels: int = 1) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(3).standard_normal((len(time), channels))
    samples = 0.4 * np.sin(2 * np.pi * (200 + 300 * time) * time)[:, None] + 0.05 * noise
    return samples.astype(np.float32)


@pytest.fixture(params=FORMATS)
def every_format(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    container, coding = FORMATS[request.param]
    path = tmp_path / f"tone.{request.param}"
    soundfile.write(path, tone(), RATE, format=container, subtype=coding)
    return path


def by_librosa(path: Path, sr: int, **span: float) -> np.ndarray:
    with warnings.catch_warnings():  # audioread, which librosa.load imports, uses modules Python is about to drop
        warnings.simplefilter("ignore", DeprecationWarning)
        return librosa.load(path, sr=sr, **span)[0]


def write_wav(path: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    soundfile.write(path, samples, rate, format="WAV", subtype="FLOAT")
    return path


def test_every_format_equals_librosa_to_the_last_bit(every_format: Path) -> None:
    for rate in (RATE, 22050):
        found = audio.read(every_format, sample_rate=rate)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, by_librosa(every_format, sr=rate))


def test_probe_agrees_with_what_is_read(every_format: Path) -> None:
    header = audio.probe(every_format)
    assert (header.sample_rate, header.num_channels) == (RATE, 1)
    assert header.num_frames == len(audio.read(every_format, sample_rate=RATE))
    assert header.duration_s == header.num_frames / RATE


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 8])
@pytest.mark.parametrize("rate", [8000, 11025, 44100, 96000])
def test_mono_mix_and_resampling_equal_librosa(tmp_path: Path, channels: int, rate: int) -> None:
    path = write_wav(tmp_path / "x.wav", tone(0.7, rate, channels), rate)
    assert audio.probe(path).num_channels == channels
    np.testing.assert_array_equal(audio.read(path, sample_rate=RATE), by_librosa(path, sr=RATE))


def test_one_sample_at_96_khz_is_one_sample(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "x.wav", np.full(1, 0.5, np.float32), 96000)
    np.testing.assert_array_equal(audio.read(path, sample_rate=RATE), by_librosa(path, sr=RATE))
    assert len(audio.read(path, sample_rate=RATE)) == 1


def test_silence_is_read_as_it_is(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "x.wav", np.zeros(4000, np.float32))
    np.testing.assert_array_equal(audio.read(path, sample_rate=RATE), np.zeros(4000, np.float32))


@pytest.mark.parametrize(("start_s", "end_s"), [(0.0, 0.4), (0.3, None), (0.25, 0.75), (1.4, 1.5)])
def test_a_span_is_that_part_of_the_whole(every_format: Path, start_s: float, end_s: float | None) -> None:
    whole = audio.read(every_format, sample_rate=RATE)
    last = None if end_s is None else round(end_s * RATE)
    found = audio.read(every_format, sample_rate=RATE, start_s=start_s, end_s=end_s)
    # MP3 decoded from the middle differs in the last bit of a float.
    np.testing.assert_allclose(found, whole[round(start_s * RATE) : last], rtol=0, atol=2e-7)


def test_a_span_equals_librosas_offset_and_duration(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "x.wav", tone(2.0, 44100, 2), 44100)
    expected = by_librosa(path, sr=RATE, offset=0.5, duration=0.75)
    np.testing.assert_array_equal(audio.read(path, sample_rate=RATE, start_s=0.5, end_s=1.25), expected)


@pytest.mark.parametrize(
    ("start_s", "end_s", "span"), [(1.0, 9.5, "9.500 s"), (2.0, None, "its end"), (0.5, 1.6, "1.600 s")]
)
def test_a_span_beyond_the_end_is_refused(every_format: Path, start_s: float, end_s: float | None, span: str) -> None:
    with pytest.raises(TooShortError) as caught:
        audio.read(every_format, sample_rate=RATE, start_s=start_s, end_s=end_s)
    length_s = audio.probe(every_format).duration_s
    assert str(caught.value) == (
        f"the span from {start_s:.3f} s to {span} is beyond the end of the recording, which is {length_s:.3f} s long"
    )


def test_a_span_may_end_a_rounding_error_beyond_the_recording(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "x.wav", tone(1.996))
    assert len(audio.read(path, sample_rate=RATE, start_s=1.0, end_s=2.0)) == round(0.996 * RATE)


def test_a_span_without_samples_is_refused(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "x.wav", tone())
    for start_s, end_s in ((1.0, 1.0), (1.0, 0.5), (-0.5, 0.5)):
        with pytest.raises(EmptyAudioError) as caught:
            audio.read(path, sample_rate=RATE, start_s=start_s, end_s=end_s)
        assert str(caught.value) == f"no samples between start_s {start_s} and end_s {end_s}"


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_wav_written_to_a_pipe_is_read_to_its_end(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, tone(), RATE, subtype="PCM_16")
    expected = audio.read(path, sample_rate=RATE)
    content = bytearray(path.read_bytes())
    assert content[36:40] == b"data"
    content[40:44] = struct.pack("<I", size)
    path.write_bytes(content)
    assert audio.probe(path).num_frames == len(expected)
    np.testing.assert_array_equal(audio.read(path, sample_rate=RATE), expected)
    np.testing.assert_array_equal(audio.read(path, sample_rate=RATE, start_s=0.5), expected[RATE // 2 :])


def test_a_flac_written_to_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "x.flac"
    soundfile.write(path, tone(), RATE)
    expected = audio.read(path, sample_rate=RATE)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # STREAMINFO: 36 bits of total samples; 0 says unknown
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert audio.probe(path).num_frames == len(expected)
    np.testing.assert_array_equal(audio.read(path, sample_rate=RATE), expected)
    np.testing.assert_array_equal(audio.read(path, sample_rate=RATE, start_s=0.5, end_s=1.0), expected[8000:16000])
    for start_s in (0.5, 1.9):
        with pytest.raises(TooShortError, match=r"is beyond the end of the recording, which is 1\.500 s long$"):
            audio.read(path, sample_rate=RATE, start_s=start_s, end_s=2.0)


def test_a_long_recording_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_wav(tmp_path / "x.wav", tone(1.0, channels=2))
    expected = audio.read(path, sample_rate=RATE)
    monkeypatch.setattr("voxshard.audio.sndfile._BLOCK_SAMPLES", 1500)
    np.testing.assert_array_equal(audio.read(path, sample_rate=RATE), expected)


@pytest.mark.parametrize(
    "name", ["with space.wav", 'it\'s "quoted".wav', "new\nline.wav", "ünï-音.wav", "-rf.wav", "a:b.wav"]
)
def test_names_may_hold_anything(tmp_path: Path, name: str) -> None:
    write_wav(tmp_path / name, tone())
    assert len(audio.read(audio.resolve(str(tmp_path), name), sample_rate=RATE)) == 24000


def test_names_need_not_be_utf8(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    with open(raw, "wb") as stream:
        soundfile.write(stream, tone(), RATE, format="WAV")
    for path in (audio.resolve(str(tmp_path), b"caf\xe9.wav"), os.fsdecode(raw)):
        assert audio.probe(path).num_frames == 24000
        assert len(audio.read(path, sample_rate=RATE)) == 24000


def test_paths_are_resolved_against_the_root() -> None:
    assert audio.resolve("/corpus", "a/b.wav") == "/corpus/a/b.wav"
    assert audio.resolve("/corpus", "/else/b.wav") == "/else/b.wav"
    assert audio.resolve("/corpus", b"a/\xff.wav") == b"/corpus/a/\xff.wav"
    assert audio.resolve("s3://bucket/corpus/", "a/b.wav") == "s3://bucket/corpus/a/b.wav"
    assert audio.resolve("/corpus", "gs://bucket/b.wav") == "gs://bucket/b.wav"


def test_a_missing_file_is_not_a_verdict_on_its_content(tmp_path: Path) -> None:
    for call in (audio.probe, lambda path: audio.read(path, sample_rate=RATE)):
        with pytest.raises(FileNotFoundError):
            call(tmp_path / "gone.wav")


def test_a_url_without_its_packages_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendUnavailableError) as caught:
        audio.read("s3://bucket/a.flac", sample_rate=RATE)
    assert str(caught.value) == (
        "s3://bucket/a.flac: s3:// needs fsspec and s3fs, not installed in this environment: "
        "`pip install 'voxshard[buckets]'`"
    )


def test_threads_read_at_the_same_time(every_format: Path) -> None:
    expected = audio.read(every_format, sample_rate=22050)
    results: list[np.ndarray] = []

    def work() -> None:
        results.extend(audio.read(every_format, sample_rate=22050) for _ in range(3))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 12
    assert all(np.array_equal(result, expected) for result in results)


def test_no_descriptor_stays_open(every_format: Path) -> None:
    for _ in range(3):
        audio.probe(every_format)
        audio.read(every_format, sample_rate=RATE, start_s=0.2)
    links = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]  # noqa: PTH208
    assert str(every_format.resolve()) not in links


def test_importing_audio_imports_neither_librosa_nor_a_framework() -> None:
    code = "import sys, voxshard.audio; print(sorted({'librosa', 'scipy', 'torch', 'tensorflow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
