"""Files with several recordings, or other bytes, one after the other: all is decoded, or it is named."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import numpy as np
import pytest

from support.recordings import JOINED, RATE, encoded, put, result_of, tone
from voxshard import audio
from voxshard.audio import flac, sndfile, sources
from voxshard.errors import UnreadableAudioError

CONTAINERS = ["WAV", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC"]
NOT_READ = "bytes after the samples are not read: its header counts only those before them"


def with_bytes(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


def decoded(tmp_path: Path, content: bytes) -> np.ndarray:
    return audio.read(put(tmp_path / "part", content), sample_rate=RATE)


@pytest.mark.parametrize("container", CONTAINERS)
def test_two_files_of_a_kind_are_one_recording(tmp_path: Path, container: str) -> None:
    parts = [encoded(container, "PCM_16", tone(seconds)) for seconds in (1.25, 0.5)]
    found = result_of(put(tmp_path / "x", b"".join(parts)))
    np.testing.assert_array_equal(found.samples, np.concatenate([decoded(tmp_path, part) for part in parts]))
    assert found.warning == JOINED


@pytest.mark.parametrize(
    ("first", "second"), [("WAV", "FLAC"), ("FLAC", "WAV"), ("AIFF", "WAV"), ("WAV", "MP3"), ("CAF", "W64")]
)
def test_files_of_two_kinds_are_one_recording(tmp_path: Path, first: str, second: str) -> None:
    codings = {"MP3": "MPEG_LAYER_III"}
    parts = [encoded(container, codings.get(container, "PCM_16")) for container in (first, second)]
    found = result_of(put(tmp_path / "x", b"".join(parts)))
    np.testing.assert_array_equal(found.samples, np.concatenate([decoded(tmp_path, part) for part in parts]))
    assert found.warning == JOINED


def test_an_odd_wav_without_padding_is_joined_where_it_ends(tmp_path: Path) -> None:
    samples = tone(1.0)[:15999]
    part = encoded("WAV", "PCM_U8", samples)
    part = part[: 44 + len(samples)]
    found = result_of(put(tmp_path / "x", part + part))
    np.testing.assert_array_equal(found.samples, np.tile(decoded(tmp_path, part), 2))
    assert found.warning == JOINED


@pytest.mark.parametrize(("container", "place"), [("WAV", 40), ("AU", 8)])
def test_files_written_to_a_pipe_are_joined_although_no_header_states_an_end(
    tmp_path: Path, container: str, place: int
) -> None:
    content = encoded(container, "PCM_16")
    content = with_bytes(content, place, b"\xff" * 4)
    found = result_of(put(tmp_path / "x", content + content))
    np.testing.assert_array_equal(found.samples, np.tile(decoded(tmp_path, encoded(container, "PCM_16")), 2))
    assert found.warning == JOINED


def signals() -> dict[str, np.ndarray]:
    noise = 0.1 * np.random.default_rng(1).standard_normal(64000)
    swelling = noise * np.sin(np.arange(64000) / 4000) ** 4
    return {
        "tone": tone(4.0)[:, 0],
        "noise": noise,
        "swelling": swelling,
        "silence": np.zeros(64000),
        "short": noise[:5000],
        "half": noise[:32000],
        "long": np.tile(swelling, 5),
        "one sample": noise[:1],
    }


@pytest.mark.parametrize(("first", "second"), list(itertools.product(signals(), repeat=2)))
def test_prepare_counts_the_samples_of_every_stream_in_a_flac_file(tmp_path: Path, first: str, second: str) -> None:
    known = signals()
    path = put(tmp_path / "x", b"".join(encoded("FLAC", "PCM_16", known[name]) for name in (first, second)))
    assert len(result_of(path).samples) == len(known[first]) + len(known[second])


@pytest.mark.parametrize("tail", [b"", b"TAG" + bytes(125)], ids=["plain", "tagged"])
@pytest.mark.parametrize("name", signals())
def test_of_a_long_flac_file_only_a_few_bytes_are_read(
    tmp_path: Path, name: str, tail: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = signals()[name]
    content = encoded("FLAC", "PCM_16", samples) + tail
    with sources.opened(put(tmp_path / "x", content)) as source:
        monkeypatch.setattr(source, "whole", lambda: pytest.fail("reads all of the file"))
        stated = flac.only_stream(source)
    assert stated is not None
    assert (stated.num_samples, stated.sample_rate, stated.num_channels) == (len(samples), RATE, 1)


@pytest.mark.parametrize("kept", [0.4, 0.7, 0.85])
def test_a_flac_file_without_its_last_frame_is_not_taken_for_complete(tmp_path: Path, kept: float) -> None:
    content = encoded("FLAC", "PCM_16", signals()["swelling"])
    with sources.opened(put(tmp_path / "x", content[: int(len(content) * kept)])) as source:
        assert flac.only_stream(source) is None


@pytest.mark.parametrize("container", [name for name in CONTAINERS if name != "FLAC"])
@pytest.mark.parametrize("tail", [bytes(5000), b"\xc8\x07\x63\xfb" * 1250], ids=["zeros", "bytes"])
def test_bytes_after_the_samples_are_no_samples_and_named(tmp_path: Path, container: str, tail: bytes) -> None:
    content = encoded(container, "PCM_16")
    found = result_of(put(tmp_path / "x", content + tail))
    np.testing.assert_array_equal(found.samples, decoded(tmp_path, content))
    assert found.warning == f"5000 {NOT_READ}"


@pytest.mark.parametrize("container", [name for name in CONTAINERS if name != "FLAC"])
def test_a_few_bytes_after_the_samples_are_no_samples(tmp_path: Path, container: str) -> None:
    content = encoded(container, "PCM_16")
    found = result_of(put(tmp_path / "x", content + b"abcde\0"))
    np.testing.assert_array_equal(found.samples, decoded(tmp_path, content))


def test_bytes_that_belong_to_no_ogg_page_are_named(tmp_path: Path) -> None:
    content = encoded("OGG", "VORBIS")
    found = result_of(put(tmp_path / "x.ogg", content + encoded("WAV", "PCM_16")))
    np.testing.assert_array_equal(found.samples, decoded(tmp_path, content))
    assert found.warning == "48044 bytes that belong to no Ogg page are left out"


@pytest.mark.parametrize(
    ("container", "word", "place", "size"),
    [
        ("AU", b".snd", 8, bytes(4)),
        ("CAF", b"data", 4, bytes(8)),
        ("CAF", b"data", 4, b"\xff" * 8),
        ("W64", b"data\xf3", 16, bytes(8)),
        ("W64", b"data\xf3", 16, struct.pack("<Q", (1 << 63) - 1)),
        ("RF64", b"ds64", 16, b"\xff" * 8),
        ("RF64", b"ds64", 8, b"\xff" * 16),
        ("RF64", b"ds64", 16, bytes(8)),
        ("RF64", b"ds64", 8, bytes(16)),
        ("WAV", b"data", 4, bytes(4)),
        ("WAV", b"data", 4, struct.pack("<I", 0x7FFFF000)),
        ("WAV", b"data", 4, struct.pack("<I", 0x80000024)),
        ("AIFF", b"SSND", 4, bytes(4)),
        ("AIFF", b"SSND", 4, b"\xff" * 4),
    ],
)
def test_a_size_that_the_writer_could_not_know_is_that_of_the_file(
    tmp_path: Path, container: str, word: bytes, place: int, size: bytes
) -> None:
    content = encoded(container, "PCM_16")
    found = result_of(put(tmp_path / "x", with_bytes(content, content.find(word) + place, size)))
    np.testing.assert_array_equal(found.samples, decoded(tmp_path, content))
    assert found.warning is None


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16000, 2), (24000, 1), (44100, 2), (48000, 1)])
@pytest.mark.parametrize("seconds", [0.02, 0.5, 2.0])
def test_the_length_of_an_mp3_is_known_without_a_decoder(
    tmp_path: Path, rate: int, channels: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "x.mp3", encoded("MP3", "MPEG_LAYER_III", tone(seconds, rate, channels), rate))
    samples = audio.read(path, sample_rate=rate)
    monkeypatch.setattr(sndfile, "_open", lambda part: pytest.fail("opens a decoder"))
    header = audio.probe(path)
    assert (header.num_frames, header.sample_rate, header.num_channels) == (len(samples), rate, channels)


@pytest.mark.parametrize("stated", [1, 10, 1000])
def test_a_wrong_number_of_frames_in_a_header_of_the_right_size_cuts_nothing(tmp_path: Path, stated: int) -> None:
    content = encoded("MP3", "MPEG_LAYER_III")
    expected = decoded(tmp_path, content)
    changed = with_bytes(content, content.find(b"Xing") + 8, struct.pack(">I", stated))
    found = result_of(put(tmp_path / "x.mp3", changed))
    assert len(expected) <= len(found.samples) <= len(expected) + 2 * 576  # the padding at the end is not known
    np.testing.assert_allclose(found.samples[: len(expected)], expected, atol=1e-6)
    assert found.warning is not None
    assert found.warning.startswith(f"its header counts {stated} MPEG frames, there are ")


@pytest.mark.parametrize("tag", [b"", b"ID3\3\0\0\0\0\0\0"], ids=["plain", "tagged"])
def test_mpeg_frames_of_a_free_bit_rate_are_named(tmp_path: Path, tag: bytes) -> None:
    """libsndfile makes silence of them."""
    frame = b"\xff\xfb\x00\xc4" + bytes(413)
    path = put(tmp_path / "x.mp3", tag + 40 * frame)
    for read in (audio.probe, lambda found: audio.read(found, sample_rate=RATE)):
        with pytest.raises(UnreadableAudioError, match="MPEG audio of a free bit rate"):
            read(path)


def test_an_mp3_cut_short_is_named_by_prepare(tmp_path: Path) -> None:
    content = encoded("MP3", "MPEG_LAYER_III", tone(4.0))
    header = audio.probe(put(tmp_path / "x.mp3", content[: len(content) // 2]))
    assert header.warning is not None
    assert "its header counts 114 MPEG frames, there are 55" in header.warning


def test_an_ape_tag_without_a_header_at_the_end_of_an_mp3_is_no_garbage(tmp_path: Path) -> None:
    content = encoded("MP3", "MPEG_LAYER_III")
    items = struct.pack("<II", 4, 0) + b"Title\0wxyz"
    footer = b"APETAGEX" + struct.pack("<IIII", 2000, 32 + len(items), 1, 0) + bytes(8)
    found = result_of(put(tmp_path / "x.mp3", content + items + footer))
    np.testing.assert_array_equal(found.samples, decoded(tmp_path, content))
    assert found.warning is None
