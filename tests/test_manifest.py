from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxshard import manifest as manifests
from voxshard.errors import DuplicateIdError, FormatVersionError, ManifestError
from voxshard.manifest import COLUMNS, Manifest, ManifestFile, Utterance

ODD = ["a/b c.wav", "quo\"te's.wav", "new\nline.wav", "größe 語.wav", "tab\t.wav", "😀.wav", r"caf\xe9.wav"]

CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])  # of ids


def made(*rows: Mapping[str, object], root: str = "/r") -> Manifest:
    return Manifest.from_rows(rows, root=root, corpus="folder")


def rows_of(ids: list[str]) -> list[dict[str, object]]:
    return [{"utterance_id": name, "path": name} for name in ids]


def test_fixed_columns_come_first_in_their_types_and_labels_after_them() -> None:
    manifest = made({"label": "x", "path": "a.wav", "num_bytes": 5, "utterance_id": "a", "fold": "1"})
    assert manifest.table.column_names == [*COLUMNS, "label"]
    assert [manifest.table.schema.field(name).type for name in COLUMNS] == list(COLUMNS.values())
    assert manifest.label_columns == ["label"]
    assert manifest.table["duration_s"].to_pylist() == [None]


def test_rows_may_lack_keys_and_columns_without_values_are_text() -> None:
    manifest = made({"utterance_id": "a", "path": "a", "x": 1}, {"utterance_id": "b", "path": "b", "y": None})
    assert manifest.table["x"].to_pylist() == [1, None]
    assert manifest.table.schema.field("y").type == pa.string()


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    manifest = made(*rows_of(ODD), root="/data/caf\udce9")
    manifest.write(tmp_path / "m.parquet")
    again = Manifest.read(tmp_path / "m.parquet")
    assert again.table.equals(manifest.table)
    assert (again.root, again.corpus, again.ids, len(again)) == ("/data/caf\udce9", "folder", ODD, len(ODD))


def test_paths_that_are_not_utf8_travel_as_bytes(tmp_path: Path) -> None:
    made({"utterance_id": r"\xe9", "path": b"\xe9.wav"}, {"utterance_id": "ü", "path": "ü.wav"}).write(tmp_path / "m")
    utterances = list(Manifest.read(tmp_path / "m").utterances())
    assert [utterance.path for utterance in utterances] == [b"\xe9.wav", "ü.wav".encode()]


def test_an_empty_manifest_is_a_manifest(tmp_path: Path) -> None:
    made().write(tmp_path / "m")
    assert len(Manifest.read(tmp_path / "m")) == 0


def test_a_doubled_id_names_both_rows() -> None:
    message = (
        "utterance_id 'a' is in rows 0 ('x.wav') and 2 ('y.wav'), and 1 more ids appear twice; "
        "ids must be unique: fix the list, or use relative paths as ids"
    )
    paths = [("a", "x.wav"), ("b", "b.wav"), ("a", "y.wav"), ("b", "c.wav"), ("a", "z.wav")]
    with pytest.raises(DuplicateIdError, match=f"^{re.escape(message)}$"):
        made(*[{"utterance_id": name, "path": path} for name, path in paths])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"utterance_id": "a"}, "row 0 has no path"),
        ({"path": "a"}, "row 0 has no utterance_id"),
        ({"utterance_id": "a", "path": "a", "duration_s": "long"}, "column duration_s: "),
    ],
)
def test_rows_that_cannot_be_say_why(row: dict[str, object], message: str) -> None:
    with pytest.raises(ManifestError, match=f"^{message}"):
        made(row)


def test_values_of_a_label_share_a_type() -> None:
    with pytest.raises(ManifestError, match=r"^column x: "):
        made({"utterance_id": "a", "path": "a", "x": 1}, {"utterance_id": "b", "path": "b", "x": "y"})


def test_a_table_becomes_a_manifest_with_its_columns_cast() -> None:
    table = pa.table({"label": ["x"], "fold": [3], "path": pa.array([b"\xe9"]), "utterance_id": ["a"]})
    manifest = Manifest.from_table(table, root="/r", corpus="table")
    assert manifest.table["fold"].to_pylist() == ["3"]
    assert manifest.table["path"].to_pylist() == [b"\xe9"]
    with pytest.raises(ManifestError, match=r"^no column path; a manifest has at least utterance_id and path$"):
        Manifest.from_table(pa.table({"utterance_id": ["a"]}), root="/r", corpus="table")


def test_what_is_no_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    message = f"{path}: no such manifest; make it with `voxshard prepare FORMAT ROOT --out {path}`"
    with pytest.raises(ManifestError, match=f"^{re.escape(message)}$"):
        Manifest.read(path)
    path.write_text("no parquet")
    with pytest.raises(ManifestError, match=re.escape(f"{path}: not a Parquet file: ")):
        Manifest.read(path)
    pq.write_table(pa.table({"a": [1]}), path)
    message = f"{path}: a Parquet file, but no manifest of voxshard; make one with `voxshard prepare table {path}`"
    with pytest.raises(ManifestError, match=f"^{re.escape(message)}"):
        Manifest.read(path)


