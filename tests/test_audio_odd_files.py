"""Recordings as real programs write them: decoded completely, or named. Nothing shorter, longer or shifted in silence.

tests/data/recordings has tones that ffmpeg and SoX coded; the right values are ffmpeg's, in samples per channel at the
file's rate, confirmed by SoX. All other files are made here.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import struct
import subprocess
import warnings
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

from support.recordings import JOINED, RATE, encoded, put, result_of, tone
from voxshard import audio
from voxshard.audio import ogg
from voxshard.errors import TruncatedAudioError, UnreadableAudioError

RECORDINGS = Path(__file__).parent / "data" / "recordings"
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


def by_librosa(path: Path) -> np.ndarray:
    with warnings.catch_warnings():  # audioread, which librosa.load imports, uses modules Python is about to drop
        warnings.simplefilter("ignore", DeprecationWarning)
        return librosa.load(path, sr=None)[0]


# file -> samples per channel, peak of the mean over channels, SHA-256 of the 16-bit samples where every decoder agrees
RIGHT = {
    "gsm610.wav": (25920, 0.412, "ab7b4c4c4cb2"),
    "gsm_ff.wav": (25920, 0.391, "fe652a23e52d"),
    "mp3_in.wav": (144000, 0.437, None),
    "vbr_noxing.mp3": (144000, 0.387, None),
    "xing_zero.mp3": (142895, 0.387, None),
    "two_in_a_row.mp3": (46000, 0.285, None),
    "chained.ogg": (46000, 0.309, None),
    "chained.opus": (308832, 0.459, None),
}


@pytest.mark.parametrize("name", RIGHT)
def test_files_of_common_programs_have_their_right_length_peak_and_samples(name: str) -> None:
    num_samples, peak, digest = RIGHT[name]
    found = result_of(RECORDINGS / name)
    assert len(found.samples) == num_samples
    assert float(np.abs(found.samples).max()) == pytest.approx(peak, abs=6e-4)
    if digest is not None:
        sixteen_bits = (found.samples * 32768).astype("<i2").tobytes()
        assert hashlib.sha256(sixteen_bits).hexdigest()[:12] == digest
    has_parts = name.startswith(("two_in", "chained"))
    assert found.warning == (JOINED if has_parts else None)


@needs_ffmpeg
@pytest.mark.parametrize("name", ["mp3_in.wav", "vbr_noxing.mp3", "xing_zero.mp3", "gsm_ff.wav"])
def test_samples_are_where_ffmpeg_has_them(name: str) -> None:
    command = ["ffmpeg", "-v", "error", "-i", str(RECORDINGS / name), "-f", "f32le", "-c:a", "pcm_f32le", "-"]
    raw = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, "<f4")
    found = result_of(RECORDINGS / name)
    expected = raw.reshape(-1, found.header.num_channels).mean(axis=1)
    np.testing.assert_allclose(found.samples, expected, atol=2e-4)


@pytest.mark.parametrize("name", RIGHT)
def test_a_span_of_an_odd_file_is_that_part_of_it(name: str) -> None:
    path = RECORDINGS / name
    found = result_of(path)
    rate = found.header.sample_rate
    part = audio.read(path, sample_rate=rate, start_s=0.5, end_s=1.5)
    np.testing.assert_allclose(part, found.samples[rate // 2 : rate * 3 // 2], rtol=0, atol=2e-7)


@pytest.mark.parametrize("num_blocks", [1, 2, 7, 8])
@pytest.mark.parametrize("container", ["WAV", "W64", "AIFF"])
def test_gsm_has_no_noise_at_its_end(tmp_path: Path, container: str, num_blocks: int) -> None:
    samples = tone(num_blocks * 320 / 8000, 8000)
    path = put(tmp_path / "x", encoded(container, "GSM610", samples, 8000))
    found = result_of(path)
    assert len(found.samples) == num_blocks * 320
    error = found.samples[-160:] - samples[-160:, 0]
    assert np.sqrt(np.mean(error**2)) < 0.2


@pytest.mark.parametrize("excess", [1, 2, 8, 36, 43, 44])
@pytest.mark.parametrize("coding", ["PCM_16", "PCM_24", "FLOAT", "ULAW"])
def test_a_header_that_promises_a_few_bytes_too_much_is_a_warning(tmp_path: Path, coding: str, excess: int) -> None:
    content = bytearray(encoded("WAV", coding))
    expected = result_of(put(tmp_path / "right.wav", bytes(content))).samples
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", struct.unpack_from("<I", content, at)[0] + excess)
    found = result_of(put(tmp_path / "x.wav", bytes(content)))
    np.testing.assert_array_equal(found.samples, expected)
    assert found.warning == f"its header promises {excess} more bytes than the {len(content)} there are"


def test_a_header_whose_data_size_is_that_of_the_file_is_a_warning(tmp_path: Path) -> None:
    content = bytearray(encoded("WAV", "PCM_16"))
    content[36:36] = b"LIST" + struct.pack("<I", 90) + b"INFOIART" + struct.pack("<I", 78) + b"a" * 78
    at = content.index(b"data") + 4
    expected = result_of(put(tmp_path / "right.wav", bytes(content))).samples
    for size in (len(content), len(content) - 8):
        content[at : at + 4] = struct.pack("<I", size)
        found = result_of(put(tmp_path / "x.wav", bytes(content)))
        np.testing.assert_array_equal(found.samples, expected)
        assert found.warning is not None


def test_a_file_of_3_gb_by_its_header_is_truncated_and_not_streamed(tmp_path: Path) -> None:
    content = bytearray(encoded("WAV", "PCM_16"))
    content[40:44] = struct.pack("<I", 3_000_000_000)
    with pytest.raises(TruncatedAudioError, match=r"^truncated: its header promises 2999952000 more bytes than the"):
        audio.probe(put(tmp_path / "x.wav", bytes(content)))


def test_a_caf_written_to_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    content = bytearray(encoded("CAF", "PCM_16"))
    expected = result_of(put(tmp_path / "right.caf", bytes(content))).samples
    at = content.rindex(b"data", 0, 5000) + 4
    content[at : at + 8] = b"\xff" * 8
    np.testing.assert_array_equal(result_of(put(tmp_path / "x.caf", bytes(content))).samples, expected)


def sparse_wav(path: Path, *, size: int, rate: int, channels: int, stated: int, magic: bytes = b"RIFF") -> Path:
    """A 16-bit WAV of `size` bytes of samples that takes no space on disk; the last sample is 16384."""
    fmt = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2, channels * 2, 16)
    ds64 = b"" if magic == b"RIFF" else b"ds64" + struct.pack("<IQQQI", 28, (1 << 64) - 1, (1 << 64) - 1, 0, 0)
    header = magic + struct.pack("<I", (stated + 36) % 2**32) + b"WAVE" + ds64 + b"fmt " + struct.pack("<I", 16) + fmt
    header += b"data" + struct.pack("<I", stated)
    with open(path, "wb") as stream:
        stream.write(header)
        stream.truncate(len(header) + size)
        stream.seek(-2 * channels, os.SEEK_END)
        stream.write(struct.pack("<h", 16384) * channels)
    return path


@pytest.mark.parametrize(
    ("size", "rate", "channels", "stated", "magic"),
    [
        (4_831_838_208, 48000, 2, 4_831_838_208 % 2**32, b"RIFF"),  # 4.5 GiB, its size modulo 4 GiB
        (2**32, 48000, 2, 0, b"RIFF"),
        (9_000_000_000, 48000, 2, 9_000_000_000 % 2**32, b"RIFF"),
        (2_200_000_000, 44100, 1, 0, b"RIFF"),
        (5_000_000_000, 48000, 2, 0xFFFFFFFF, b"RIFF"),
        (5_000_000_000, 48000, 2, 0xFFFFFFFF, b"RF64"),  # whose ds64 chunk says -1
        (3_000_000_000, 48000, 2, 3_000_000_000, b"RIFF"),
    ],
)
def test_a_large_wav_with_a_wrong_size_has_all_its_samples(
    tmp_path: Path, size: int, rate: int, channels: int, stated: int, magic: bytes
) -> None:
    path = sparse_wav(tmp_path / "x.wav", size=size, rate=rate, channels=channels, stated=stated, magic=magic)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    header = audio.probe(path)
    assert header.num_frames == size // (2 * channels)
    end_s = header.duration_s
    tail = audio.read(path, sample_rate=rate, start_s=end_s - 1, end_s=end_s)
    assert len(tail) == rate
    assert tail[-1] == 0.5
    assert np.count_nonzero(tail[:-1]) == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_samples_behind_a_size_that_is_too_small_are_named(tmp_path: Path) -> None:
    content = bytearray(encoded("WAV", "PCM_16"))
    content[40:44] = struct.pack("<I", 16000)
    found = result_of(put(tmp_path / "x.wav", bytes(content)))
    assert found.warning == "32000 bytes after the samples are not read: its header counts only those before them"


@pytest.mark.parametrize(("container", "coding"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")])
def test_two_files_one_after_the_other_are_one_recording(tmp_path: Path, container: str, coding: str) -> None:
    first, second = (encoded(container, coding, tone(seconds)) for seconds in (1.25, 0.5))
    path = put(tmp_path / "x", first + second)
    found: list[str] = []
    samples = audio.read(path, sample_rate=RATE, on_warning=found.append)
    expected = [audio.read(put(tmp_path / "part", part), sample_rate=RATE) for part in (first, second)]
    np.testing.assert_array_equal(samples, np.concatenate(expected))
    assert "one after the other" in found[0]


def test_streams_of_different_rates_and_channels_are_joined_at_the_first_rate(tmp_path: Path) -> None:
    content = encoded("OGG", "VORBIS", tone(1.0, 16000, 2), 16000) + encoded("OGG", "VORBIS", tone(0.5, 44100), 44100)
    found = result_of(put(tmp_path / "x.ogg", content))
    assert (len(found.samples), found.header.num_channels) == (24000, 1)


def mp3(seconds: float = 1.5, rate: int = 44100, channels: int = 1) -> bytes:
    return encoded("MP3", "MPEG_LAYER_III", tone(seconds, rate, channels), rate)


def test_three_mp3_files_in_a_row_are_one_recording(tmp_path: Path) -> None:
    parts = [mp3(seconds) for seconds in (0.8, 1.2, 0.5)]
    expected = [audio.read(put(tmp_path / "part", part), sample_rate=44100) for part in parts]
    found = result_of(put(tmp_path / "x.mp3", b"".join(parts)))
    np.testing.assert_array_equal(found.samples, np.concatenate(expected))
    assert found.warning == "3 recordings one after the other, joined"


@pytest.mark.parametrize(
    "junk",
    [
        bytes(3000),
        bytes(9000),
        b"\x01\x80\xfe" * 300,
        b"APETAGEX" + struct.pack("<IIII", 2000, 400, 1, 0xA0000000) + bytes(8) + b"a" * 400,
        b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\n\r\n",
    ],
    ids=["zeros", "more zeros", "bytes", "APE tag", "text"],
)
def test_an_mp3_behind_other_bytes_is_not_shifted(tmp_path: Path, junk: bytes) -> None:
    """As librosa reads the file without them: the encoder's delay is left out."""
    clean = put(tmp_path / "clean.mp3", mp3(channels=2))
    found = result_of(put(tmp_path / "x.mp3", junk + clean.read_bytes()))
    np.testing.assert_array_equal(found.samples, by_librosa(clean))


