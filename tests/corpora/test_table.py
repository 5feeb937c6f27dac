from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.trees import Notes, column, prepare, rows, write_audio, write_text
from voxshard.corpora.tables import read_table
from voxshard.errors import ConfigError, DuplicateIdError, EmptyCorpusError, ManifestError


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        write_audio(tmp_path / "c" / "audio" / f"{name}.wav", seconds=1.0)
    return tmp_path / "c"


def prepared(corpus: Path, content: str, name: str = "clips.csv", **settings: Any) -> Any:
    table = write_text(corpus / name, content)
    return prepare("table", table, corpus / "m.parquet", **settings)


def test_paths_are_relative_to_the_table_and_are_the_ids(corpus: Path) -> None:
    manifest = prepared(corpus, "path,split,speaker,age,score\naudio/a.wav,train,007,31,0.5\naudio/b.wav,test,8,,1\n")
    assert manifest.ids == ["audio/a.wav", "audio/b.wav"]
    assert manifest.root == str(corpus)
    assert rows(manifest, "split", "speaker", "age", "score") == [("train", "007", 31, 0.5), ("test", "8", None, 1.0)]
    assert column(manifest, "duration_s") == [1.0, 1.0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.tsv", "path\tlabel\naudio/a.wav\tx, y\n"),
        ("t.csv", "path;label\naudio/a.wav;x, y\n"),
        ("t.csv", 'path,label\naudio/a.wav,"x, y"\n'),
        ("t.csv", '\ufeffpath,label\r\naudio/a.wav,"x, y"\r\n'),
        ("t.csv", ',path,label\n0,audio/a.wav,"x, y"\n'),
    ],
)
def test_tabs_semicolons_quotes_a_byte_order_mark_and_an_unnamed_index_are_read(
    corpus: Path, name: str, content: str
) -> None:
    manifest = prepared(corpus, content, name)
    assert rows(manifest, "path", "label") == [("audio/a.wav", "x, y")]
    assert manifest.label_columns == ["label", "format"]


def test_a_folder_with_one_table_is_prepared_from_it(corpus: Path) -> None:
    write_text(corpus / "clips.tsv", "file\taccent\naudio/c.wav\tnl\n")
    manifest = prepare("table", corpus, corpus / "m" / "m.parquet")
    assert rows(manifest, "utterance_id", "accent") == [("audio/c.wav", "nl")]


def test_a_folder_with_two_tables_asks_which(corpus: Path) -> None:
    write_text(corpus / "a.csv", "path\n")
    write_text(corpus / "b.tsv", "path\n")
    with pytest.raises(ManifestError, match=r": 'a.csv', 'b.tsv'; name the table to prepare$"):
        prepare("table", corpus, corpus / "m.parquet")


def test_parquet_keeps_types(corpus: Path) -> None:
    table = pa.table({"audio_filepath": ["audio/a.wav"], "fold": [3], "tags": [["x", "y"]], "ok": [True]})
    pq.write_table(table, corpus / "t.parquet")
    manifest = prepare("table", corpus / "t.parquet", corpus / "m.parquet")
    assert rows(manifest, "path", "fold", "tags", "ok") == [("audio/a.wav", "3", ["x", "y"], True)]


def test_the_column_of_paths_is_said_and_can_be_chosen(corpus: Path) -> None:
    notes = Notes()
    content = "filename,wav\naudio/a.wav,audio/b.wav\n"
    assert prepared(corpus, content, notes=notes).ids == ["audio/a.wav"]
    assert notes.lines == [f"{corpus}/clips.csv: paths are taken from column filename, not wav"]
    assert prepared(corpus, content, settings={"path_column": "wav"}).ids == ["audio/b.wav"]


def test_a_table_without_paths_names_its_columns(corpus: Path) -> None:
    message = "clips.csv: no column with paths; name it with --set path_column=NAME; it has clip, label"
    with pytest.raises(ManifestError, match=re.escape(message)):
        prepared(corpus, "clip,label\naudio/a.wav,x\n")


def test_unknown_settings_are_refused_with_the_valid_ones(corpus: Path) -> None:
    message = "--set pathcolumn: no such setting of this corpus format; valid: path_column, id_column, audio_root"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        prepared(corpus, "path\naudio/a.wav\n", settings={"pathcolumn": "x"})


def test_audio_may_lie_elsewhere_or_be_absolute(corpus: Path) -> None:
    manifest = prepared(corpus / "lists", "path\na.wav\n", settings={"audio_root": str(corpus / "audio")})
    assert (manifest.root, column(manifest, "problem")) == (str(corpus / "audio"), [None])
    manifest = prepared(corpus / "lists", f"path\n{corpus}/audio/b.wav\n")
    assert rows(manifest, "path", "problem") == [(f"{corpus}/audio/b.wav", None)]


def test_ids_of_the_table_are_taken(corpus: Path) -> None:
    assert prepared(corpus, "utterance_id,path\n001,audio/a.wav\n").ids == ["001"]
    assert prepared(corpus, "clip,path\n7,audio/a.wav\n", settings={"id_column": "clip"}).ids == ["7"]


