"""Reading of features in Parquet and tab-separated files, and of the csv next to an npy file."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from voxshard import files
from voxshard.errors import CorruptFileError, DataError, FeatureMismatchError, ManifestError
from voxshard.store.foreign_base import Array, ForeignFile
from voxshard.store.foreign_json import table_of_numbers
from voxshard.store.hdf5 import Arrays

ID_COLUMNS = ("utterance_id", "uid", "id", "path", "filename", "file_name", "file", "name")
"""Columns of a csv that may hold the ids, the first one there is."""

_ROWS_AT_ONCE = 256
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")


def read_parquet(path: Path) -> ForeignFile:
    schema = files.with_retries(path, lambda: pq.read_schema(path))
    column = next((name for name in ("embedding", "frames") if name in schema.names), None)
    if column is None or "utterance_id" not in schema.names:
        raise ManifestError(
            f"{path}: columns are {', '.join(schema.names)}; utterance_id and embedding (or frames) are wanted"
        )
    _check_parquet_ids(path, schema)
    large = [name for name in ("embedding", "frames", "codes") if name in schema.names]
    if len(set(schema.names)) < len(schema.names):
        raise ManifestError(f"{path}: two columns have the same name; columns are {', '.join(schema.names)}")
    columns = pq.read_table(path, columns=[name for name in schema.names if name not in large])

    def items() -> Iterator[tuple[str, Arrays]]:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=["utterance_id", *large]):
                values = [_lists(path, name, batch[name]) for name in large]
                ids = batch["utterance_id"]
                if ids.null_count:
                    raise ManifestError(f"{path}: utterance_id is null in {ids.null_count} rows or more")
                for name, *outputs in zip(ids.to_pylist(), *values, strict=True):
                    yield str(name), dict(zip(large, outputs, strict=True))

    about = {name: columns[name].combine_chunks() for name in columns.column_names if name != "utterance_id"}
    return ForeignFile(path, "utterance" if column == "embedding" else "frames", items, about)


def _check_parquet_ids(path: Path, schema: pa.Schema) -> None:
    kind = schema.field("utterance_id").type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise ManifestError(f"{path}: utterance_id is of type {kind}; texts or integers are wanted")


def _lists(path: Path, name: str, column: pa.Array) -> Iterator[Array]:
    if column.null_count:
        raise FeatureMismatchError(f"{path}: {name} is null in {column.null_count} rows")
    if not _is_list(column.type):
        raise FeatureMismatchError(f"{path}: {name} is of type {column.type}; a list of numbers per row is wanted")
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
    values = _regular(path, name, column.flatten())
    return iter(np.split(values, np.cumsum(lengths)[:-1])) if len(lengths) else iter(())


def _regular(path: Path, name: str, column: pa.Array) -> Array:
    """Convert a column of numbers, or of lists of equal length, to an array."""
    if column.null_count:
        raise FeatureMismatchError(f"{path}: {name} holds nulls")
    if not _is_list(column.type):
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            raise FeatureMismatchError(f"{path}: {name} has values of type {column.type}; numbers are wanted")
        numbers: Array = column.to_numpy(zero_copy_only=False)
        return numbers
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) > 1:
        raise FeatureMismatchError(f"{path}: {name} has rows of {min(lengths)} to {max(lengths)} numbers")
    inner = _regular(path, name, column.flatten())
    return inner.reshape(len(column), lengths[0] if lengths else 0, *inner.shape[1:])


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def read_tsv(path: Path) -> ForeignFile:
    with path.open(newline="", encoding="utf-8") as stream:
        header = next(csv.reader(stream, delimiter="\t"), [])
    numbers = [
        position for position, name in enumerate(header) if name.startswith("embedding_") and name != "embedding_idx"
    ]
    frames = header.index("frames") if "frames" in header else None
    if "utterance_id" not in header or not (numbers or frames is not None):
        raise ManifestError(
            f"{path}: columns are {', '.join(header)[:200]}; utterance_id and embedding_0, ... (or frames) are wanted"
        )
    large = {header[position] for position in numbers} | {"frames"}
    columns, _ = csv_columns(path, "\t", leave_out=large)
    shape = _numbered_shape(path, [header[position] for position in numbers])
    id_column = header.index("utterance_id")

    def items() -> Iterator[tuple[str, Arrays]]:
        for row in _csv_rows(path, "\t"):
            name = row[id_column]
            try:
                if frames is not None:
                    output = {"frames": table_of_numbers(path, name, json.loads(row[frames], parse_int=float))}
                else:
                    cells = [row[column] for column in numbers]
                    if any("_" in cell for cell in cells):  # Python reads 1_000 as a number, no other program does
                        raise ValueError("an underscore in a number")
                    output = {"embedding": np.array(cells, np.float32).reshape(shape)}
                yield name, output
            except (ValueError, RecursionError) as exc:
                if isinstance(exc, DataError):
                    raise
                raise FeatureMismatchError(f"{path}: the numbers of {name!r} cannot be read: {exc}") from exc

    return ForeignFile(path, "utterance" if frames is None else "frames", items, columns)


def _numbered_shape(path: Path, names: Sequence[str]) -> tuple[int, ...]:
    """Return the shape that columns embedding_0, embedding_1, ... or embedding_0_0, ... describe, in row-major
    order."""
    parts = [name.split("_")[1:] for name in names]
    if not names:
        return ()
    if all(part.isdigit() for part in parts[-1]):
        shape = tuple(int(part) + 1 for part in parts[-1])
        if math.prod(shape) == len(names) and parts == [[str(at) for at in index] for index in np.ndindex(*shape)]:
            return shape
    raise ManifestError(
        f"{path}: columns {names[0]} to {names[-1]} are not embedding_0, embedding_1, ... without gaps and in order"
    )


def _csv_rows(path: Path, delimiter: str) -> Iterator[list[str]]:
    csv.field_size_limit(sys.maxsize)  # a cell may hold all frames of an utterance
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream, delimiter=delimiter)
        header = next(reader, [])
        for row in reader:
            if len(row) != len(header):
                raise CorruptFileError(f"{path}: line {reader.line_num} has {len(row)} cells, the header {len(header)}")
            yield row


def csv_columns(path: Path, delimiter: str, leave_out: Set[str] = frozenset()) -> tuple[dict[str, pa.Array], list[str]]:  # type: ignore[assignment]
    """Return the columns of a csv file except utterance_id, with the types of their values, and the ids."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        header = next(csv.reader(stream, delimiter=delimiter), [])
    if len(set(header)) < len(header):
        raise ManifestError(f"{path}: two columns have the same name; columns are {', '.join(header)[:200]}")
    kept = [position for position, name in enumerate(header) if name not in leave_out]
    values: list[list[str]] = [[] for _ in kept]
    for row in _csv_rows(path, delimiter):
        for column, position in zip(values, kept, strict=True):
            column.append(row[position])
    texts = {header[position]: column for position, column in zip(kept, values, strict=True)}
    of = next((name for name in ID_COLUMNS if name in texts), None)
    if of is None:
        raise ManifestError(
            f"{path}: columns are {', '.join(header)}; one with the ids is wanted: {', '.join(ID_COLUMNS)}"
        )
    ids = texts[of]
    return {name: _typed(column) for name, column in texts.items() if name != "utterance_id"}, ids


def _typed(texts: list[str]) -> pa.Array:
    """Convert texts to numbers if every cell is one in its usual form (007 remains text). Empty cells become null."""
    cells = [text or None for text in texts]
    given = [text for text in cells if text is not None]
    if given and all(_INTEGER.fullmatch(text) for text in given):
        return pa.array([None if text is None else int(text) for text in cells], pa.int64())
    if given and all(_NUMBER.fullmatch(text) for text in given):
        return pa.array([None if text is None else float(text) for text in cells], pa.float64())
    return pa.array(cells, pa.string())
