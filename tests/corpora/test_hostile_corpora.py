"""Lists and tables that are damaged, or that no program should have written: rows, or one line; never a traceback."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.trees import Notes, column, prepare, write_audio
from voxshard.errors import EmptyCorpusError, ManifestError

DEEP = "[" * 100_000
RECORDING = (
    '{"id":"r","sources":[{"type":"file","channels":[0],"source":"a.wav"}],"sampling_rate":8000,"duration":0.2}\n'
)
SUPERVISION = '{"id":"s","recording_id":"r","start":0.0,"duration":0.1,"custom":{"mood":"calm"}}\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_audio(tmp_path / "c" / "a.wav", seconds=0.2)
    write_audio(tmp_path / "c" / "u" / "waveform.wav")
    return tmp_path / "c"


def put(root: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def archive_of(**members: str | bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, text in members.items():
            content = text if isinstance(text, bytes) else text.encode()
            about = tarfile.TarInfo(name.replace("__", "."))
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("path,end_s\na.wav,inf\n", "row 0: end_s is inf; expected seconds"),
        ('path,label\na.wav,"x\nb.wav,y\n', "a quotation mark in row 0 is not closed"),
        (b"PK\3\4" + bytes(200), "it looks like a zip archive"),
        (gzip.compress(b"path\na.wav\n"), "it looks like a gzip file"),
        (b"path,utterance_id\na\0.wav,x\n", "line 2 has a zero byte"),
        ("path,label,label\na.wav,x,y\n", "column label appears twice"),
        ("path,label\na.wav\n", "Expected 2 columns, got 1"),
    ],
)
def test_tables_are_refused_in_one_line(root: Path, text: str | bytes, what: str) -> None:
    put(root, {"t.csv": text})
    with pytest.raises(ManifestError, match=what) as raised:
        prepare("table", root / "t.csv", root / "m.parquet")
    assert "\n" not in str(raised.value).strip()


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"path":"a.wav","label":"\\ud800"}', "text that is no Unicode"),
        ('{"path":"a.wav","label":' + DEEP, "no JSON: maximum recursion depth"),
        ('{"path":"a.wav","label":"x","label":"y"}', "the key 'label' is in an object twice"),
        ('{"path":"a.wav","offset":"0","duration":1}', "offset '0', duration 1: expected seconds"),
        ('{"path":"a.wav","offset":0,"duration":true}', "expected seconds"),
        ('{"path":"a.wav","offset":0,"duration":Infinity}', "end_s is inf"),
    ],
)
def test_json_lines_are_refused_in_one_line(root: Path, line: str, what: str) -> None:
    put(root, {"t.jsonl": line + "\n"})
    with pytest.raises(ManifestError, match=what):
        prepare("table", root / "t.jsonl", root / "m.parquet")


def test_damage_inside_a_parquet_table_is_named(root: Path) -> None:
    stream = io.BytesIO()
    table = pa.table({"path": [f"{n}.wav" for n in range(500)], "label": [f"label {n}" for n in range(500)]})
    pq.write_table(table, stream, compression="none")
    content = bytearray(stream.getvalue())
    content[content.find(b"label 250") + 3] = 0xFF
    put(root, {"t.parquet": bytes(content)})
    with pytest.raises(ManifestError, match="cannot be read as a table"):
        prepare("table", root / "t.parquet", root / "m.parquet")


def test_columns_without_a_name_are_left_out_and_counted(root: Path) -> None:
    notes = Notes()
    put(root, {"t.csv": ",path,, \n0,a.wav,x,y\n"})
    manifest = prepare("table", root / "t.csv", root / "m.parquet", notes)
    assert "" not in manifest.table.column_names
    assert f"{root / 't.csv'}: columns without a name are left out: 3, 4" in notes.lines


def test_separators_are_those_that_the_rows_have_too(root: Path) -> None:
    put(root, {"t.csv": "\npath;label, spoken\na.wav;x\n"})
    assert column(prepare("table", root / "t.csv", root / "m.parquet"), "label, spoken") == ["x"]


def test_a_value_of_megabytes_and_a_number_beyond_floats_stay_as_they_are(root: Path) -> None:
    put(root, {"t.csv": f"path,text,number\na.wav,{'x' * 3_000_000},1e400\n"})
    manifest = prepare("table", root / "t.csv", root / "m.parquet")
    assert column(manifest, "text") == ["x" * 3_000_000]
    assert column(manifest, "number") == ["1e400"]


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({"wav.scp": "r\n"}, "r has no path"),
        ({"wav.scp": "r a.wav\n", "segments": "s r 0 inf\n"}, "end_s is inf"),
        ({"wav.scp": b"r\xe9 a.wav\n"}, "in its lists is not UTF-8"),
    ],
)
def test_damaged_kaldi_files_are_one_line(root: Path, files: dict[str, str | bytes], what: str) -> None:
    put(root, files)
    with pytest.raises(ManifestError, match=what):
        prepare("kaldi", root, root / "m.parquet")


def test_kaldi_maps_never_replace_what_prepare_finds_and_words_for_missing_are_missing(root: Path) -> None:
    notes = Notes()
    maps = {"utt2path": "r other.wav\n", "utt2lang": "r NA\n", "text": "r a\u2028b\n"}
    put(root, {"wav.scp": "r a.wav\n".encode("utf-16"), **maps})
    manifest = prepare("kaldi", root, root / "m.parquet", notes)
    assert (column(manifest, "path"), column(manifest, "lang")) == (["a.wav"], [None])
    assert column(manifest, "text") == ["a\u2028b"]
    assert f"{root}: utt2path is left out: a manifest's column path says something else" in notes.lines


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('"duration":0.2', '"duration":"x"', "its duration is 'x'"),
        ('"source":"a.wav"', '"other":1', "its source is no path"),
        ('"channels":[0]', '"channels":3', "its channels are 3"),
        ('"id":"r",', "", "recording 0 has no id"),
        ("a.wav", "\\ud800.wav", "is not UTF-8"),
    ],
)
def test_damaged_lhotse_manifests_are_one_line(root: Path, old: str, new: str, what: str) -> None:
    put(root, {"recordings.jsonl": RECORDING.replace(old, new), "supervisions.jsonl": SUPERVISION})
    with pytest.raises(ManifestError, match=what):
        prepare("lhotse", root, root / "m.parquet")


def test_keys_of_a_supervision_never_replace_what_prepare_finds(root: Path) -> None:
    custom = '"mood":"calm","path":"b.wav","duration_s":"long","problem":"none"'
    put(root, {"recordings.jsonl": RECORDING, "supervisions.jsonl": SUPERVISION.replace('"mood":"calm"', custom)})
    manifest = prepare("lhotse", root, root / "m.parquet")
    assert (column(manifest, "path"), column(manifest, "problem"), column(manifest, "mood")) == (
        ["a.wav"], [None], ["calm"],
    )  # fmt: skip


@pytest.mark.parametrize("text", ['{"a":' + DEEP, '{"a":1,"a":2}', '{"a":"\\ud800"}', "[1]", "{"])
def test_json_in_archives_that_is_none_is_one_line(root: Path, text: str) -> None:
    put(root, {"t.tar": archive_of(u__wav=(root / "a.wav").read_bytes(), u__json=text)})
    with pytest.raises(ManifestError):
        prepare("tar", root, root / "m.parquet")


def test_archives_one_after_the_other_in_one_file_are_read_completely(root: Path) -> None:
    audio = (root / "a.wav").read_bytes()
    put(root, {"t.tar": archive_of(u__wav=audio) + archive_of(v__wav=audio, v__cls="7")})
    manifest = prepare("tar", root, root / "m.parquet")
    assert column(manifest, "utterance_id") == ["t.tar/u.wav", "t.tar/v.wav"]
    assert (column(manifest, "problem"), column(manifest, "cls")) == ([None, None], [None, 7])


def test_a_damaged_header_inside_an_archive_hides_nothing_behind_it(root: Path) -> None:
    audio = (root / "a.wav").read_bytes()
    content = bytearray(archive_of(u__wav=audio, v__wav=audio, w__wav=audio))
    content[content.find(b"v.wav") + 148] ^= 1  # a digit of the checksum
    put(root, {"t.tar": bytes(content)})
    with pytest.raises(ManifestError, match="damaged at byte 4,096: no header of a file"):
        prepare("tar", root, root / "m.parquet")


@pytest.mark.parametrize("text", [DEEP, '{"encoding": "\\ud800"}', b'{"encoding": "\xe9"}'])
def test_metadata_that_is_no_json_is_a_warning(root: Path, text: str | bytes) -> None:
    put(root, {"u/metadata.json": text})
    manifest = prepare("uid-folders", root, root / "m.parquet")
    assert column(manifest, "problem") == [None]
    assert column(manifest, "warning")[0].startswith("metadata.json ")


def test_lists_and_labels_with_empty_names_are_one_line(root: Path) -> None:
    put(root, {"train.csv": "uid,label\nu,1\n,2\n", "labels.csv": "file,label\na.wav,x\n,y\n"})
    with pytest.raises(ManifestError, match="row 1 has no uid"):
        prepare("uid-folders", root, root / "m.parquet")
    with pytest.raises(ManifestError, match="column file: row 1 is empty"):
        prepare("folder", root, root / "m.parquet", labels=str(root / "labels.csv"))
    with pytest.raises(ManifestError, match="column file: row 1 is empty"):
        prepare("folder", root, root / "m.parquet", split=(f"train={root / 'labels.csv'}",))


def test_names_of_labels_may_be_of_any_bytes(root: Path) -> None:
    write_audio(bytes(root) + b"/b\xe9.wav")
    put(root, {"../labels.csv": b"file,label\nb\xe9.wav,x\n"})
    manifest = prepare("folder", root, root / "m.parquet", labels=str(root.parent / "labels.csv"))
    assert dict(zip(column(manifest, "path"), column(manifest, "label"), strict=True))[b"b\xe9.wav"] == "x"


@pytest.mark.parametrize("corpus", ["kaldi", "uid-folders", "file-lists", "asvspoof5", "esc50"])
def test_a_file_for_a_folder_is_one_line(root: Path, corpus: str) -> None:
    with pytest.raises(EmptyCorpusError, match=r"a\.wav: a file; this format reads a folder"):
        prepare(corpus, root / "a.wav", root / "m.parquet")


def test_a_column_of_warnings_that_is_no_text_is_kept_next_to_those_of_prepare(root: Path) -> None:
    content = bytearray((root / "a.wav").read_bytes())
    content[40:44] = (len(content) - 44 + 8).to_bytes(4, "little")
    put(root, {"b.wav": bytes(content), "t.csv": "path,warning\na.wav,5\nb.wav,6\n"})
    manifest = prepare("table", root / "t.csv", root / "m.parquet")
    assert column(manifest, "warning")[0] == "5"
    assert column(manifest, "warning")[1].startswith("6; its header promises 8 more bytes")
