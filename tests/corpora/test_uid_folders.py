from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from support.trees import Notes, column, prepare, rows, write_audio, write_text
from voxshard.errors import DuplicateIdError, EmptyCorpusError


def recording(root: Path, uid: str, about: Any = None, kind: str = "WAV", sample_rate: int = 16000) -> None:
    """A uid folder as README of dwiepert/naip-w2v2, "Data structure", describes it."""
    write_audio(root / uid / f"waveform.{kind.lower()}", kind=kind, sample_rate=sample_rate)
    if about is None:
        about = {"encoding": kind, "sample_rate_hz": sample_rate, "extra": {"device": "phone"}}
    write_text(root / uid / "metadata.json", about if isinstance(about, str) else json.dumps(about))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    root = tmp_path / "c"
    for uid in ("0001", "0002", "0003", "0004"):
        recording(root, uid, kind="MP3" if uid == "0003" else "WAV")
    write_text(root / "train.csv", "uid,subject,distortions,hoarse\n0002,s1,1,0.5\n0001,s2,0,\n")
    write_text(root / "test.csv", "uid,subject,distortions,hoarse\n0003,s3,NaN,2\n")
    return root


def test_lists_give_order_splits_and_labels_with_gaps(corpus: Path, tmp_path: Path) -> None:
    notes = Notes()
    manifest = prepare("uid-folders", corpus, tmp_path / "m.parquet", notes)
    assert manifest.ids == column(manifest, "uid") == ["0002", "0001", "0003"]
    assert rows(manifest, "path", "split", "subject", "distortions", "hoarse") == [
        ("0002/waveform.wav", "train", "s1", 1, 0.5),
        ("0001/waveform.wav", "train", "s2", 0, None),
        ("0003/waveform.mp3", "test", "s3", None, 2.0),
    ]
    assert rows(manifest, "encoding", "sample_rate_hz", "sample_rate", "warning", "problem")[2] == (
        "MP3", 16000, 16000, None, None,
    )  # fmt: skip
    assert notes.lines == [f"split train: {corpus}/train.csv", f"split test: {corpus}/test.csv"]


def test_a_validation_list_is_optional(corpus: Path, tmp_path: Path) -> None:
    write_text(corpus / "val.csv", "uid,subject,distortions,hoarse\n0004,s4,1,1\n")
    manifest = prepare("uid-folders", corpus, tmp_path / "m.parquet")
    assert rows(manifest, "uid", "split")[-1] == ("0004", "val")


def test_lists_may_lie_elsewhere(corpus: Path, tmp_path: Path) -> None:
    path = write_text(tmp_path / "splits" / "a.csv", "uid,label\n0004,x\n")
    manifest = prepare("uid-folders", corpus, tmp_path / "m.parquet", split=(f"train={path}",))
    assert rows(manifest, "uid", "split", "label") == [("0004", "train", "x")]


def test_without_lists_every_uid_folder_is_a_row(corpus: Path, tmp_path: Path) -> None:
    (corpus / "train.csv").unlink()
    (corpus / "test.csv").unlink()
    manifest = prepare("uid-folders", corpus, tmp_path / "m.parquet")
    assert manifest.ids == ["0001", "0002", "0003", "0004"]
    assert column(manifest, "split") == [None] * 4


def test_a_study_is_a_folder_and_a_column(tmp_path: Path) -> None:
    recording(tmp_path / "c" / "amr", "u1")
    recording(tmp_path / "c" / "other", "u2")
    manifest = prepare("uid-folders", tmp_path / "c", tmp_path / "m.parquet", study="amr")
    assert rows(manifest, "utterance_id", "path", "study") == [("u1", "amr/u1/waveform.wav", "amr")]


def test_metadata_that_disagrees_is_a_warning_and_the_header_wins(tmp_path: Path) -> None:
    root = tmp_path / "c"
    recording(root, "bad_rate", {"encoding": "WAV", "sample_rate_hz": 44100})
    recording(root, "bad_kind", {"encoding": "MP3", "sample_rate_hz": 16000})
    recording(root, "fine", {"encoding": "LINEAR16", "sample_rate_hz": "16000"})
    recording(root, "no_facts", {})
    recording(root, "no_json", "this is {no} json")
    recording(root, "none")
    (root / "none" / "metadata.json").unlink()
    recording(root, "two")
    write_audio(root / "two" / "waveform.flac", kind="FLAC", sample_rate=16000)
    manifest = prepare("uid-folders", root, tmp_path / "m.parquet")
    warnings = dict(rows(manifest, "utterance_id", "warning"))
    assert warnings.pop("no_json").startswith("metadata.json cannot be read: ")
    assert warnings == {
        "bad_rate": "metadata.json states 44100 Hz, the header 16000 Hz",
        "bad_kind": "metadata.json states encoding MP3, the file is wav",
        "fine": None,
        "no_facts": None,
        "none": "no metadata.json",
        "two": "several recordings, waveform.flac is taken; metadata.json states encoding WAV, the file is flac",
    }
    assert set(column(manifest, "sample_rate")) == {16000}


def test_without_probe_metadata_is_kept_and_not_judged(corpus: Path, tmp_path: Path) -> None:
    manifest = prepare("uid-folders", corpus, tmp_path / "m.parquet", probe=False)
    assert rows(manifest, "encoding", "sample_rate_hz", "sample_rate", "warning")[0] == ("WAV", 16000, None, None)


def test_a_uid_without_a_folder_is_a_row_with_a_problem(corpus: Path, tmp_path: Path) -> None:
    write_text(corpus / "test.csv", "uid,subject\nnowhere,s9\n")
    manifest = prepare("uid-folders", corpus, tmp_path / "m.parquet")
    assert rows(manifest, "utterance_id", "problem")[-1] == ("nowhere", "MissingRecordingError: no such file")


def test_a_uid_in_two_lists_is_refused_by_both(corpus: Path, tmp_path: Path) -> None:
    write_text(corpus / "test.csv", "uid\n0001\n")
    message = f"uid '0001' is in {corpus}/train.csv and in {corpus}/test.csv; a recording has one row and one split"
    with pytest.raises(DuplicateIdError, match=f"^{re.escape(message)}$"):
        prepare("uid-folders", corpus, tmp_path / "m.parquet")


def test_neither_lists_nor_folders_is_an_empty_corpus(tmp_path: Path) -> None:
    write_audio(tmp_path / "c" / "x.wav")
    message = (
        f"{tmp_path}/c: neither train.csv and test.csv nor folders with a waveform.<ext>; found 1 .wav; "
        "name the lists with --split NAME=FILE"
    )
    with pytest.raises(EmptyCorpusError, match=f"^{re.escape(message)}$"):
        prepare("uid-folders", tmp_path / "c", tmp_path / "m.parquet")
