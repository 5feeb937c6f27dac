"""What a table, list or archive would lose or say wrongly without a word: each is refused in one line, or noted."""

from __future__ import annotations

import io
import json
import os
import socket
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.trees import Notes, column, prepare, rows, write_audio, write_text
from voxshard.errors import EmptyCorpusError, ManifestError


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    root = tmp_path / "c"
    for name in ("a", "b", "c"):
        write_audio(root / f"{name}.wav", seconds=1.0)
    return root


def refused(corpus: str, root: Path, content: bytes | str, name: str = "t.csv", **settings: Any) -> str:
    (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ManifestError) as caught:
        prepare(corpus, root / name, root / "m.parquet", **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def noted(root: Path, text: str, name: str = "t.csv", **settings: Any) -> str:
    notes = Notes()
    write_text(root / name, text)
    prepare("table", root / name, root / "m.parquet", notes, **settings)
    return "\n".join(notes.lines)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"path,label\na.wav,x\nb.wav,y\n" + bytes(50), "line 4 has a zero byte: the file is damaged or no text"),
        ("path,label\na.wav,x\n".encode("utf-32-le"), "line 1 has a zero byte"),
        (b"path,label\na.wav,\x93x\x94\n", "column label is not UTF-8; save the table as UTF-8 (byte 0x93 in row 0"),
        ('path,label\na.wav,"x\nb.wav,"y\nc.wav,z\n', "a quotation mark is missing or one too many"),
        ("path,label\na.wav,x\npath,label\nb.wav,y\n", "row 1 is the header again; remove this line"),
        ("a.wav,yes\nb.wav,no\n", "the first line of a table must be the names of its columns"),
        ("sep=;\npath;label\na.wav;x\n", "the first line of a table must be the names of its columns"),
        (b"PK\3\4" + bytes(20) + b"xl/workbook.xml", "it looks like a workbook of Excel or the like; save it as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "it looks like a workbook of Excel or the like"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "it looks like a recording; name the table that lists it"),
    ],
)
def test_a_table_that_would_be_read_wrongly_is_refused(corpus: Path, text: str | bytes, what: str) -> None:
    assert what in refused("table", corpus, text)


def test_text_of_utf_16_without_a_mark_is_read_whatever_its_letters(corpus: Path) -> None:
    (corpus / "t.csv").write_bytes("path,метка класса\na.wav,да\n".encode("utf-16-le"))
    assert column(prepare("table", corpus / "t.csv", corpus / "m.parquet"), "метка класса") == ["да"]


def test_bars_separate_columns(corpus: Path) -> None:
    write_text(corpus / "t.csv", "path|label\na.wav|x, y\n")
    assert column(prepare("table", corpus / "t.csv", corpus / "m.parquet"), "label") == ["x, y"]


def test_values_may_have_line_breaks_and_quotation_marks(corpus: Path) -> None:
    write_text(corpus / "t.csv", 'path,text\na.wav,"one\ntwo ""three"""\nb.wav,5" x\n')
    assert column(prepare("table", corpus / "t.csv", corpus / "m.parquet"), "text") == ['one\ntwo "three"', '5" x']


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("path,label\na.wav,Yes\nb.wav,yes\n", "only in upper and lower case stay different: Yes, yes"),
        ('path,score\na.wav,"3,14"\nb.wav,"2,5"\n', "stays text: write its numbers with a point, not as '3,14'"),
        ("path,label\na.wav,yes\u200b\nb.wav,yes\n", "blanks around 1 values are removed"),
        ("path,problem,duration_s,label\na.wav,bad,9,x\n", "columns problem, duration_s are left out"),
        ("path,Start (s),end_sec\na.wav,0.1,0.5\n", "Start (s), end_sec: kept as plain columns"),
        ("path,start_ms,duration\na.wav,100,400\n", "start_ms, duration: kept as plain columns"),
    ],
)  # fmt: skip
def test_what_a_reader_may_not_expect_is_noted(corpus: Path, text: str, what: str) -> None:
    assert what in noted(corpus, text)


