"""What `ingest` refuses, by name, instead of making numbers of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from voxshard.errors import DataError, ManifestError
from voxshard.progress import Silent
from voxshard.store.features import FeatureSet
from voxshard.store.ingest import IngestConfig, ingest

X = np.ones((4, 3), np.float32)
IDS = np.array(["a", "b", "c", "d"])
FRAMES: dict[str, Any] = {"X": X, "ids": IDS[:2]}


def taken(path: Path) -> FeatureSet:
    ingest(IngestConfig(inputs=(str(path),), out=path.parent / "set"), Silent(), lambda: None)
    return FeatureSet(path.parent / "set")


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        taken(path)
    assert not (path.parent / "set").exists()
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({**FRAMES, "offsets": np.array([1, 2, 4])}, "offsets starts at 1; 0 is wanted"),
        ({**FRAMES, "offsets": np.array([0, 5, 4])}, "offsets decreases from 5 to 4 at position 2; it must not"),
        ({**FRAMES, "offsets": np.array([0, 2.5, 4])}, "offsets is of type float64 and shape (3,); integers (N + 1,)"),
        ({**FRAMES, "offsets": np.array([0, 2, 3])}, "X has 4 rows, its ids call for 3"),
        (
            {**FRAMES, "offsets": np.array([0, 2, 4]), "codes": np.arange(4) * 0.5},
            "codes is of type float64; integers are wanted",
        ),
        (
            {**FRAMES, "offsets": np.array([0, 2, 4]), "codes": np.array([1, 2, 3, 2**40])},
            "codes of 'b' go from 3 to 1099511627776; 0 to 2147483647 is wanted",
        ),
        (
            {**FRAMES, "offsets": np.array([0, 2, 4]), "codes": np.array([1, 2, -3, 4])},
            "codes of 'b' go from -3 to 4; 0 to 2147483647 is wanted",
        ),
        (
            {**FRAMES, "offsets": np.array([0, 2, 4]), "codes": np.array([1, 2, 3])},
            "codes has shape (3,), one row per row of X is wanted: (4,) or (4, K)",
        ),
        ({"X": X.astype(complex), "ids": IDS}, "X is of type complex128; real numbers are wanted"),
        ({"X": X.astype(bool), "ids": IDS}, "X is of type bool; real numbers are wanted"),
        ({"X": X.astype("U3"), "ids": IDS}, "X is of type <U3; real numbers are wanted"),
        (
            {"X": X, "ids": IDS.astype("S")},
            "ids is of type |S1 and shape (4,); texts or integers, (N,), are wanted",
        ),
        ({"X": X, "ids": np.arange(4) + 0.5}, "ids is of type float64 and shape (4,); texts or integers"),
        (
            {"X": X, "ids": IDS[:, None]},
            "ids is of type <U1 and shape (4, 1); texts or integers, (N,), are wanted",
        ),
        ({"X": X, "IDS": IDS.astype("S"), "Y": IDS}, "IDS is of type |S1 and shape (4,); texts or integers"),
        ({"X": X, "ids": IDS, "Y": X[:, 0] * 1j}, "Y is of type complex64; texts or numbers are wanted"),
    ],
)
def test_npz_with_arrays_that_make_no_sense(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    assert refusal(tmp_path / "x.npz").startswith(message)


def test_npz_with_a_header_that_describes_more_than_it_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", X=X, ids=IDS)
    content = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(content.replace(b"(4, 3), ", b"(9, 3), "))
    assert "cannot be read: BadZipFile" in refusal(tmp_path / "x.npz") or "describes (9, 3)" in refusal(
        tmp_path / "x.npz"
    )


@pytest.mark.parametrize(
    ("column", "message"),
    [("0\n1.5\n2\n3", "embedding_idx is 0.0 in one row"), ("0\nx\n2\n3", "embedding_idx is '0' in one row")],
)
def test_npy_with_rows_that_are_no_whole_numbers(tmp_path: Path, column: str, message: str) -> None:
    np.save(tmp_path / "x.npy", X)
    rows = [f"u{number},{cell}" for number, cell in enumerate(column.split("\n"))]
    (tmp_path / "x.csv").write_text("utterance_id,embedding_idx\n" + "\n".join(rows) + "\n")
    with pytest.raises(DataError, match=rf"x\.csv: {message}; integers are wanted"):
        taken(tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": [1, 2]} trailing', "there is content after the JSON object: 'trailing'"),
        ('{"a": [1, 2]}{"b": [1, 2]}', "there is content after the JSON object: '{\"b\": [1, 2]}'"),
        ('{"a": [1, 2], "a": [3, 4]}', "utterance 'a' is in"),
        ('{"a": [1, 2] "b": [3, 4]}', "not a JSON object after 'a': '\"' instead of a comma"),
        ('{"a": ["1", "2"]}', "'a' is not a table of numbers: ['1', '2']"),
        ('{"a": [1, null]}', "'a' is not a table of numbers: [1.0, None]"),
        ('{"a": [true, false]}', "'a' is not a table of numbers: [True, False]"),
        ('{"a": [[1, 2], [3]]}', "'a' is not a table of numbers: "),
        ('{"a": ' + "[" * 100_000, "nested too deeply for features"),
    ],
)
def test_json_that_is_not_one_object_of_numbers(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        taken(path)
    assert message in str(caught.value)
    assert not (tmp_path / "set").exists()


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


ROWS = [[1.0, 2.0], [3.0, 4.0]]


def test_parquet_with_integer_ids_reads_them_as_text(tmp_path: Path) -> None:
    found = taken(parquet(tmp_path / "x.parquet", utterance_id=[7, 8], embedding=ROWS))
    assert list(found.ids) == ["7", "8"]
    np.testing.assert_array_equal(found["8"], [3, 4])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"utterance_id": ["a", None], "embedding": ROWS}, "utterance_id is null in 1 rows or more"),
        ({"utterance_id": [b"a", b"b"], "embedding": ROWS}, "utterance_id is of type binary; texts or integers"),
        ({"utterance_id": [1.5, 2.5], "embedding": ROWS}, "utterance_id is of type double; texts or integers"),
        (
            {"utterance_id": ["a", "b"], "embedding": [1.0, 2.0]},
            "embedding is of type double; a list of numbers per row",
        ),
        ({"utterance_id": ["a", "b"], "embedding": [["x"], ["y"]]}, "embedding has values of type string; numbers"),
        (
            {"utterance_id": ["a", "b"], "embedding": ROWS, "about": [{"x": 1}, {"x": 2}]},
            "column about is of type struct<x: int64>; one text or number per row is wanted",
        ),
        (
            {"utterance_id": ["a", "b"], "embedding": ROWS, "about": [[1], [2, 3]]},
            "column about is of type list<element: int64>; one text or number per row is wanted",
        ),
        (
            {"utterance_id": ["a", "b"], "frames": [ROWS, ROWS], "codes": [[1, 2], [3]]},
            "'b' has 2 frames and 1 codes",
        ),
    ],
)
def test_parquet_with_columns_that_make_no_sense(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    assert refusal(parquet(tmp_path / "x.parquet", **columns)).startswith(message)


def test_damaged_parquet_pages_are_one_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = parquet(
        tmp_path / "x.parquet", utterance_id=[f"u{n}" for n in range(200)], embedding=list(rng.random((200, 9)))
    )
    content = bytearray(path.read_bytes())
    content[200:1200] = rng.bytes(1000)
    path.write_bytes(content)
    assert "cannot be read: " in refusal(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "utterance_id\tembedding_0\tembedding_2",
            "columns embedding_0 to embedding_2 are not embedding_0, embedding_1",
        ),
        (
            "utterance_id\tembedding_1\tembedding_0",
            "columns embedding_1 to embedding_0 are not embedding_0, embedding_1",
        ),
        (
            "utterance_id\tembedding_a\tembedding_b",
            "columns embedding_a to embedding_b are not embedding_0, embedding_1",
        ),
        ("utterance_id\tembedding_0\tembedding_0", "two columns have the same name"),
    ],
)
def test_tsv_with_columns_out_of_order(tmp_path: Path, header: str, message: str) -> None:
    (tmp_path / "x.tsv").write_text(f"{header}\na\t1\t2\n")
    with pytest.raises(ManifestError, match=message):
        taken(tmp_path / "x.tsv")
