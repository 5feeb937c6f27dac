"""Names in composed (NFC) and decomposed (NFD) letters: matched where that is unambiguous, with a note."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from support.trees import Notes, column, prepare, write_audio, write_text
from voxshard.errors import ManifestError

NFC = "caf\u00e9"
NFD = unicodedata.normalize("NFD", NFC)
FORMS = pytest.mark.parametrize(("written", "real"), [(NFC, NFD), (NFD, NFC)], ids=["listed NFC", "listed NFD"])
NOTE = "names were matched in the other form of their letters (NFC, NFD), such as "


@FORMS
def test_a_table_names_files_in_the_other_form(tmp_path: Path, written: str, real: str) -> None:
    write_audio(tmp_path / real / f"{real}.wav")
    write_audio(tmp_path / "b.wav")
    table = tmp_path / "t.csv"
    write_text(table, f"path,label\n{written}/{written}.wav,x\nb.wav,y\n")
    notes = Notes()
    manifest = prepare("table", table, tmp_path / "m.parquet", notes)
    assert column(manifest, "problem") == [None, None]
    assert column(manifest, "path") == [f"{real}/{real}.wav", "b.wav"]
    assert column(manifest, "utterance_id") == [f"{written}/{written}.wav", "b.wav"]
    assert any(line.startswith(f"1 {NOTE}") for line in notes.lines)


@FORMS
def test_a_name_that_a_file_has_as_it_is_written_stays(tmp_path: Path, written: str, real: str) -> None:
    for name in (written, real):
        write_audio(tmp_path / f"{name}.wav")
    table = tmp_path / "t.csv"
    write_text(table, f"path\n{written}.wav\n{real}.wav\n")
    notes = Notes()
    manifest = prepare("table", table, tmp_path / "m.parquet", notes)
    assert column(manifest, "path") == [f"{written}.wav", f"{real}.wav"]
    assert not any(NOTE in line for line in notes.lines)


def test_no_file_is_taken_for_two_rows(tmp_path: Path) -> None:
    write_audio(tmp_path / f"{NFD}.wav")
    table = tmp_path / "t.csv"
    write_text(table, f"path\n{NFC}.wav\n{NFD}.wav\n")
    manifest = prepare("table", table, tmp_path / "m.parquet")
    assert column(manifest, "problem") == ["MissingRecordingError: no such file", None]


@FORMS
def test_lists_and_labels_name_files_in_the_other_form(tmp_path: Path, written: str, real: str) -> None:
    for name in (real, "b"):
        write_audio(tmp_path / "c" / f"{name}.wav")
    split, labels = tmp_path / "train.txt", tmp_path / "labels.csv"
    write_text(split, f"{written}\n")
    write_text(labels, f"file,label\n{written}.wav,x\nb.wav,y\n")
    notes = Notes()
    manifest = prepare(
        "folder", tmp_path / "c", tmp_path / "m.parquet", notes, split=(f"train={split}",), labels=str(labels)
    )
    found = dict(zip(column(manifest, "utterance_id"), column(manifest, "label"), strict=True))
    assert found == {f"{real}.wav": "x", "b.wav": "y"}
    assert sum("1 entries match in the other form of their letters" in line for line in notes.lines) == 2
    assert column(manifest, "split") == ["train", None]


def test_an_entry_in_the_other_form_of_two_files_is_refused(tmp_path: Path) -> None:
    name = "\u1e69"  # s with a dot above and one below has two forms that are neither NFC nor NFD
    for other in (unicodedata.normalize("NFD", name), "\u1e63\u0307"):
        write_audio(tmp_path / "c" / f"{other}.wav")
    split = tmp_path / "train.txt"
    write_text(split, f"{name}.wav\n")
    with pytest.raises(ManifestError, match="1 of 1 entries match no utterance"):
        prepare("folder", tmp_path / "c", tmp_path / "m.parquet", split=(f"train={split}",))


@FORMS
def test_uid_folders_in_the_other_form(tmp_path: Path, written: str, real: str) -> None:
    write_audio(tmp_path / real / "waveform.flac")
    write_text(tmp_path / real / "metadata.json", '{"encoding": "FLAC", "sample_rate_hz": 8000}')
    write_text(tmp_path / "train.csv", f"uid,label\n{written},x\n")
    manifest = prepare("uid-folders", tmp_path, tmp_path / "m.parquet")
    assert (column(manifest, "problem"), column(manifest, "encoding")) == ([None], ["FLAC"])


@FORMS
def test_file_lists_in_the_other_form_and_with_another_extension(tmp_path: Path, written: str, real: str) -> None:
    write_audio(tmp_path / "genres" / real / f"{real}.au")
    write_text(tmp_path / "train.txt", f"{written}/{written}.wav\n")
    manifest = prepare("file-lists", tmp_path, tmp_path / "m.parquet")
    assert column(manifest, "path") == [f"genres/{real}/{real}.au"]
    assert column(manifest, "problem") == [None]