def test_ids_that_stand_twice_are_refused_by_both_rows(corpus: Path) -> None:
    message = "utterance_id 'x' is in rows 0 ('audio/a.wav') and 1 ('audio/b.wav')"
    with pytest.raises(DuplicateIdError, match=re.escape(message)):
        prepared(corpus, "utterance_id,path\nx,audio/a.wav\nx,audio/b.wav\n")


def test_spans_have_ids_and_durations_of_their_own(corpus: Path) -> None:
    manifest = prepared(
        corpus, "path,start_s,end_s\naudio/a.wav,0,0.25\naudio/a.wav,0.25,\naudio/b.wav,,\naudio/c.wav,,0.5\n"
    )
    assert rows(manifest, "utterance_id", "duration_s", "start_s", "end_s") == [
        ("audio/a.wav@0-0.25", 0.25, 0.0, 0.25),
        ("audio/a.wav@0.25-end", 0.75, 0.25, None),
        ("audio/b.wav", 1.0, None, None),
        ("audio/c.wav@0-0.5", 0.5, None, 0.5),
    ]


def test_a_span_beyond_the_end_is_a_problem_found_now(corpus: Path) -> None:
    manifest = prepared(corpus, "path,start_s,end_s\naudio/a.wav,2,3\naudio/a.wav,0.5,0.75\n")
    assert column(manifest, "problem") == [
        "TooShortError: the span from 2.000 s to 3.000 s is beyond the end of the recording, which is 1.000 s long",
        None,
    ]
    assert column(manifest, "duration_s") == [None, 0.25]


def test_a_span_that_ends_before_it_starts_is_refused(corpus: Path) -> None:
    message = "clips.csv: row 1: start_s=2.0, end_s=1.5; expected 0 <= start_s < end_s, in seconds"
    with pytest.raises(ManifestError, match=re.escape(message)):
        prepared(corpus, "path,start_s,end_s\naudio/a.wav,0,1\naudio/a.wav,2,1.5\n")


def test_missing_files_are_rows_with_a_problem(corpus: Path) -> None:
    manifest = prepared(corpus, "path\naudio/a.wav\naudio/gone.wav\n")
    assert column(manifest, "problem") == [None, "MissingRecordingError: no such file"]
    assert column(prepared(corpus, "path\naudio/gone.wav\n", probe=False), "problem") == [
        "MissingRecordingError: no such file"
    ]


def test_rows_without_a_path_are_refused(corpus: Path) -> None:
    with pytest.raises(ManifestError, match=r"clips.csv: row 1 has no path$"):
        prepared(corpus, "path,label\naudio/a.wav,x\n,y\n")


def test_a_table_without_rows_is_an_empty_corpus(corpus: Path) -> None:
    with pytest.raises(EmptyCorpusError, match=r"clips.csv: a table without rows$"):
        prepared(corpus, "path,label\n")


def test_a_corpus_column_named_format_is_kept(corpus: Path) -> None:
    assert column(prepared(corpus, "path,format\naudio/a.wav,interview\n"), "format") == ["interview"]


def test_numbers_are_numbers_only_where_all_values_are(tmp_path: Path) -> None:
    table = read_table(
        write_text(
            tmp_path / "t.csv",
            "whole,decimal,code,mixed,gaps,words,empty\n1,1.5,01,1,nan,None,\n-2,2e-3,2,x,3.5,a,\n,NaN,3,2,,,\n",
        )
    )
    assert table.to_pydict() == {
        "whole": [1, -2, None],
        "decimal": [1.5, 0.002, None],
        "code": ["01", "2", "3"],
        "mixed": ["1", "x", "2"],
        "gaps": [None, 3.5, None],
        "words": [None, "a", None],
        "empty": [None, None, None],
    }
    assert table.schema.field("empty").type == pa.string()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "t.csv: empty; expected a table with a header line"),
        (b"a,a\n1,2\n", "t.csv: column a appears twice in the header"),
        (b"path,name\nx,caf\xe9\n", "t.csv: column name is not UTF-8; save the table as UTF-8"),
        (b"a,b\n1\n", "t.csv: cannot be read as a table: CSV parse error"),
    ],
)
def test_tables_that_cannot_be_read_say_why(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ManifestError, match=re.escape(message)):
        read_table(tmp_path / "t.csv")


def test_paths_in_a_table_may_be_any_bytes(tmp_path: Path) -> None:
    write_audio(b"%b/caf\xe9.wav" % bytes(tmp_path))
    (tmp_path / "t.csv").write_bytes(b"path,label\ncaf\xe9.wav,x\n")
    manifest = prepare("table", tmp_path / "t.csv", tmp_path / "m.parquet")
    assert rows(manifest, "utterance_id", "path", "problem") == [(r"caf\xe9.wav", b"caf\xe9.wav", None)]
