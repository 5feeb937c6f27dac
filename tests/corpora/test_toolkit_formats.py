"""Corpora as Kaldi, lhotse and WebDataset have them: rows, spans, labels; commands and archives refused by name."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from support.trees import Notes, column, prepare, rows, write_audio, write_text
from voxshard import audio
from voxshard.errors import DuplicateIdError, EmptyCorpusError, ManifestError


def kaldi(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        write_text(folder / name.replace("wav_scp", "wav.scp"), text)
    return folder


def test_a_kaldi_directory_has_a_row_per_utterance(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_audio(tmp_path / "wav" / f"{name}.wav", seconds=1.0)
    folder = kaldi(
        tmp_path / "data" / "train",
        wav_scp=f"rec-a {tmp_path}/wav/a.wav\nrec-b\t{tmp_path}/wav/b.wav\n",
        segments="a-1 rec-a 0.00 0.50\na-2 rec-a 0.5 1.0\nb-1 rec-b 0.25 -1\n",
        utt2spk="a-1 s1\na-2 s1\nb-1 s2\n",
        spk2gender="s1 f\ns2 m\n",
        text="a-1 hello  world\na-2\nb-1 NA\n",
        utt2lang="a-1 nl\nb-1 en\n",
        utt2dur="a-1 0.5\n",
    )
    manifest = prepare("kaldi", folder, tmp_path / "m.parquet")
    assert manifest.ids == ["a-1", "a-2", "b-1"]
    assert rows(manifest, "start_s", "end_s", "duration_s", "speaker", "gender", "lang", "text", "problem") == [
        (0.0, 0.5, 0.5, "s1", "f", "nl", "hello  world", None),
        (0.5, 1.0, 0.5, "s1", "f", None, "", None),
        (0.25, None, 0.75, "s2", "m", "en", "NA", None),
    ]


def test_kaldi_folders_are_splits_and_paths_start_where_recipes_run(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_audio(tmp_path / "s5" / "wav" / f"{name}.wav")
    for split, name in (("train", "a"), ("dev", "b")):
        kaldi(tmp_path / "s5" / "data" / split, wav_scp=f"{name} wav/{name}.wav\n")
    notes = Notes()
    manifest = prepare("kaldi", tmp_path / "s5" / "data", tmp_path / "m.parquet", notes)
    assert rows(manifest, "utterance_id", "split", "problem") == [("b", "dev", None), ("a", "train", None)]
    assert manifest.root == str(tmp_path / "s5")
    assert f"relative paths start from {tmp_path}/s5" in notes.lines


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ("sph2pipe -f wav a.sph |", "pipes, which are commands"),
        ("flac -c -d -s a.flac |", "pipes, which are commands"),
        ("raw/wav.ark:1234", "places in Kaldi archives"),
    ],
)
def test_commands_and_archives_of_kaldi_are_refused_by_name(tmp_path: Path, entry: str, what: str) -> None:
    folder = kaldi(tmp_path / "d", wav_scp=f"a {entry}\nb /x/b.wav\n")
    with pytest.raises(ManifestError) as caught:
        prepare("kaldi", folder, tmp_path / "m.parquet")
    assert f"1 of 2 entries are {what}: a {entry!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("files", "kind", "what"),
    [
        ({"wav_scp": "a x.wav\na y.wav\n"}, DuplicateIdError, "'a' is in it twice"),
        ({"wav_scp": "a x.wav\n", "segments": "u b 0 1\n"}, ManifestError, "recording 'b' is not in wav.scp"),
        ({"wav_scp": "a x.wav\n", "segments": "u a 2 1\n"}, ManifestError, "expected 0 <= start < end"),
        ({"wav_scp": "a x.wav\n", "segments": "u a\n"}, ManifestError, "expected a recording, its start and its end"),
        ({"text": "a x\n"}, EmptyCorpusError, "no wav.scp"),
    ],
)
def test_damaged_kaldi_directories_are_named(tmp_path: Path, files: dict[str, str], kind: type, what: str) -> None:
    with pytest.raises(kind, match=what):
        prepare("kaldi", kaldi(tmp_path / "d", **files), tmp_path / "m.parquet")


def put_lines(path: Path, *items: dict[str, Any]) -> Path:
    content = "".join(json.dumps(item) + "\n" for item in items).encode()
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


def recording(name: str, path: str, seconds: float = 1.0, **changes: Any) -> dict[str, Any]:
    sources = [{"type": "file", "channels": [0], "source": path}]
    facts = {"sampling_rate": 8000, "num_samples": round(8000 * seconds), "duration": seconds, "channel_ids": [0]}
    return {"id": name, "sources": sources, **facts, **changes}


@pytest.mark.parametrize("extension", ["jsonl", "jsonl.gz"])
def test_lhotse_supervisions_are_rows_and_spans(tmp_path: Path, extension: str) -> None:
    for name in ("a", "b", "c"):
        write_audio(tmp_path / f"{name}.wav", seconds=1.0)
    put_lines(
        tmp_path / f"x_recordings_train.{extension}",
        *(recording(f"r{name}", f"{tmp_path}/{name}.wav") for name in "abc"),
    )
    put_lines(
        tmp_path / f"x_supervisions_train.{extension}",
        {"id": "s1", "recording_id": "ra", "start": 0.1, "duration": 0.2, "channel": 0, "text": "ja",
         "speaker": "p1", "language": "nl", "custom": {"emotion": "happy", "score": 3}},
        {"id": "s2", "recording_id": "rb", "start": 0.0, "duration": 1.0, "channel": 0, "speaker": "p2"},
    )  # fmt: skip
    notes = Notes()
    manifest = prepare("lhotse", tmp_path, tmp_path / "m.parquet", notes)
    assert rows(manifest, "utterance_id", "start_s", "end_s", "duration_s", "split", "speaker", "problem") == [
        ("s1", 0.1, 0.3, pytest.approx(0.2), "train", "p1", None),
        ("s2", None, None, 1.0, "train", "p2", None),
    ]
    assert rows(manifest, "text", "language", "emotion", "score") == [("ja", "nl", "happy", 3), (None,) * 4]
    assert any("1 of 3 recordings have no supervision" in line for line in notes.lines)


def test_lhotse_recordings_alone_are_rows(tmp_path: Path) -> None:
    write_audio(tmp_path / "audio" / "a.wav", seconds=1.0)
    file = put_lines(tmp_path / "manifests_recordings.jsonl.gz", recording("r", "audio/a.wav"))
    for root in (tmp_path, file):
        manifest = prepare("lhotse", root, tmp_path / "m.parquet")
        assert rows(manifest, "utterance_id", "path", "duration_s", "split") == [("r", "audio/a.wav", 1.0, None)]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"sources": [{"type": "command", "channels": [0], "source": "rm -rf /"}]}, "which would run a program"),
        ({"sources": [{"type": "memory", "channels": [0], "source": "UklGRg=="}]}, "its source is of type memory"),
        ({"sources": [{"type": "file", "channels": [c], "source": f"{c}.wav"} for c in (0, 1)]}, "are in 2 files"),
        ({"transforms": [{"name": "Speed", "kwargs": {"factor": 1.1}}]}, "changed by transforms"),
        ({"sources": None}, "it has no sources"),
    ],
)
def test_lhotse_recordings_that_are_no_plain_file_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    put_lines(tmp_path / "recordings.jsonl", recording("r", "a.wav", **changes))
    with pytest.raises(ManifestError, match=f"1 of 1 recordings are no plain file: r: .*{what}"):
        prepare("lhotse", tmp_path, tmp_path / "m.parquet")


def encoded(seconds: float, container: str = "WAV", seed: int = 0) -> bytes:
    stream = io.BytesIO()
    samples = 0.1 * np.random.default_rng(seed).standard_normal(round(8000 * seconds))
    soundfile.write(stream, samples, 8000, format=container)
    return stream.getvalue()


def archive(path: Path, files: dict[str, bytes], layout: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=layout) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_tar_archives_are_read_in_place(tmp_path: Path, layout: int) -> None:
    long_name = ("d" * 40 + "/") * (2 if layout == tarfile.USTAR_FORMAT else 5) + "utt3"
    recordings = {"utt1.wav": encoded(0.5), "sub/utt2.flac": encoded(0.25, "FLAC", 1), f"{long_name}.wav": encoded(1)}
    about = {
        "utt1.json": b'{"text": "hello", "score": 3, "tags": ["a"]}',
        "utt1.cls": b"7\n",
        "sub/utt2.cls": b"2",
        "utt1.txt": b" hello ",
        "utt1.jpg": b"\xff\xd8",
    }
    archive(tmp_path / "c" / "x" / "000.tar", {**about, **recordings}, layout)
    notes = Notes()
    manifest = prepare("tar", tmp_path / "c", tmp_path / "m.parquet", notes)
    assert manifest.ids == [f"x/000.tar/{name}" for name in recordings]
    assert rows(manifest, "duration_s", "cls", "txt", "text", "score", "tags", "num_bytes", "problem") == [
        (0.5, 7, "hello", "hello", 3, '["a"]', len(recordings["utt1.wav"]), None),
        (0.25, 2, None, None, None, None, len(recordings["sub/utt2.flac"]), None),
        (1.0, None, None, None, None, None, len(recordings[f"{long_name}.wav"]), None),
    ]
    assert any("1 .jpg" in line for line in notes.lines)
    for path, content in zip(column(manifest, "path"), recordings.values(), strict=True):
        (tmp_path / "alone").write_bytes(content)
        expected = audio.read(tmp_path / "alone", sample_rate=16000)
        np.testing.assert_array_equal(audio.read(audio.resolve(manifest.root, path), sample_rate=16000), expected)


def test_an_archive_that_was_written_again_is_noticed(tmp_path: Path) -> None:
    path = archive(tmp_path / "000.tar", {"a.wav": encoded(0.5), "b.wav": encoded(0.5)})
    manifest = prepare("tar", path, tmp_path / "m.parquet")
    archive(path, {"first.wav": encoded(0.7), "a.wav": encoded(0.6), "b.wav": encoded(0.5)})
    again = prepare("table", table_of(manifest, tmp_path / "t.csv"), tmp_path / "n.parquet")
    assert [text.partition(":")[0] for text in column(again, "problem")] == ["UnreadableAudioError"] * 2
    assert "it was written again since `voxshard prepare`" in column(again, "problem")[1]


def table_of(manifest: Any, path: Path) -> Path:
    return write_text(path, ["path", *column(manifest, "path")])


def test_members_with_one_key_share_what_is_said_of_it(tmp_path: Path) -> None:
    files = {"k.near.wav": encoded(0.1), "k.far.wav": encoded(0.1), "k.json": b'{"label": "x"}', "k.far.cls": b"1"}
    manifest = prepare("tar", archive(tmp_path / "a.tar", files), tmp_path / "m.parquet")
    assert rows(manifest, "label", "cls") == [("x", None), ("x", 1)]


def test_compressed_cut_and_foreign_archives_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "c" / "a.tar", {"a.wav": encoded(0.5)})
    content = path.read_bytes()
    for changed, what in (
        (gzip.compress(content), "compressed with gzip"),
        (content[:2000], "cut: a.wav ends beyond the end"),
        (b"no archive " * 200, "no tar archive, or a damaged one"),
    ):
        path.write_bytes(changed)
        with pytest.raises(ManifestError, match=what):
            prepare("tar", tmp_path / "c", tmp_path / "m.parquet")


def test_links_in_archives_are_named_and_odd_names_are_read(tmp_path: Path) -> None:
    odd = ("x.tar:5+6:y.wav", "a:b.wav", "a b.wav")
    path = archive(tmp_path / "a.tar", dict.fromkeys(odd, encoded(0.1)))
    with tarfile.open(path, "a") as tar:
        for name, kind in (("hard.wav", tarfile.LNKTYPE), ("soft.json", tarfile.SYMTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "nowhere"
            tar.addfile(link)
    notes = Notes()
    manifest = prepare("tar", path, tmp_path / "m.parquet", notes)
    assert column(manifest, "problem") == [None] * 3
    assert any(line.endswith("are left out: 2 links") for line in notes.lines)


def test_a_sparse_member_is_refused_by_name(tmp_path: Path) -> None:
    header = tarfile.TarInfo("s.wav")
    header.pax_headers = {"GNU.sparse.size": "9000", "GNU.sparse.name": "s.wav", "GNU.sparse.map": "0,512"}
    header.size = 512
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(header, io.BytesIO(bytes(512)))
    with pytest.raises(ManifestError, match=r"s\.wav is stored as a sparse file"):
        prepare("tar", tmp_path / "a.tar", tmp_path / "m.parquet")


@pytest.mark.parametrize(("channel", "is_noted"), [(0, True), ([1], True), ([0, 1], False)])
def test_supervisions_of_some_of_the_channels_are_noted(tmp_path: Path, channel: object, is_noted: bool) -> None:
    write_audio(tmp_path / "a.wav", seconds=1.0)
    source = {"type": "file", "channels": [0, 1], "source": str(tmp_path / "a.wav")}
    put_lines(tmp_path / "recordings.jsonl", recording("r", "", sources=[source]))
    about = {"id": "s", "recording_id": "r", "start": 0.0, "duration": 1.0, "channel": channel}
    put_lines(tmp_path / "supervisions.jsonl", about)
    notes = Notes()
    prepare("lhotse", tmp_path, tmp_path / "m.parquet", notes)
    assert any("1 supervisions are of some of the channels" in line for line in notes.lines) == is_noted
