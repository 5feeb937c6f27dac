"""What is exported comes back from ingest as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voxshard import open_features
from voxshard.progress import Silent
from voxshard.store.export import ExportConfig, export
from voxshard.store.features import FeatureSet
from voxshard.store.ingest import IngestConfig, ingest

ODD_IDS = [
    "plain.wav",
    "a b/'c' \"d\".wav",
    "line\nbreak",
    "täb\tted",
    "日本語/音声.flac",
    "",
    "comma,semi;colon",
    "007",
]


def write(folder: Path, to: str, out: Path, **options: Any) -> list[Path]:
    return export(ExportConfig(features=folder, format=to, out=out, **options), Silent(), lambda: None)


def read(out: Path, *inputs: str) -> FeatureSet:
    ingest(IngestConfig(inputs=inputs, out=out), Silent(), lambda: None)
    return open_features(out)


def assert_same(one: FeatureSet, other: FeatureSet) -> None:
    assert one.ids == other.ids
    for name in ("embeddings", "frames", "codes"):
        assert one.has(name) == other.has(name)
        if one.has(name):
            np.testing.assert_array_equal(np.asarray(one.large(name)[:]), np.asarray(other.large(name)[:]))
    if one.offsets is not None:
        np.testing.assert_array_equal(one.offsets, other.offsets)


def outputs(kind: str, ids: list[str]) -> dict[str, dict[str, Any]]:
    random = np.random.default_rng(1)
    shapes = {"vector": lambda: (5,), "layers": lambda: (2, 3), "frames": lambda: (random.integers(1, 5), 3)}
    shapes["frames+layers"] = lambda: (random.integers(1, 5), 2, 3)
    result = {}
    for name in ids:
        shape = shapes[kind.removesuffix("+codes").removesuffix("+codebooks")]()
        key = "frames" if kind.startswith("frames") else "embedding"
        result[name] = {key: random.standard_normal(shape).astype(np.float32)}
        if kind.endswith("+codes"):
            result[name]["codes"] = random.integers(0, 9, shape[0]).astype(np.int32)
        if kind.endswith("+codebooks"):
            result[name]["codes"] = random.integers(0, 9, (shape[0], 4)).astype(np.int32)
    return result


@pytest.mark.parametrize(
    ("kind", "to"),
    [
        *(("vector", name) for name in ("npy", "json", "npz", "parquet", "tsv")),
        *(("layers", name) for name in ("npy", "npz", "parquet", "tsv")),
        *(("frames", name) for name in ("json", "npz", "parquet", "tsv")),
        *(("frames+layers", name) for name in ("json", "npz", "parquet", "tsv")),
        *((kind, name) for kind in ("frames+codes", "frames+codebooks") for name in ("npz", "parquet")),
    ],
)
def test_what_is_exported_can_be_ingested(kind: str, to: str, make_set: Any, tmp_path: Path) -> None:
    made = make_set(outputs(kind, ODD_IDS), columns={"label": ["x", "y"] * 4, "count": list(range(8))})
    made.write()
    made.merge()
    out = tmp_path / ("export" if to == "npy" else f"export.{to}")
    write(made.path, to, out)
    back = read(tmp_path / "back", str(out / "all.npy" if to == "npy" else out))
    assert_same(open_features(made.path), back)
    if to in ("npy", "parquet", "tsv"):
        for column in ("label", "count", "path", "split"):
            assert back.table[column].to_pylist() == open_features(made.path).table[column].to_pylist()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ids=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1, unique=True),
    to=st.sampled_from(["json", "npz", "parquet", "tsv"]),
    values=st.data(),
)
def test_any_id_and_any_float_survive(
    ids: list[str], to: str, values: st.DataObject, make_set: Any, tmp_path_factory: Any
) -> None:
    floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
    array = np.array(values.draw(st.lists(st.tuples(floats, floats), min_size=len(ids), max_size=len(ids))), np.float32)
    root = tmp_path_factory.mktemp("any")
    made = make_set({name: {"embedding": row} for name, row in zip(ids, array, strict=True)}, name=root / "set")
    made.write()
    made.merge()
    out = root / f"export.{to}"
    write(made.path, to, out)
    assert_same(open_features(made.path), read(root / "back", str(out)))


@pytest.mark.parametrize("to", ["npy", "tsv"])
def test_ids_with_line_ends_of_any_kind_survive(to: str, make_set: Any, tmp_path: Path) -> None:
    made = make_set(outputs("vector", ["\r", "a\r\nb", "\n", '"', "c\td,e"]))
    made.write()
    made.merge()
    out = tmp_path / ("export" if to == "npy" else "export.tsv")
    write(made.path, to, out)
    assert_same(open_features(made.path), read(tmp_path / "back", str(out / "all.npy" if to == "npy" else out)))


def test_json_has_the_shortest_digits_of_a_float32(make_set: Any, tmp_path: Path) -> None:
    values = np.array([0.1, 1 / 3, 1e-7, -2.5, 16777216], np.float32)
    made = make_set({"a": {"frames": values[np.newaxis]}, "b": {"frames": values[np.newaxis]}})
    made.write()
    made.merge()
    write(made.path, "json", tmp_path / "x.json")
    row = "[[0.1,0.33333334,1e-7,-2.5,16777216.0]]"
    assert (tmp_path / "x.json").read_text() == f'{{\n"a":{row},\n"b":{row}\n}}\n'
    np.testing.assert_array_equal(np.array(json.loads((tmp_path / "x.json").read_text())["a"], np.float32)[0], values)


def test_npy_has_a_pair_of_files_per_split_and_checksums(make_set: Any, tmp_path: Path) -> None:
    ids = [f"u{number}" for number in range(6)]
    made = make_set(outputs("vector", ids), splits=["train"] * 3 + ["test"] * 2 + [None], shards=[0, 0, 0, 1, 1, 2])
    made.write()
    made.merge()
    written = write(made.path, "npy", tmp_path / "npy")
    endings = (".npy", "_metadata.csv", "_metadata.dtypes.json")
    expected = [f"{split}{ending}" for split in ("train", "test", "all") for ending in endings]
    assert [path.name for path in written] == [*expected, "SHA256SUMS"]
    np.testing.assert_array_equal(np.load(tmp_path / "npy/test.npy"), open_features(made.path).embeddings[3:5])
    lines = (tmp_path / "npy/test_metadata.csv").read_text().splitlines()
    assert lines[0].startswith("utterance_id,path,")
    assert lines[0].endswith(",embedding_idx")
    assert [line.rpartition(",")[2] for line in lines[1:]] == ["0", "1"]
    back = read(tmp_path / "back", *(f"{name}={tmp_path}/npy/{name}.npy" for name in ("train", "test")))
    assert back.ids == ids[:5]
    assert back.table["split"].to_pylist() == ["train"] * 3 + ["test"] * 2


def test_pandas_reads_the_metadata_back_with_the_same_types(make_set: Any, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    columns = {
        "code": ["007", "010", "2"], "label": ["NA", None, "null"], "nothing": [None, None, "1"], "whole": [1, 2, 3],
        "gaps": [1, None, 3], "part": [1.0, 2.5, None], "yes": [True, False, True], "perhaps": [True, None, False],
    }  # fmt: skip
    made = make_set(outputs("vector", ["a", "b", "c"]), columns=columns)
    made.write()
    made.merge()
    write(made.path, "npy", tmp_path)
    dtypes = json.loads((tmp_path / "all_metadata.dtypes.json").read_text())
    found = pandas.read_csv(
        tmp_path / "all_metadata.csv", dtype=dtypes, keep_default_na=False, na_values=[""], index_col="utterance_id"
    )
    expected = open_features(made.path).to_pandas().drop(columns="embedding")
    assert found.pop("embedding_idx").tolist() == [0, 1, 2]
    assert found.dtypes.to_dict() == expected.dtypes.to_dict()
    assert found["code"].tolist() == ["007", "010", "2"]
    pandas.testing.assert_frame_equal(found, expected.fillna({"perhaps": np.nan}))


def test_npz_carries_labels(make_set: Any, tmp_path: Path) -> None:
    columns = {"label": ["bonafide", None, "spoof"], "y_task": [0, 1, 1]}
    made = make_set(outputs("vector", ["a", "b", "c"]), columns=columns)
    made.write()
    made.merge()
    write(made.path, "npz", tmp_path / "x.npz", label="label")
    write(made.path, "npz", tmp_path / "y.npz", label="y_task")
    assert np.load(tmp_path / "x.npz")["Y"].tolist() == ["bonafide", "", "spoof"]
    assert np.load(tmp_path / "y.npz")["Y"].tolist() == [0, 1, 1]
    assert read(tmp_path / "back", str(tmp_path / "y.npz")).table["label"].to_pylist() == [0, 1, 1]


def test_float16_sets_keep_their_type_through_npz(make_set: Any, tmp_path: Path) -> None:
    made = make_set(outputs("vector", ["a", "b"]))
    made.write(store_dtype="float16")
    made.merge()
    write(made.path, "npz", tmp_path / "x.npz")
    write(made.path, "json", tmp_path / "x.json")
    assert read(tmp_path / "back", str(tmp_path / "x.npz")).embeddings.dtype == np.float16
    np.testing.assert_array_equal(
        read(tmp_path / "text", str(tmp_path / "x.json")).embeddings, open_features(made.path).embeddings
    )


def test_parquet_has_one_row_per_utterance(make_set: Any, tmp_path: Path) -> None:
    made = make_set(outputs("layers", ["a", "b", "c"]))
    made.write()
    made.merge()
    write(made.path, "parquet", tmp_path / "x.parquet")
    table = pq.read_table(tmp_path / "x.parquet")
    assert table["utterance_id"].to_pylist() == ["a", "b", "c"]
    np.testing.assert_array_equal(
        np.array(table["embedding"].to_pylist(), np.float32), open_features(made.path).embeddings
    )