def test_a_manifest_of_a_newer_voxshard_is_refused(tmp_path: Path) -> None:
    about = b'{"format_version": 99, "root": "/", "corpus": "folder"}'
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({b"voxshard": about}), tmp_path / "m")
    with pytest.raises(FormatVersionError, match=r"m: manifest format 99, this voxshard reads up to 1; update it$"):
        Manifest.read(tmp_path / "m")


def test_splits_are_chosen_by_name_and_a_wrong_name_lists_them() -> None:
    manifest = made(
        {"utterance_id": "a", "path": "a", "split": "train"},
        {"utterance_id": "b", "path": "b"},
        {"utterance_id": "c", "path": "c", "split": "test"},
    )
    assert manifest.splits() == ["train", "test"]
    assert manifest.select_split("test").ids == ["c"]
    message = "no utterance has split 'dev'; splits here: train, test"
    with pytest.raises(ManifestError, match=f"^{message}$"):
        manifest.select_split("dev")
    assert manifest.where([True, False, True]).ids == ["a", "c"]
    assert manifest.head(2).ids == ["a", "b"]


def test_utterances_are_what_decoding_needs_of_a_range_of_rows() -> None:
    manifest = made(
        {"utterance_id": "a", "path": "a.wav"},
        {"utterance_id": "b", "path": "b.wav", "start_s": 1.0, "end_s": 2.5, "duration_s": 1.5, "num_bytes": 9,
         "problem": "EmptyAudioError: x"},
    )  # fmt: skip
    assert list(manifest.utterances()) == [
        Utterance("a", "a.wav"),
        Utterance("b", "b.wav", 1.0, 2.5, 1.5, 9, "EmptyAudioError: x"),
    ]
    assert [utterance.utterance_id for utterance in manifest.utterances(1, 2)] == ["b"]


def test_the_digest_changes_with_what_is_read_and_with_nothing_else() -> None:
    row = {"utterance_id": "a", "path": "a.wav", "end_s": 2.0}
    digest = made(row).content_digest()
    assert (
        digest == made({**row, "label": "x", "split": "train", "duration_s": 2.0}, root="/elsewhere").content_digest()
    )
    assert digest == made({**row, "path": b"a.wav"}).content_digest()
    for change in ({"utterance_id": "b"}, {"path": "b.wav"}, {"start_s": 0.5}, {"end_s": 2.5}, {"end_s": None}):
        assert made({**row, **change}).content_digest() != digest


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1), unique=True, max_size=20
    )
)
def test_the_digest_depends_on_the_order_of_ids(ids: list[str]) -> None:
    same = made(*rows_of(ids)).content_digest() == made(*rows_of(ids[::-1])).content_digest()
    assert same == (len(ids) < 2)


def test_writing_replaces_the_file_whole(tmp_path: Path) -> None:
    made(*rows_of(ODD)).write(tmp_path / "m")
    made(*rows_of(["a"])).write(tmp_path / "m")
    assert Manifest.read(tmp_path / "m").ids == ["a"]
    assert os.listdir(tmp_path) == ["m"]  # noqa: PTH208


def test_an_id_that_hdf5_cannot_hold_is_refused() -> None:
    with pytest.raises(ManifestError, match="an utterance_id holds a NUL character"):
        Manifest.from_rows([{"utterance_id": "a\0b", "path": "a"}], root="corpus", corpus="folder")


def test_rows_are_read_from_the_file_across_its_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "ROW_GROUP", 4)
    manifest = made(*({"utterance_id": f"u{n}", "path": f"{n}.wav", "duration_s": n / 2} for n in range(10)))
    manifest.write(tmp_path / "m.parquet")
    assert pq.ParquetFile(tmp_path / "m.parquet").num_row_groups == 3
    file = ManifestFile(tmp_path / "m.parquet")
    everything = list(manifest.utterances())
    for start in range(11):
        for stop in range(start, 11):
            assert list(file.utterances(start, stop)) == everything[start:stop]


def test_rows_stay_those_of_the_file_that_was_opened(tmp_path: Path) -> None:
    made({"utterance_id": "a", "path": "old.wav"}).write(tmp_path / "m.parquet")
    file = ManifestFile(tmp_path / "m.parquet")
    made({"utterance_id": "a", "path": "new.wav"}).write(tmp_path / "m.parquet")
    assert [utterance.path for utterance in file.utterances(0, 1)] == ["old.wav"]


def test_the_digest_of_odd_ids_is_that_of_each_row_as_json() -> None:
    names = ['a"], ["b', "], [", "[[", "\u00e9\n", "a\\", '"', "x"]
    starts = [None, 0.1, 1e16, 1e-7, 0.0, 3.0, 1 / 3]
    rows = [{"utterance_id": name, "path": name, "start_s": start} for name, start in zip(names, starts, strict=True)]
    wanted = hashlib.sha256()
    for row in rows:
        wanted.update(json.dumps([row["utterance_id"], row["path"], row["start_s"], None]).encode())
    assert Manifest.from_rows(rows, root="/", corpus="folder").content_digest() == wanted.hexdigest()