def test_a_column_that_is_left_out_is_not_called_a_span_too(corpus: Path) -> None:
    assert "plain columns" not in noted(corpus, "path,duration_s\na.wav,9\n")


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("a.flac", "has another extension, such as 'a.wav' for 'a.flac'"),
        ("A.flac", "has another extension and case, such as 'a.wav'"),
        ("'a.wav'", "has no quotation marks around it, such as 'a.wav'"),
        ("/data/old/a.wav", "starts further down (a table: --set audio_root=FOLDER), such as 'a.wav'"),
        ("c/a.wav", "starts further down"),
        ("1.wav", "has zeros at its start, such as '001.wav' for '1.wav'"),
    ],
)
def test_a_missing_recording_that_exists_under_another_name_is_named(corpus: Path, path: str, what: str) -> None:
    write_audio(corpus / "001.wav")
    assert what in noted(corpus, f"path,label\n{path},x\n")


def test_a_table_in_a_folder_below_the_recordings_gets_a_hint(corpus: Path) -> None:
    (corpus / "lists").mkdir()
    assert "starts in a folder above" in noted(corpus / "lists", "path\na.wav\n")


def test_a_path_in_windows_1252_gets_a_hint(corpus: Path) -> None:
    write_audio(corpus / "caf\u00e9.wav")
    notes = Notes()
    (corpus / "t.csv").write_bytes(b"path,label\ncaf\xe9.wav,x\n")
    prepare("table", corpus / "t.csv", corpus / "m.parquet", notes)
    assert any(
        "is in UTF-8, not in Windows-1252, such as 'caf\u00e9.wav' for 'caf\\\\xe9.wav'" in line for line in notes.lines
    )


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ("d\n", "1 are names of several utterances: 'd'; write their paths"),
        ("a.wav\nb\n", "1 are another kind of name than the other entries: 'b'"),
    ],
)
def test_why_an_entry_of_a_list_matches_nothing_is_said(corpus: Path, entries: str, what: str) -> None:
    write_audio(corpus / "x" / "d.wav")
    write_audio(corpus / "y" / "d.wav")
    write_text(corpus / "l.txt", entries)
    with pytest.raises(ManifestError, match=what):
        prepare("folder", corpus, corpus / "m.parquet", split=(f"train={corpus / 'l.txt'}",))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (
            '{"path": ["a.wav", "b.wav"], "label": [1, 2]}',
            "one object of lists or objects, not a row; write one object",
        ),
        ('{"path": "a.wav"},\n{"path": "b.wav"}\n', "write one object per line, without commas after them"),
        ('{"audio": {"path": "a.wav"}, "label": 1}\n', "column audio holds objects or lists, not paths"),
    ],
)
def test_json_of_another_shape_is_refused_with_the_remedy(corpus: Path, text: str, what: str) -> None:
    assert what in refused("table", corpus, text, "t.json")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_json_lines_are_read_with_a_mark(corpus: Path, encoding: str) -> None:
    (corpus / "t.jsonl").write_bytes('{"path": "a.wav", "label": "\u00e9"}\n'.encode(encoding))
    assert column(prepare("table", corpus / "t.jsonl", corpus / "m.parquet"), "label") == ["\u00e9"]


def test_a_duration_that_the_recording_does_not_have_is_a_warning(corpus: Path) -> None:
    lines = [{"audio_filepath": "a.wav", "duration": 99.0}, {"audio_filepath": "b.wav", "duration": 1.0004}]
    write_text(corpus / "t.jsonl", [json.dumps(line) for line in lines])
    manifest = prepare("table", corpus / "t.jsonl", corpus / "m.parquet")
    assert column(manifest, "warning") == ["the corpus states 99.00 s, the recording has 1.00 s", None]