def test_an_id3_tag_that_states_too_small_a_size_shifts_nothing(tmp_path: Path) -> None:
    clean = put(tmp_path / "clean.mp3", mp3())
    tag = b"ID3\x03\x00\x00" + bytes([0, 0, 1, 0]) + bytes(500)
    np.testing.assert_array_equal(
        result_of(put(tmp_path / "x.mp3", tag + clean.read_bytes())).samples, by_librosa(clean)
    )


def test_garbage_inside_an_mp3_is_left_out_and_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = mp3()
    expected = result_of(put(tmp_path / "clean.mp3", content)).samples
    at = content.index(b"\xff\xfb", len(content) // 2)
    garbage = np.random.default_rng(0).integers(0, 256, 700, np.uint8).tobytes()
    found = result_of(put(tmp_path / "x.mp3", content[:at] + garbage + content[at:]))
    np.testing.assert_array_equal(found.samples, expected)
    assert found.warning == "700 bytes between MPEG frames are skipped"
    assert capfd.readouterr() == ("", "")


def test_tags_at_the_end_of_an_mp3_are_no_garbage(tmp_path: Path) -> None:
    content = mp3()
    expected = result_of(put(tmp_path / "clean.mp3", content)).samples
    ape = b"APETAGEX" + struct.pack("<IIII", 2000, 40, 1, 0xA0000000) + bytes(8) + b"a" * 8
    ape += b"APETAGEX" + struct.pack("<IIII", 2000, 40, 1, 0x80000000) + bytes(8)
    found = result_of(put(tmp_path / "x.mp3", content + ape + b"TAG" + bytes(125)))
    assert found.warning is None
    np.testing.assert_array_equal(found.samples, expected)


def test_an_mp3_that_ends_in_a_cut_frame_is_named(tmp_path: Path) -> None:
    found: list[str] = []
    audio.read(put(tmp_path / "x.mp3", mp3()[:-50]), sample_rate=44100, on_warning=found.append)
    assert found == ["the last MPEG frame lacks 50 bytes"]


@pytest.mark.parametrize("channels", [1, 2])
def test_opus_without_an_end_flag_is_read_to_its_last_page(tmp_path: Path, channels: int) -> None:
    content = encoded("OGG", "OPUS", tone(2.0, 48000, channels), 48000)
    expected = audio.read(put(tmp_path / "right.opus", content), sample_rate=48000)
    at = content.rindex(b"OggS")
    page = bytearray(content[at:])
    page[5] &= ~4
    page[22:26] = bytes(4)
    page[22:26] = ogg.checksum(page).to_bytes(4, "little")
    path = put(tmp_path / "x.opus", content[:at] + bytes(page))
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.read(path)
    found = result_of(path)
    np.testing.assert_array_equal(found.samples, expected)
    assert found.warning is not None
    assert found.warning.startswith("its last page is not marked as the last")


def test_an_ogg_file_cut_between_two_pages_or_without_one_inside_is_named(tmp_path: Path) -> None:
    content = encoded("OGG", "VORBIS", tone(20.0))
    pages = [at for at in range(len(content)) if content.startswith(b"OggS\0", at)]
    cut = result_of(put(tmp_path / "cut.ogg", content[: pages[-1]]))
    assert cut.warning is not None
    assert cut.warning.startswith("its last page is not marked as the last")
    lacking = put(tmp_path / "hole.ogg", content[: pages[3]] + content[pages[4] :])
    assert audio.probe(lacking).warning == "1 Ogg pages are missing inside"


ADTS = ["-c:a", "aac", "-f", "adts"]


def by_ffmpeg(path: Path, options: list[str]) -> bytes:
    soundfile.write(path, tone(2.0), RATE)
    command = ["ffmpeg", "-v", "error", "-i", str(path), *options, "-"]
    answer = subprocess.run(command, capture_output=True, check=False)
    if answer.returncode:
        pytest.skip(f"this ffmpeg cannot encode {options[-1]}")
    return answer.stdout


@needs_ffmpeg
@pytest.mark.parametrize("name", ["aac", "amr", "amr-wb"])
def test_aac_and_amr_with_a_cut_last_frame_are_decoded_up_to_it(tmp_path: Path, name: str) -> None:
    bits = np.random.default_rng(0).integers(0, 256, (60, 61), np.uint8)
    content = {
        "aac": lambda: by_ffmpeg(tmp_path / "tone.wav", ADTS),
        "amr": lambda: b"#!AMR\n" + b"".join(b"\x3c" + row[:31].tobytes() for row in bits),  # 12.2 kbit/s
        "amr-wb": lambda: b"#!AMR-WB\n" + b"".join(b"\x1c" + row[:36].tobytes() for row in bits),  # 14.25 kbit/s
    }[name]()
    complete = result_of(put(tmp_path / "complete", content)).samples
    found = result_of(put(tmp_path / "cut", content[:-5]))
    assert found.warning is not None
    assert "frame is cut" in found.warning
    assert 0 < len(complete) - len(found.samples) <= 1024
    np.testing.assert_array_equal(found.samples, complete[: len(found.samples)])


@needs_ffmpeg
@pytest.mark.parametrize("options", [["-c:a", "flac", "-f", "ogg"], ["-c:a", "libspeex", "-f", "ogg"]])
def test_other_codings_in_ogg_are_read_to_their_end_if_chained(tmp_path: Path, options: list[str]) -> None:
    content = by_ffmpeg(tmp_path / "tone.wav", options)
    one = result_of(put(tmp_path / "one.ogg", content)).samples
    two = result_of(put(tmp_path / "two.ogg", content + content)).samples
    assert abs(len(two) - 2 * len(one)) <= 0.02 * RATE


@needs_ffmpeg
def test_an_mp4_without_its_end_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "x.m4a"
    by_ffmpeg(tmp_path / "tone.wav", ["-c:a", "aac", "-f", "adts"])
    command = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "tone.wav"), "-movflags", "+faststart", str(path)]
    subprocess.run(command, check=True)
    path.write_bytes(path.read_bytes()[:-8000])
    with pytest.raises(TruncatedAudioError):
        audio.read(path, sample_rate=RATE)
    found: list[str] = []
    samples = audio.read(path, sample_rate=RATE, accept_truncated=True, on_warning=found.append)
    assert 0 < len(samples) < 2 * RATE
    assert len(found) == 1


