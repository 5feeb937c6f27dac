"""Tables, trees and lists as people have them: read, or refused in one line; no value changed in silence."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import pytest

from support.trees import Notes, column, prepare, rows, write_audio, write_text
from voxshard.corpora.tables import read_table
from voxshard.errors import EmptyCorpusError, ManifestError

CAFE = "caf\u00e9"
NFD = unicodedata.normalize("NFD", CAFE)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        write_audio(tmp_path / "c" / f"{name}.wav", seconds=0.2)
    return tmp_path / "c"


def of_text(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize(("name", "separator"), [("t.csv", ","), ("t.tsv", "\t"), ("t.csv", "\t")])
def test_excels_unicode_text_is_read(corpus: Path, encoding: str, name: str, separator: str) -> None:
    mark = "\ufeff" if encoding.endswith("be") else ""
    text = mark + f"path{separator}label\r\na.wav{separator}fr\u00f6hlich\r\nb.wav{separator}sad\r\n"
    manifest = prepare("table", of_text(corpus / name, text, encoding), corpus / "m.parquet")
    assert rows(manifest, "path", "label", "problem") == [("a.wav", "fr\u00f6hlich", None), ("b.wav", "sad", None)]


@pytest.mark.parametrize("where", ["header", "values"])
def test_latin_1_is_refused_in_one_line(corpus: Path, where: str) -> None:
    text = "path,Gef\u00fchl\na.wav,x\n" if where == "header" else "path,label\na.wav,gl\u00fccklich\n"
    table = of_text(corpus / "t.csv", text, "latin-1")
    what = "its header" if where == "header" else "column label"
    with pytest.raises(ManifestError) as caught:
        prepare("table", table, corpus / "m.parquet")
    assert str(caught.value).startswith(f"{table}: {what} is not UTF-8; save the table as UTF-8 (byte 0xfc")
    assert "iconv -f WINDOWS-1252 -t UTF-8" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (["123456789012345678", "2"], int, [123456789012345678, 2]),
        (["1234567890123456781", "1234567890123456782"], int, [1234567890123456781, 1234567890123456782]),
        (["9223372036854775808", "1"], str, ["9223372036854775808", "1"]),
        (["12345678901234567890123", "7"], str, ["12345678901234567890123", "7"]),
        (["1234567890123456781", "1.5"], str, ["1234567890123456781", "1.5"]),
        (["1234567890123456781", "nan"], int, [1234567890123456781, None]),
        (["1.5", "2"], float, [1.5, 2.0]),
    ],
)
def test_long_whole_numbers_keep_all_their_digits(
    tmp_path: Path, values: list[str], kind: type, expected: list[object]
) -> None:
    table = read_table(of_text(tmp_path / "t.csv", "session\n" + "\n".join(values) + "\n"))
    assert table["session"].to_pylist() == expected
    assert isinstance(table["session"][0].as_py(), kind)


def test_types_are_decided_once_for_all_lists_of_a_corpus(tmp_path: Path) -> None:
    for uid in ("u1", "u2", "u3", "u4"):
        write_audio(tmp_path / "c" / uid / "waveform.wav")
    write_text(tmp_path / "c" / "train.csv", "uid,codec,room\nu1,NA,1\nu2,NA,2\n")
    write_text(tmp_path / "c" / "test.csv", "uid,codec,room\nu3,NA,3\nu4,C01,4b\n")
    notes = Notes()
    manifest = prepare("uid-folders", tmp_path / "c", tmp_path / "m.parquet", notes)
    assert rows(manifest, "codec", "room") == [(None, "1"), (None, "2"), (None, "3"), ("C01", "4b")]
    assert f"{tmp_path}/c/train.csv, column codec: 2 values count as missing: NA" in notes.lines


@pytest.mark.parametrize("word", ["nan", "NaN", "NAN", "NA", "N/A", "<NA>", "#N/A", "null", "NULL", "None", "-nan"])
def test_words_for_missing_labels_are_missing_and_named(corpus: Path, word: str) -> None:
    notes = Notes()
    table = of_text(corpus / "t.csv", f"path,label\na.wav,{word}\nb.wav,happy\nc.wav,sad\n")
    manifest = prepare("table", table, corpus / "m.parquet", notes)
    assert column(manifest, "label") == [None, "happy", "sad"]
    assert f"{table}, column label: 1 value counts as missing: {word}" in notes.lines


def test_a_recording_may_be_called_like_a_missing_value(tmp_path: Path) -> None:
    write_audio(tmp_path / "c" / "NA")
    table = of_text(tmp_path / "c" / "t.csv", "utterance_id,path\nnan,NA\n")
    assert rows(prepare("table", table, tmp_path / "m.parquet"), "utterance_id", "path") == [("nan", "NA")]


def test_blanks_around_labels_and_column_names_are_removed_with_a_note(corpus: Path) -> None:
    notes = Notes()
    table = of_text(corpus / "t.csv", "path, label\na.wav, one\nb.wav,one \nc.wav, two\n")
    manifest = prepare("table", table, corpus / "m.parquet", notes)
    assert column(manifest, "label") == ["one", "one", "two"]
    assert f"{table}: blanks around column names are removed, their letters composed: label" in notes.lines
    assert f"{table}, column label: blanks around 3 values are removed" in notes.lines


def test_labels_in_two_forms_of_unicode_are_one_class_with_a_note(corpus: Path) -> None:
    notes = Notes()
    table = of_text(corpus / "t.csv", f"path,label\na.wav,{CAFE}\nb.wav,{NFD}\n")
    manifest = prepare("table", table, corpus / "m.parquet", notes)
    assert column(manifest, "label") == [CAFE, CAFE]
    assert f"{table}, column label: the letters of 1 values are composed (NFD to NFC)" in notes.lines


@pytest.mark.parametrize(
    ("written", "real", "what"),
    [
        ("sub\\x.wav", "sub/x.wav", "has slashes instead of backslashes"),
        ("SUB/X.WAV", "sub/x.wav", "differs in upper and lower case"),
        ("x.wav ", "x.wav", "has no blanks around it"),
    ],
)
def test_a_name_written_in_another_way_than_the_files_gets_a_hint(
    tmp_path: Path, written: str, real: str, what: str
) -> None:
    write_audio(tmp_path / "c" / real)
    notes = Notes()
    table = of_text(tmp_path / "c" / "t.csv", f"path,label\n{written},x\n")
    manifest = prepare("table", table, tmp_path / "m.parquet", notes)
    assert column(manifest, "problem") == ["MissingRecordingError: no such file"]
    assert notes.lines[-1].startswith(f"1 of 1 missing recordings exist under a name that {what}")


@pytest.mark.parametrize(
    ("written", "what"),
    [
        ("C:\\data\\x.wav", "backslashes"),
        (" x.wav", "blanks around them"),
        ("\u200bx.wav", "invisible characters"),
        (NFD + ".wav", "letters that Unicode writes in two ways (NFC, NFD)"),
    ],
)
def test_an_odd_name_in_a_bucket_gets_a_hint_without_a_listing(corpus: Path, written: str, what: str) -> None:
    notes = Notes()
    of_text(corpus / "t.csv", f'path,label\n"{written}",x\na.wav,y\n')
    prepare("table", f"file://{corpus}/t.csv", corpus / "m.parquet", notes)
    assert notes.lines[-1].startswith(f"1 of 1 missing recordings have names with {what}, such as ")


def test_entries_of_a_list_that_are_written_in_another_way_are_named(corpus: Path) -> None:
    split = of_text(corpus / "train.txt", "A.WAV\nb.wav\n")
    with pytest.raises(ManifestError, match="1 match but for blanks, backslashes, or upper and lower case"):
        prepare("folder", corpus, corpus / "m.parquet", split=(f"train={split}",))


@pytest.mark.parametrize("columns", ["start,end", "offset,duration"])
def test_columns_that_may_be_spans_are_named(corpus: Path, columns: str) -> None:
    notes = Notes()
    manifest = prepare("table", of_text(corpus / "t.csv", f"path,{columns}\na.wav,0.0,0.1\n"), corpus / "m.pq", notes)
    assert column(manifest, "end_s") == [None]
    assert any("in columns named start_s and end_s make a row a span" in line for line in notes.lines)


@pytest.mark.parametrize("encoding", [1, ["WAV"], None, "WAV"])
@pytest.mark.parametrize("rate", ["1e30", "Infinity", "NaN", "-5", '"16 kHz"', "[8000]", "8000"])
def test_odd_values_of_metadata_json_are_warnings(tmp_path: Path, encoding: object, rate: str) -> None:
    write_audio(tmp_path / "c" / "u" / "waveform.wav")
    content = f'{{"encoding": {json.dumps(encoding)}, "sample_rate_hz": {rate}}}'
    write_text(tmp_path / "c" / "u" / "metadata.json", content)
    manifest = prepare("uid-folders", tmp_path / "c", tmp_path / "m.parquet")
    assert column(manifest, "problem") == [None]
    is_fine = rate == "8000" and (encoding is None or encoding == "WAV")
    assert (column(manifest, "warning") == [None]) is is_fine


def test_links_to_themselves_and_to_each_other_are_left_out_and_named(corpus: Path) -> None:
    (corpus / "self").symlink_to("self")
    (corpus / "self.wav").symlink_to("self.wav")
    (corpus / "x").symlink_to("y")
    (corpus / "y").symlink_to("x")
    notes = Notes()
    manifest = prepare("folder", corpus, corpus / "m.parquet", notes)
    assert manifest.ids == ["a.wav", "b.wav", "c.wav"]
    left_out = next(line for line in notes.lines if "lead back to themselves" in line)
    assert "4 links" in left_out
    assert "self" in left_out


def test_a_link_to_itself_does_not_stop_other_formats(corpus: Path) -> None:
    (corpus / "self").symlink_to("self")
    with pytest.raises(EmptyCorpusError, match="no metadata/UrbanSound8K"):
        prepare("urbansound8k", corpus, corpus / "m.parquet")


@pytest.mark.parametrize("name", ["manifest.jsonl", "manifest.json", "list.json"])
def test_a_nemo_manifest_is_read(corpus: Path, name: str) -> None:
    entries = [
        {"audio_filepath": f"{stem}.wav", "duration": 0.2, "label": label, "text": None}
        for stem, label in (("a", "yes"), ("b", "no"), ("c", "yes"))
    ]
    lines = json.dumps(entries) if name.startswith("list") else "\n".join(map(json.dumps, entries)) + "\n"
    manifest = prepare("table", of_text(corpus / name, lines), corpus / "m.parquet")
    assert rows(manifest, "path", "label", "duration_s") == [
        ("a.wav", "yes", 0.2),
        ("b.wav", "no", 0.2),
        ("c.wav", "yes", 0.2),
    ]


def test_offsets_of_a_nemo_manifest_are_spans(corpus: Path) -> None:
    lines = [
        {"audio_filepath": "a.wav", "offset": 0.0, "duration": 0.1, "label": "yes"},
        {"audio_filepath": "a.wav", "offset": 0.1, "duration": 0.1, "label": "no"},
    ]
    manifest = prepare("table", of_text(corpus / "m.jsonl", "\n".join(map(json.dumps, lines))), corpus / "m.parquet")
    assert rows(manifest, "utterance_id", "start_s", "end_s", "label", "problem") == [
        ("a.wav@0-0.1", 0.0, 0.1, "yes", None),
        ("a.wav@0.1-0.2", 0.1, 0.2, "no", None),
    ]


@pytest.mark.parametrize(("line", "what"), [("{broken", "line 2: no JSON"), ("[1]", "line 2: no JSON object")])
def test_a_line_that_is_no_object_is_named(corpus: Path, line: str, what: str) -> None:
    table = of_text(corpus / "m.jsonl", '{"path": "a.wav"}\n' + line + "\n")
    with pytest.raises(ManifestError, match=what):
        prepare("table", table, corpus / "m.parquet")


def test_gtzan_as_its_users_have_it(tmp_path: Path) -> None:
    """Lists below index/GTZAN that name .wav; the archive's files are .au."""
    root = tmp_path / "data"
    for name in ("blues/blues.00000", "blues/blues.00001", "rock/rock.00000"):
        write_audio(root / "GTZAN" / "genres" / f"{name}.au", kind="AU")
    write_text(root / "index" / "GTZAN" / "train_filtered.txt", ["blues/blues.00000.wav", "rock/rock.00000.wav"])
    write_text(root / "index" / "GTZAN" / "test_filtered.txt", ["blues/blues.00001.wav"])
    notes = Notes()
    manifest = prepare("file-lists", root, tmp_path / "m.parquet", notes)
    assert rows(manifest, "path", "split", "label", "problem") == [
        ("GTZAN/genres/blues/blues.00000.au", "train", "blues", None),
        ("GTZAN/genres/rock/rock.00000.au", "train", "rock", None),
        ("GTZAN/genres/blues/blues.00001.au", "test", "blues", None),
    ]
    assert "3 names were matched without their extension" in notes.lines[2]


def test_a_name_that_two_files_fit_is_not_guessed(tmp_path: Path) -> None:
    for name in ("x.au", "x.flac", "y.au"):
        write_audio(tmp_path / "c" / "blues" / name, kind="AU")
    write_text(tmp_path / "c" / "train.txt", ["blues/x.wav", "blues/y.wav"])
    manifest = prepare("file-lists", tmp_path / "c", tmp_path / "m.parquet")
    assert rows(manifest, "path", "problem") == [
        ("blues/x.wav", "MissingRecordingError: no such file"),
        ("blues/y.au", None),
    ]


def test_an_unreadable_folder_does_not_stop_a_corpus(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_audio(corpus / "closed" / "d.wav")
    really = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return really(path)

    monkeypatch.setattr("voxshard.corpora.walk.os.scandir", scandir)
    notes = Notes()
    assert len(prepare("folder", corpus, corpus / "m.parquet", notes)) == 3
    assert notes.lines == ["left out, since they may not be listed: 1 of the folders, 'closed'"]