@pytest.mark.parametrize("kind", [pa.large_string(), pa.large_binary(), pa.string_view(), pa.binary_view()])
def test_parquet_may_have_any_type_of_text(corpus: Path, kind: pa.DataType) -> None:
    values = [b"a.wav"] if "binary" in str(kind) else ["a.wav"]
    pq.write_table(pa.table({"path": pa.array(values, kind), "label": ["x"]}), corpus / "t.parquet")
    manifest = prepare("table", corpus / "t.parquet", corpus / "m.parquet")
    assert rows(manifest, "utterance_id", "label", "problem") == [("a.wav", "x", None)]


def test_a_socket_and_a_pipe_among_the_recordings_are_problems_and_stop_nothing(corpus: Path) -> None:
    os.mkfifo(corpus / "pipe.wav")
    with socket.socket(socket.AF_UNIX) as own:
        here = Path.cwd()
        os.chdir(corpus)  # the name of a socket has 108 letters at most
        try:
            own.bind("socket.wav")
        finally:
            os.chdir(here)
    for probe in (True, False):
        manifest = prepare("folder", corpus, corpus / "m.parquet", probe=probe)
        problems = dict(rows(manifest, "utterance_id", "problem"))
        assert problems["pipe.wav"].startswith("UnreadableAudioError: not a file but")
        assert problems["socket.wav"].startswith("UnreadableAudioError: not a file but")
        assert problems["a.wav"] is None


@pytest.mark.parametrize(
    ("name", "corpus_format"),
    [("t.csv", "table"), ("s.tar", "tar"), ("recordings.jsonl", "lhotse"), ("train.txt", "file-lists")],
)
def test_a_pipe_in_place_of_a_table_is_not_waited_for(corpus: Path, name: str, corpus_format: str) -> None:
    os.mkfifo(corpus / name)
    with pytest.raises((ManifestError, EmptyCorpusError), match="not a file but a pipe, socket or device"):
        prepare(corpus_format, corpus, corpus / "m.parquet")


def test_a_pipe_of_the_shell_is_a_table(corpus: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"file,label\na.wav,x\nb.wav,y\nc.wav,z\n")
    os.close(writing)
    try:
        manifest = prepare("folder", corpus, corpus.parent / "m.parquet", labels=f"/dev/fd/{reading}")
    finally:
        os.close(reading)
    assert column(manifest, "label") == ["x", "y", "z"]


def test_links_to_folders_that_contain_them_are_left_out_and_named(corpus: Path) -> None:
    (corpus / "x").mkdir()
    (corpus / "x" / "root").symlink_to(corpus)
    (corpus / "x" / "above").symlink_to(corpus.parent)
    notes = Notes()
    assert prepare("folder", corpus, corpus.parent / "m.parquet", notes).ids == ["a.wav", "b.wav", "c.wav"]
    assert any("2 links, 'x/above', 'x/root'" in line for line in notes.lines)


def test_bare_names_in_lists_are_found_in_any_folder_if_one_alone_fits(tmp_path: Path) -> None:
    for name in (
        "blues/blues.00000.au",
        "blues/blues.00001.au",
        "rock/rock.00000.au",
        "rock/twice.au",
        "blues/twice.au",
    ):
        write_audio(tmp_path / "genres" / name, kind="AU")
    write_text(tmp_path / "train.txt", "blues.00000\nblues.00001.wav\nrock.00000.wav\ntwice.au\n")
    manifest = prepare("file-lists", tmp_path, tmp_path / "m.parquet")
    found = dict(rows(manifest, "path", "label"))
    assert found["genres/rock/rock.00000.au"] == "rock"
    assert found["genres/blues/blues.00001.au"] == found["genres/blues/blues.00000.au"] == "blues"
    assert sum(problem is None for problem in column(manifest, "problem")) == 4


