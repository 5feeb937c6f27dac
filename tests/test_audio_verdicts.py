"""What is wrong with a recording, said in words; and what is only the storage's fault."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voxshard import audio
from voxshard.audio import sources
from voxshard.errors import EmptyAudioError, NonFiniteAudioError, TruncatedAudioError, UnreadableAudioError

RATE = 16000


@pytest.fixture(autouse=True)
def no_ffmpeg(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("nothing-on-the-path")))


def noise(num_samples: int = 32000) -> np.ndarray:
    return (0.1 * np.random.default_rng(5).standard_normal(num_samples)).astype(np.float32)


def encoded(container: str, coding: str = "PCM_16", num_samples: int = 32000) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, noise(num_samples), RATE, format=container, subtype=coding)
    return stream.getvalue()


def verdict(path: Path, kind: type[Exception]) -> str:
    """The message of both probe and read, which must agree."""
    messages = []
    for call in (audio.probe, lambda path: audio.read(path, sample_rate=RATE)):
        with pytest.raises(kind) as caught:
            call(path)
        assert type(caught.value) is kind
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    return messages[0]


def reading_verdict(path: Path, kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        audio.read(path, sample_rate=RATE)
    return str(caught.value)


def test_a_file_of_no_bytes_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.touch()
    assert verdict(path, EmptyAudioError) == "the file is empty (0 bytes)"


@pytest.mark.parametrize("container", ["WAV", "AIFF"])
def test_a_header_without_samples_is_empty(tmp_path: Path, container: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(encoded(container, num_samples=0))
    assert verdict(path, EmptyAudioError) == "no samples in it, only a header"


def test_an_empty_wav_with_further_chunks_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(encoded("WAV", num_samples=0) + b"LIST\x04\x00\x00\x00INFO")
    assert verdict(path, EmptyAudioError) == "no samples in it, only a header"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML or XML page"),
        (b'{"message": "not found"}', "JSON"),
        (b"speech is not audio\n" * 9, "text"),
        (b"PK\x03\x04" + bytes(range(200)), "a zip archive"),
        (b"\x1f\x8b\x08" + bytes(range(200)), "a gzip file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "a PNG image"),
        (bytes(5000), "nothing but zero bytes"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            "a Git LFS pointer: run `git lfs pull` in the corpus",
        ),
    ],
)
def test_what_is_not_audio_is_called_by_its_name(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    assert verdict(path, UnreadableAudioError) == f"not audio: it looks like {what}"


def test_unknown_bytes_are_not_audio(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(b"\x01\x80\xfe" * 500)
    assert verdict(path, UnreadableAudioError) == (
        "an unknown format, which libsndfile does not read; with ffmpeg installed it may be readable"
    )


def test_without_ffmpeg_the_message_says_that_it_would_help(tmp_path: Path) -> None:
    path = tmp_path / "x.m4a"
    path.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(500))
    assert verdict(path, UnreadableAudioError) == (
        "MP4/M4A, which libsndfile does not read; with ffmpeg installed it may be readable"
    )


def test_folders_and_pipes_are_no_recordings(tmp_path: Path) -> None:
    assert verdict(tmp_path, UnreadableAudioError) == "not a file but a folder"
    os.mkfifo(tmp_path / "pipe.wav")
    assert verdict(tmp_path / "pipe.wav", UnreadableAudioError) == "not a file but a pipe, socket or device"


@pytest.mark.parametrize(
    ("container", "coding"),
    [
        ("WAV", "PCM_16"),
        ("WAV", "MS_ADPCM"),
        ("WAVEX", "FLOAT"),
        ("RF64", "PCM_16"),
        ("W64", "PCM_16"),
        ("AIFF", "PCM_16"),
        ("AU", "PCM_16"),
        ("CAF", "PCM_16"),
        ("CAF", "ALAC_16"),
        ("NIST", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
    ],
)
@pytest.mark.parametrize("kept", [0.35, 0.6, 0.999])
def test_a_header_that_promises_more_than_there_is_means_truncated(
    tmp_path: Path, container: str, coding: str, kept: float
) -> None:
    content = encoded(container, coding)
    path = tmp_path / "x"
    path.write_bytes(content[: int(len(content) * kept)])
    message = verdict(path, TruncatedAudioError)
    assert message.startswith("truncated: its header promises ")
    assert message.endswith(f" more bytes than the {path.stat().st_size} there are")


def test_a_truncated_wav_says_how_much_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(encoded("WAV")[:-99])
    assert verdict(path, TruncatedAudioError) == "truncated: its header promises 99 more bytes than the 63945 there are"


@pytest.mark.parametrize("kept", [0.35, 0.6, 0.99])
def test_a_truncated_flac_is_found_by_reading(tmp_path: Path, kept: float) -> None:
    content = encoded("FLAC")
    path = tmp_path / "x.flac"
    path.write_bytes(content[: int(len(content) * kept)])
    assert audio.probe(path).num_frames == 32000
    assert reading_verdict(path, TruncatedAudioError).startswith("truncated")


def test_a_flac_with_fewer_samples_than_it_states_is_truncated(tmp_path: Path) -> None:
    content = bytearray(encoded("FLAC"))
    content[22:26] = (64000).to_bytes(4, "big")
    path = tmp_path / "x.flac"
    path.write_bytes(content)
    assert reading_verdict(path, TruncatedAudioError) == (
        "truncated: its header states 4.000 s, the samples end at 2.000 s"
    )


def test_a_hole_in_a_flac_is_damage(tmp_path: Path) -> None:
    content = bytearray(encoded("FLAC"))
    content[30000:32000] = bytes(2000)
    path = tmp_path / "x.flac"
    path.write_bytes(content)
    assert reading_verdict(path, TruncatedAudioError) == (
        "truncated or damaged: decoding stops before the end (flac decoder lost sync)"
    )


def test_a_truncated_mp3_is_found_by_reading(tmp_path: Path) -> None:
    content = encoded("MP3", "MPEG_LAYER_III")
    path = tmp_path / "x.mp3"
    path.write_bytes(content[: len(content) // 2])
    assert reading_verdict(path, TruncatedAudioError).startswith(
        "truncated: its header states 2.000 s, the samples end at "
    )


def test_a_header_that_promises_any_length_does_not_take_the_memory(tmp_path: Path) -> None:
    content = bytearray(encoded("FLAC"))
    content[21] |= 0x0F
    content[22:26] = b"\xff\xff\xff\xff"
    path = tmp_path / "x.flac"
    path.write_bytes(content)
    expected = f"damaged header: 68719476735 samples in {len(content)} bytes"
    assert verdict(path, UnreadableAudioError) == expected


def test_an_impossible_sample_rate_is_a_damaged_header(tmp_path: Path) -> None:
    content = bytearray(encoded("WAV"))
    content[24:28] = (1).to_bytes(4, "little")
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    assert verdict(path, UnreadableAudioError) == "damaged header: a sample rate of 1 Hz"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_counted(tmp_path: Path, value: float) -> None:
    samples = noise()
    samples[[8000, 20000]] = value
    path = tmp_path / "x.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    assert audio.probe(path).num_frames == 32000
    assert reading_verdict(path, NonFiniteAudioError) == (
        "2 of 32000 samples are NaN or infinite, the first at 0.500 s"
    )


def test_a_failing_disc_is_not_a_bad_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding comes up short, and the plain read of the same bytes fails: the fault is the storage's."""
    path = tmp_path / "x.flac"
    content = encoded("FLAC")
    path.write_bytes(content[:30000])
    really_read = os.pread

    def pread(descriptor: int, num_bytes: int, offset: int) -> bytes:
        if num_bytes > 4096:
            raise OSError(errno.EIO, "Input/output error")
        return really_read(descriptor, num_bytes, offset)

    monkeypatch.setattr(sources.os, "pread", pread)
    with pytest.raises(OSError, match="Input/output error"):
        audio.read(path, sample_rate=RATE)


def test_a_fault_that_passes_leaves_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder saw half the bytes, the plain read sees all: the recording is good."""
    path = tmp_path / "x.flac"
    content = encoded("FLAC")
    path.write_bytes(content)
    expected = audio.read(path, sample_rate=RATE)
    monkeypatch.setattr(sources.FileSource, "for_libsndfile", lambda self: io.BytesIO(content[:30000]))
    np.testing.assert_array_equal(audio.read(path, sample_rate=RATE), expected)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_file_that_cannot_be_opened_is_an_os_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(encoded("WAV"))

    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(sources.os, "open", fail)
    for call in (audio.probe, lambda path: audio.read(path, sample_rate=RATE)):
        with pytest.raises(OSError) as caught:
            call(path)
        assert caught.value.errno == code