@needs_ffmpeg
def test_reasons_of_ffmpeg_are_the_same_for_files_of_different_names(tmp_path: Path) -> None:
    messages = set()
    for name in ("a.m4a", "another one.m4a"):
        with pytest.raises(UnreadableAudioError) as caught:
            audio.probe(put(tmp_path / name, b"\0\0\0\x20ftypM4A " + bytes(500)))
        messages.add(str(caught.value))
    assert len(messages) == 1
    assert str(tmp_path) not in messages.pop()


@pytest.mark.parametrize(
    ("container", "coding"),
    [
        ("WAV", "PCM_16"),
        ("RF64", "PCM_16"),
        ("W64", "PCM_16"),
        ("AIFF", "PCM_16"),
        ("AU", "PCM_16"),
        pytest.param("CAF", "PCM_16", marks=needs_ffmpeg),
        ("NIST", "PCM_16"),
        ("WAV", "MS_ADPCM"),
        ("OGG", "VORBIS"),
        ("FLAC", "PCM_16"),
        ("MP3", "MPEG_LAYER_III"),
    ],
)
def test_what_a_truncated_recording_contains_is_accepted_if_asked(tmp_path: Path, container: str, coding: str) -> None:
    content = encoded(container, coding, tone(4.0))
    complete = audio.read(put(tmp_path / "complete", content), sample_rate=RATE)
    path = put(tmp_path / "x", content[: len(content) * 6 // 10])
    with pytest.raises(TruncatedAudioError):
        audio.read(path, sample_rate=RATE)
    found: list[str] = []
    samples = audio.read(path, sample_rate=RATE, accept_truncated=True, on_warning=found.append)
    assert 0.2 * len(complete) < len(samples) < 0.75 * len(complete)
    safe = len(samples) - 2304  # the decoder of MP3 fades what it has no more data for
    np.testing.assert_allclose(samples[:safe], complete[:safe], atol=1e-4)
    assert len(found) == 1
