"""Exports and ingested files that cannot be what was asked for."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxshard import open_features
from voxshard.cli import main
from voxshard.errors import (
    ConfigError,
    CorruptFileError,
    DataError,
    DuplicateIdError,
    FeatureMismatchError,
    IdentityError,
    ManifestError,
)
from voxshard.progress import Silent
from voxshard.store import foreign_json
from voxshard.store.export import ExportConfig, export
from voxshard.store.features import FeatureSet, is_stale
from voxshard.store.ingest import IngestConfig, ingest


def read(out: Path, *inputs: object) -> FeatureSet:
    ingest(IngestConfig(inputs=tuple(map(str, inputs)), out=out), Silent(), lambda: None)
    return open_features(out)


def refused(error: type[Exception], out: Path, *inputs: object) -> str:
    with pytest.raises(error) as caught:
        read(out, *inputs)
    assert not (out / "features.h5").exists()
    return str(caught.value)


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_windows_of_one_id_become_one_utterance_with_its_label(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float64).reshape(6, 2)
    file = npz(tmp_path / "w.npz", X=values, Y=np.array([1, 1, 1, 0, 0, 1]), IDS=np.array(list("aaabbc")))
    features = read(tmp_path / "set", f"train={file}")
    assert features.granularity == "windows"
    assert features.ids == ["a", "b", "c"]
    assert features.frames("b").tolist() == [[6, 7], [8, 9]]
    assert features.frames("b").dtype == np.float32
    assert features.table["label"].to_pylist() == [1, 0, 1]
    assert features.table["split"].to_pylist() == ["train"] * 3
    assert features.table["num_frames"].to_pylist() == [3, 2, 1]


def test_windows_that_stand_apart_or_disagree_are_refused(tmp_path: Path) -> None:
    values = np.ones((3, 2))
    file = npz(tmp_path / "w.npz", X=values, Y=np.zeros(3), IDS=np.array(list("aba")))
    assert refused(FeatureMismatchError, tmp_path / "set", file) == (
        f"{file}: windows of 'a' are in several places; sort the rows by IDS"
    )
    file = npz(tmp_path / "y.npz", X=values, Y=np.array([0, 1, 1]), IDS=np.array(list("aab")))
    assert "windows of 'a' have several labels" in refused(FeatureMismatchError, tmp_path / "set", file)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    objects = np.array([np.ones(2), np.ones(3)], object)
    file = npz(tmp_path / "x.npz", X=objects, ids=np.array(["a", "b"]))
    assert refused(FeatureMismatchError, tmp_path / "set", file) == (
        f"{file} (X): an array of Python objects, which only pickle can read, and pickle can run any program; "
        "save it as numbers or text: numpy.stack for arrays, .astype(str) for names"
    )
    file = npz(tmp_path / "ids.npz", X=np.ones((2, 2)), ids=np.array(["a", "b"], object))
    assert "(ids): an array of Python objects" in refused(FeatureMismatchError, tmp_path / "set", file)
    np.save(tmp_path / "o.npy", objects)
    (tmp_path / "o.csv").write_text("utterance_id\na\nb\n")
    assert "an array of Python objects" in refused(FeatureMismatchError, tmp_path / "set", tmp_path / "o.npy")


def test_nan_becomes_a_failure_and_zeros_a_warning(tmp_path: Path) -> None:
    values = np.array([[1, 2], [np.nan, 0], [0, 0]], np.float32)
    features = read(tmp_path / "set", npz(tmp_path / "x.npz", X=values, ids=np.array(["a", "b", "c"])))
    assert features.ids == ["a", "c"]
    (failure,) = features.failures
    assert (failure["utterance_id"], failure["error"]) == ("b", "NonFiniteEmbeddingError")
    assert failure["message"] == "embedding: 1 of 2 values are NaN or infinite"
    assert features.summary["warnings"] == ["nothing but zeros: 1 utterance"]


def test_npy_takes_ids_and_rows_from_the_csv_beside_it(tmp_path: Path) -> None:
    np.save(tmp_path / "test.npy", np.arange(8, dtype=np.float64).reshape(4, 2))
    (tmp_path / "test_metadata.csv").write_text(
        'path,label,speaker,embedding_idx,snr_db,note\n'
        '"a, b.wav",spoof,007,3,1.5,\nc.wav,,012,0,-2e1,x\n'
    )  # fmt: skip
    features = read(tmp_path / "set", f"test={tmp_path}/test.npy")
    assert features.ids == ["a, b.wav", "c.wav"]
    assert features["a, b.wav"].tolist() == [6, 7]
    table = features.table
    assert table["label"].to_pylist() == ["spoof", None]
    assert table["speaker"].to_pylist() == ["007", "012"]
    assert table["snr_db"].to_pylist() == [1.5, -20.0]
    assert "embedding_idx" not in table.column_names


def test_npy_without_a_csv_says_which_one_it_wants(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((2, 2)))
    assert refused(ManifestError, tmp_path / "set", tmp_path / "x.npy") == (
        f"{tmp_path}/x.npy: no x_metadata.csv or x.csv next to it, so it is unknown whose rows these are"
    )
    (tmp_path / "x.csv").write_text("utterance_id\na\n")
    assert refused(FeatureMismatchError, tmp_path / "set", tmp_path / "x.npy") == (
        f"{tmp_path}/x.npy: 2 rows, x.csv has 1, and no column embedding_idx"
    )
    (tmp_path / "x.csv").write_text("utterance_id,embedding_idx\na,2\n")
    assert "embedding_idx goes from 2 to 2, x.npy has 2 rows" in refused(
        FeatureMismatchError, tmp_path / "set", tmp_path / "x.npy"
    )


def test_a_file_against_its_sha256sums_is_refused(tmp_path: Path) -> None:
    file = npz(tmp_path / "x.npz", X=np.ones((1, 2)), ids=np.array(["a"]))
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  other\n{hashlib.sha256(file.read_bytes()).hexdigest()}  x.npz\n")
    assert len(read(tmp_path / "good", file)) == 1
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64} *x.npz\n")
    assert refused(CorruptFileError, tmp_path / "set", file) == (
        f"{file}: does not match its SHA-256 in {tmp_path}/SHA256SUMS; copy it again"
    )


def test_an_id_in_two_files_is_named_with_both(tmp_path: Path) -> None:
    one = npz(tmp_path / "1.npz", X=np.ones((1, 2)), ids=np.array(["a"]))
    two = npz(tmp_path / "2.npz", X=np.ones((1, 2)), ids=np.array(["a"]))
    assert refused(DuplicateIdError, tmp_path / "set", one, two) == (
        f"utterance 'a' is in {one} and again in {two}; ids must be unique"
    )


def test_files_of_different_features_are_refused(tmp_path: Path) -> None:
    one = npz(tmp_path / "1.npz", X=np.ones((1, 2)), ids=np.array(["a"]))
    two = npz(tmp_path / "2.npz", X=np.ones((1, 3)), ids=np.array(["b"]))
    assert refused(FeatureMismatchError, tmp_path / "set", one, two) == (
        f"{two}: 'b' has embedding of (3,), the first utterance embedding of (2,); "
        "(D,) or (L, D) is wanted, everywhere the same"
    )
    three = npz(tmp_path / "3.npz", X=np.ones((1, 2)), ids=np.array(["c"]), offsets=np.array([0, 1]))
    assert refused(FeatureMismatchError, tmp_path / "set", one, three) == (
        "files with frames and utterance cannot be in one set; ingest them apart"
    )


def test_the_same_files_again_are_fine_others_are_refused(tmp_path: Path) -> None:
    one = npz(tmp_path / "1.npz", X=np.ones((1, 2)), ids=np.array(["a"]))
    two = npz(tmp_path / "2.npz", X=np.zeros((1, 2)), ids=np.array(["a"]))
    first = read(tmp_path / "set", one)
    assert read(tmp_path / "set", one).fingerprint == first.fingerprint
    with pytest.raises(IdentityError, match="was made with other inputs"):
        read(tmp_path / "set", two)
    assert open_features(tmp_path / "set")["a"].tolist() == [1, 1]
    assert not is_stale(tmp_path / "set")


def test_an_ingested_set_verifies_and_needs_no_merge(tmp_path: Path) -> None:
    read(tmp_path / "set", npz(tmp_path / "1.npz", X=np.ones((1, 2)), ids=np.array(["a"])))
    main(["verify", str(tmp_path / "set")])
    with pytest.raises(SystemExit) as caught:
        main(["merge", str(tmp_path / "set")])
    assert caught.value.code == 3


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("[1, 2]", FeatureMismatchError, "starts with '['; an object is wanted: {'utterance_id': [[...], ...]}"),
        ('{"a": [[1, 2]', CorruptFileError, "not JSON, or truncated: Expecting ',' delimiter"),
        ('{"a": [[1, 2]]', CorruptFileError, "ends in the middle; truncated"),
        ('{"a": [[1, 2], [3]]}', FeatureMismatchError, "'a' is not a table of numbers"),
        ('{"a": "x"}', FeatureMismatchError, "'a' is not a table of numbers"),
        ('{"a": 1}', FeatureMismatchError, "'a' is 1.0; a list of numbers, or of such lists, is wanted"),
        ("{}", ManifestError, "no utterances in it"),
    ],
)
def test_json_that_is_something_else_is_refused(tmp_path: Path, text: str, error: Any, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    assert refused(error, tmp_path / "set", tmp_path / "x.json").startswith(f"{tmp_path}/x.json: {message}")


def test_json_members_may_straddle_any_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {f'ü/{n}\n"': [[n, 0.5], [1e-7, -2.25]] for n in range(50)}
    (tmp_path / "x.json").write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    for size in (1, 7, 64):
        monkeypatch.setattr(foreign_json, "_JSON_BYTES", size)
        assert dict(foreign_json._json_items(tmp_path / "x.json")) == content


def test_damaged_and_unknown_files_are_named(tmp_path: Path) -> None:
    file = npz(tmp_path / "x.npz", X=np.ones((100, 2)), ids=np.array([f"u{n}" for n in range(100)]))
    file.write_bytes(file.read_bytes()[:-300])
    assert (
        refused(CorruptFileError, tmp_path / "set", file)
        == f"{file}: cannot be read: BadZipFile: File is not a zip file"
    )
    (tmp_path / "x.pt").write_bytes(b"")
    assert refused(ManifestError, tmp_path / "set", tmp_path / "x.pt") == (
        f"{tmp_path}/x.pt: not a format that can be ingested; these are: .npy, .npz, .json, .parquet, .tsv"
    )
    file = npz(tmp_path / "y.npz", embeddings=np.ones(2))
    assert refused(ManifestError, tmp_path / "set", file) == (
        f"{file}: holds embeddings; X and ids are wanted (or X, Y and IDS)"
    )
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as archive:
        archive.writestr("X.npy", b"nonsense")
        archive.writestr("ids.npy", b"nonsense")
    assert "cannot be read" in refused(CorruptFileError, tmp_path / "set", tmp_path / "z.npz")


def write(made: Any, out: Path, to: str, **options: Any) -> list[Path]:
    return export(ExportConfig(features=made.path, format=to, out=out, **options), Silent(), lambda: None)


@pytest.fixture
def made(make_set: Any) -> Any:
    made = make_set({name: {"frames": np.ones((2, 2))} for name in "abc"}, splits=["train", "train", "test"],
                    shards=[0, 0, 1])  # fmt: skip
    made.write()
    made.merge()
    return made


def test_exports_that_cannot_be_say_why(made: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        write(made, tmp_path / "npy", "npy")
    assert str(caught.value) == (
        f"--format npy: has one row per utterance, {made.path} holds frames; "
        "use json, npz or parquet, or extract with --set pooling=mean"
    )
    with pytest.raises(DataError) as caught_split:
        write(made, tmp_path / "x.json", "json", split="dev")
    assert str(caught_split.value) == f"{made.path}: no utterance has split 'dev'; splits here: train, test"
    with pytest.raises(ConfigError, match="--label emotion: no such column; columns here: utterance_id, path,"):
        write(made, tmp_path / "x.npz", "npz", label="emotion")
    with pytest.raises(ConfigError, match="only npz takes it"):
        write(made, tmp_path / "x.json", "json", label="split")
    assert not list(tmp_path.glob("x.*"))


def test_one_split_can_be_exported(made: Any, tmp_path: Path) -> None:
    write(made, tmp_path / "x.json", "json", split="train")
    assert list(json.loads((tmp_path / "x.json").read_text())) == ["a", "b"]


def test_the_commands_end_to_end(made: Any, tmp_path: Path, capsys: Any) -> None:
    main(["export", str(made.path), "--format", "npz", "--out", str(tmp_path / "x.npz"), "--label", "split"])
    main(["ingest", str(tmp_path / "x.npz"), "--out", str(tmp_path / "set")])
    said = capsys.readouterr().err
    assert said.endswith(f"{tmp_path / 'set'}: 3 utterances, 0 failures; 0.00 h of audio, packed\n")
    assert open_features(tmp_path / "set").table["label"].to_pylist() == ["train", "train", "test"]
    main(["merge", str(made.path), "--mode", "index"])
    assert capsys.readouterr().err.endswith(f"{made.path}: 3 utterances, 0 failures; 0.01 h of audio, index\n")


def test_an_ingestion_overwrites_no_manifest_in_a_folder_of_other_things(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=np.ones((2, 3), np.float32), ids=np.array(["a", "b"]))
    (tmp_path / "manifest.parquet").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="would be replaced, and it is no feature set"):
        ingest(IngestConfig(inputs=(str(tmp_path / "a.npz"),), out=tmp_path), Silent(), lambda: None)
    assert (tmp_path / "manifest.parquet").read_bytes() == b"mine"