def test_what_kaldi_maps_leave_out_is_noted(corpus: Path) -> None:
    write_text(corpus / "wav.scp", "u1 a.wav\nu2 b.wav\n")
    write_text(corpus / "segments", "s1 u1 0 0.5 1\ns2 u2 0 0.5 2\n")
    write_text(corpus / "utt2lang", "s1 nl\n")
    write_text(corpus / "utt2split", "s1 train\ns2 test\n")
    write_text(corpus / "spk2utt", "kim s1 s2\n")
    notes = Notes()
    manifest = prepare("kaldi", corpus, corpus / "m.parquet", notes)
    assert rows(manifest, "utterance_id", "speaker", "split", "lang") == [
        ("s1", "kim", "train", "nl"),
        ("s2", "kim", "test", None),
    ]
    assert f"{corpus}: 1 of 2 utterances have no lang" in notes.lines
    assert f"{corpus}: 2 segments name a channel; the mean of all channels is read" in notes.lines


def recording(name: str, file: str = "a.wav", duration: float = 1.0) -> str:
    source = {"type": "file", "channels": [0], "source": file}
    return json.dumps({"id": name, "sources": [source], "sampling_rate": 8000, "duration": duration}) + "\n"


def test_supervisions_that_no_recordings_belong_to_are_noted(corpus: Path) -> None:
    write_text(corpus / "x_recordings.jsonl", recording("r"))
    write_text(corpus / "y_supervisions.jsonl", '{"id":"s","recording_id":"r","start":0,"duration":0.5}\n')
    notes = Notes()
    prepare("lhotse", corpus, corpus / "m.parquet", notes)
    assert any("y_supervisions.jsonl: left out, since there is no y_recordings.jsonl" in line for line in notes.lines)


def test_a_lhotse_manifest_of_other_recordings_is_a_warning(corpus: Path) -> None:
    write_text(corpus / "recordings.jsonl", recording("r1", duration=0.5) + recording("r2", "b.wav"))
    write_text(
        corpus / "supervisions.jsonl",
        '{"id":"s1","recording_id":"r1","start":0,"duration":0.5}\n{"id":"s2","recording_id":"r2","start":0,"duration":1}\n',
    )
    manifest = prepare("lhotse", corpus, corpus / "m.parquet")
    assert column(manifest, "warning") == ["the corpus states 0.50 s, the recording has 1.00 s", None]


def test_a_manifest_of_cuts_is_named(corpus: Path) -> None:
    write_text(corpus / "x_cuts.jsonl", json.dumps({"id": "c", "start": 0, "duration": 1, "recording": {}}) + "\n")
    with pytest.raises(ManifestError, match=r"a manifest of cuts; write it with CutSet\.decompose"):
        prepare("lhotse", corpus / "x_cuts.jsonl", corpus / "m.parquet")


def test_what_archives_hold_beyond_samples_is_counted(corpus: Path) -> None:
    sound = (corpus / "a.wav").read_bytes()
    members = {
        "cafe\u0301.wav": sound, "caf\u00e9.cls": b"3", "._cafe\u0301.wav": b"\0\5\x16\7", "__MACOSX/._x.wav": b"\0",
        "gone.json": b'{"label": 1}', "./d/x.wav": sound, "./d/x.cls": "4".encode("utf-16"),
    }  # fmt: skip
    with tarfile.open(corpus / "s.tar", "w") as archive:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    notes = Notes()
    manifest = prepare("tar", corpus, corpus / "m.parquet", notes)
    assert rows(manifest, "utterance_id", "cls", "problem") == [
        ("s.tar/cafe\u0301.wav", 3, None),
        ("s.tar/./d/x.wav", 4, None),
    ]
    assert any("left out: 2 hidden, 1 samples without a recording" in line for line in notes.lines)


def test_compressed_archives_are_named(corpus: Path) -> None:
    (corpus / "s.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(EmptyCorpusError, match=r"no \.tar archive; .* compressed archives cannot be read in place"):
        prepare("tar", corpus, corpus / "m.parquet")
