"""Reading embeddings that other programs wrote: npy + csv, npz, json, parquet, tsv. Never with pickle."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from voxshard import files
from voxshard.errors import CorruptFileError, FeatureMismatchError, ManifestError
from voxshard.store.hdf5 import Arrays

Array = npt.NDArray[Any]

ID_COLUMNS = ("utterance_id", "uid", "id", "path", "filename", "file_name", "file", "name")
"""Columns of a csv that may hold the ids, the first one there is."""

_ROWS_AT_ONCE = 1024
_JSON_BYTES = 4 << 20
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")


@dataclass(frozen=True)
class ForeignFile:
    """One file of embeddings; may be gone through any number of times, in the same order."""

    path: Path
    granularity: str
    items: Callable[[], Iterator[tuple[str, Arrays]]]
    """(utterance_id, output) of every utterance; see `container.Arrays`."""
    columns: Mapping[str, pa.Array]
    """What else is known of every utterance, in the order of the items."""


def open_foreign(path: Path) -> ForeignFile:
    """Recognise a file by its name and read all but its arrays.

    Raises
    ------
    ManifestError : a format that is not known, or ids that are not where they should be.
    FeatureMismatchError : arrays that do not fit together, or that only pickle can read.
    CorruptFileError : damaged, or not what its name says, or against the SHA256SUMS beside it.
    """
    readers = {".npy": _npy, ".npz": _npz, ".json": _json, ".parquet": _parquet, ".tsv": _tsv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ManifestError(f"{path}: not a format that can be ingested; these are: {', '.join(readers)}")
    if not path.is_file():
        raise ManifestError(f"{path}: no such file")
    check_sums(path)
    try:
        return reader(path)
    except (zipfile.BadZipFile, pa.ArrowInvalid, UnicodeDecodeError, EOFError) as exc:
        raise CorruptFileError(f"{path}: cannot be read: {exc}") from exc


def check_sums(path: Path) -> None:
    """Compare a file with SHA256SUMS in its folder, if that names it."""
    sums = path.parent / "SHA256SUMS"
    if not sums.is_file():
        return
    for line in sums.read_text().splitlines():
        digest, _, name = line.partition(" ")
        if name.lstrip(" *") == path.name and files.sha256_of(path) != digest:
            raise CorruptFileError(f"{path}: does not match its SHA-256 in {sums}; copy it again")


def _npy(path: Path) -> ForeignFile:
    beside = [path.with_name(f"{path.stem}_metadata.csv"), path.with_suffix(".csv")]
    metadata = next((item for item in beside if item.is_file()), None)
    if metadata is None:
        raise ManifestError(
            f"{path}: no {beside[0].name} or {beside[1].name} beside it, so nobody knows whose rows these are"
        )
    check_sums(metadata)
    columns, ids = _csv_columns(metadata, ",")
    array = _load(path, path, mmap_mode="r")
    if array.ndim not in (2, 3):
        raise FeatureMismatchError(
            f"{path}: of shape {array.shape}; one row per utterance is wanted, (N, D) or (N, L, D)"
        )
    given = columns.pop("embedding_idx", None)
    rows = np.arange(len(ids)) if given is None else np.array(given.to_pylist(), np.float64).astype(np.int64)
    if given is None and len(ids) != len(array):
        raise FeatureMismatchError(
            f"{path}: {len(array)} rows, {metadata.name} has {len(ids)}, and no column embedding_idx"
        )
    if len(rows) and not ((rows >= 0) & (rows < len(array))).all():
        raise FeatureMismatchError(
            f"{metadata}: embedding_idx goes up to {rows.max()}, {path.name} has {len(array)} rows"
        )

    def items() -> Iterator[tuple[str, Arrays]]:
        for name, row in zip(ids, rows.tolist(), strict=True):
            yield name, {"embedding": np.asarray(array[row])}

    return ForeignFile(path, "utterance", items, columns)


def _npz(path: Path) -> ForeignFile:
    with zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
    if "X" not in names or not names & {"ids", "IDS"}:
        raise ManifestError(
            f"{path}: holds {', '.join(sorted(names)) or 'nothing'}; X and ids are wanted (or X, Y and IDS)"
        )
    with np.load(path, allow_pickle=False) as arrays:
        small = {name: _member(path, arrays, name) for name in names & {"ids", "IDS", "offsets", "Y"}}
    shape, _, _ = _npy_rows(path, "X")
    if "ids" in small:
        ids = [str(name) for name in small["ids"].tolist()]
        offsets = small.get("offsets")
        granularity = "utterance" if offsets is None else "frames"
    else:
        ids, offsets = _runs(path, small["IDS"])
        granularity = "windows"
    wanted = len(ids) if offsets is None else int(offsets[-1])
    if shape[0] != wanted or (offsets is not None and len(offsets) != len(ids) + 1):
        raise FeatureMismatchError(f"{path}: X has {shape[0]} rows, its ids call for {wanted}")
    columns = {}
    if "Y" in small:
        columns["label"] = _labels(path, small["Y"], ids, None if "ids" in small else offsets)
    lengths = [1] * len(ids) if offsets is None else np.diff(offsets).tolist()
    keys = ["X", "codes"] if "codes" in names and offsets is not None else ["X"]

    def items() -> Iterator[tuple[str, Arrays]]:
        streams = [_cut(_npy_rows(path, key)[2], lengths) for key in keys]
        for name, *values in zip(ids, *streams, strict=True):
            if offsets is None:
                yield name, {"embedding": values[0][0]}
            else:
                yield name, dict(zip(("frames", "codes"), values, strict=False))

    return ForeignFile(path, granularity, items, columns)


def _runs(path: Path, of_row: Array) -> tuple[list[str], Array]:
    """Utterances whose windows stand one after the other: their ids, and where each starts (N + 1,)."""
    starts = np.concatenate([[0], np.flatnonzero(of_row[1:] != of_row[:-1]) + 1, [len(of_row)]]).astype(np.int64)
    starts = np.unique(starts)
    ids = [str(name) for name in of_row[starts[:-1]].tolist()]
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        for name in ids:
            if name in seen:
                raise FeatureMismatchError(f"{path}: windows of {name!r} stand in several places; sort the rows by IDS")
            seen.add(name)
    return ids, starts


def _labels(path: Path, labels: Array, ids: Sequence[str], offsets: Array | None) -> pa.Array:
    wanted = len(ids) if offsets is None else int(offsets[-1])
    if labels.shape != (wanted,):
        raise FeatureMismatchError(f"{path}: Y has shape {labels.shape}, one label per row is wanted: ({wanted},)")
    if offsets is None:
        return pa.array(labels.tolist())
    first = labels[offsets[:-1]]
    same = labels == np.repeat(first, np.diff(offsets))
    if not same.all():
        row = int(np.flatnonzero(~same)[0])
        name = ids[int(np.searchsorted(offsets, row, side="right")) - 1]
        raise FeatureMismatchError(f"{path}: windows of {name!r} have several labels, {labels[row]!r} in row {row}")
    return pa.array(first.tolist())


def _member(path: Path, arrays: Any, name: str) -> Array:
    try:
        values: Array = arrays[name]
    except ValueError as exc:
        raise _needs_pickle(f"{path} ({name})") from exc
    return values


def _load(path: Path, stream: Any, **options: Any) -> Array:
    try:
        values: Array = np.load(stream, allow_pickle=False, **options)
    except ValueError as exc:
        if "Object arrays" in str(exc) or "Python objects" in str(exc):
            raise _needs_pickle(path) from exc
        raise CorruptFileError(f"{path}: cannot be read: {exc}") from exc
    return values


def _needs_pickle(where: object) -> FeatureMismatchError:
    return FeatureMismatchError(
        f"{where}: an array of Python objects, which only pickle can read, and pickle can run any program; "
        "save it as numbers or text: numpy.stack for arrays, .astype(str) for names"
    )


def _npy_rows(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any], Iterator[Array]]:
    """Shape and dtype of an array in an npz, and its rows, some at a time."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
        shape, is_fortran, dtype = _npy_header(path, name, member)
    if dtype.hasobject:
        raise _needs_pickle(f"{path} ({name})")
    if not shape:
        raise FeatureMismatchError(f"{path}: {name} is a single number")

    def blocks() -> Iterator[Array]:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
            if is_fortran:
                yield _load(path, member)
                return
            _npy_header(path, name, member)
            row_bytes = math.prod(shape[1:]) * dtype.itemsize
            for start in range(0, max(shape[0], 1), _ROWS_AT_ONCE):
                count = min(_ROWS_AT_ONCE, shape[0] - start)
                content = member.read(count * row_bytes)
                if len(content) < count * row_bytes:
                    raise CorruptFileError(f"{path}: {name} ends after {start} of {shape[0]} rows")
                yield np.frombuffer(content, dtype).reshape(count, *shape[1:])

    return shape, dtype, blocks()


def _npy_header(path: Path, name: str, member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return read(member)
    except ValueError as exc:
        raise CorruptFileError(f"{path}: {name} cannot be read: {exc}") from exc


def _cut(blocks: Iterator[Array], lengths: Sequence[int]) -> Iterator[Array]:
    """Regroup blocks of rows (at least one) into pieces of these lengths."""
    rest = next(blocks)
    for length in lengths:
        parts = [rest[:length]]
        while (wanted := length - sum(map(len, parts))) > 0:
            rest = next(blocks)
            parts.append(rest[:wanted])
        rest = rest[len(parts[-1]) :]
        yield np.concatenate(parts) if len(parts) > 1 else parts[0]


def _json(path: Path) -> ForeignFile:
    def items() -> Iterator[tuple[str, Arrays]]:
        for name, value in _json_items(path):
            try:
                array = np.array(value, np.float32)
            except (ValueError, TypeError) as exc:
                raise FeatureMismatchError(f"{path}: {name!r} is not a table of numbers: {exc}") from exc
            if array.ndim == 0:
                raise FeatureMismatchError(
                    f"{path}: {name!r} is {value!r}; a list of numbers, or of such lists, is wanted"
                )
            yield name, {"embedding" if array.ndim == 1 else "frames": array}

    first = next(items(), None)
    granularity = "utterance" if first is None or "embedding" in first[1] else "frames"
    return ForeignFile(path, granularity, items, {})


def _json_items(path: Path) -> Iterator[tuple[str, Any]]:
    """Members of a JSON object, one at a time: memory holds the largest of them, not the file."""
    decoder = json.JSONDecoder(parse_int=float)
    with path.open(encoding="utf-8") as stream:
        text, at, is_over = "", 0, False

        def more() -> None:
            nonlocal text, at, is_over
            block = stream.read(max(_JSON_BYTES, len(text) - at))  # doubling keeps a long member linear
            is_over = not block
            text, at = text[at:] + block, 0

        def skip(characters: str) -> str:
            nonlocal at
            while True:
                while at < len(text) and text[at] in characters:
                    at += 1
                if at < len(text):
                    return text[at]
                more()
                if is_over:
                    raise CorruptFileError(f"{path}: ends in the middle; truncated")

        def decode() -> Any:
            nonlocal at
            while True:
                try:
                    value, end = decoder.raw_decode(text, at)
                except json.JSONDecodeError as exc:
                    if is_over:
                        raise CorruptFileError(f"{path}: not JSON, or truncated: {exc.msg}") from exc
                    more()
                else:
                    at = end
                    return value

        if skip(" \t\r\n\ufeff") != "{":
            raise FeatureMismatchError(
                f"{path}: starts with {text[at]!r}; an object is wanted: {{'utterance_id': [[...], ...]}}"
            )
        at += 1
        while skip(" \t\r\n,") != "}":
            name = decode()
            if not isinstance(name, str) or skip(" \t\r\n") != ":":
                raise CorruptFileError(f"{path}: not a JSON object behind {name!r:.80}")
            at += 1
            skip(" \t\r\n")
            yield name, decode()


def _parquet(path: Path) -> ForeignFile:
    schema = pq.read_schema(path)
    column = next((name for name in ("embedding", "frames") if name in schema.names), None)
    if column is None or "utterance_id" not in schema.names:
        raise ManifestError(
            f"{path}: columns are {', '.join(schema.names)}; utterance_id and embedding (or frames) are wanted"
        )
    large = [name for name in ("embedding", "frames", "codes") if name in schema.names]
    columns = pq.read_table(path, columns=[name for name in schema.names if name not in large])

    def items() -> Iterator[tuple[str, Arrays]]:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS_AT_ONCE // 4, columns=["utterance_id", *large]):
                values = [_lists(path, name, batch[name]) for name in large]
                for name, *outputs in zip(batch["utterance_id"].to_pylist(), *values, strict=True):
                    yield name, dict(zip(large, outputs, strict=True))

    about = {name: columns[name].combine_chunks() for name in columns.column_names if name != "utterance_id"}
    return ForeignFile(path, "utterance" if column == "embedding" else "frames", items, about)


def _lists(path: Path, name: str, column: pa.Array) -> Iterator[Array]:
    if column.null_count:
        raise FeatureMismatchError(f"{path}: {name} is null in {column.null_count} rows")
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
    values = _regular(path, name, column.flatten())
    return iter(np.split(values, np.cumsum(lengths)[:-1])) if len(lengths) else iter(())


def _regular(path: Path, name: str, column: pa.Array) -> Array:
    """A column of numbers, or of lists of one length, as an array."""
    if column.null_count:
        raise FeatureMismatchError(f"{path}: {name} holds nulls")
    if not (
        pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type)
    ):
        numbers: Array = column.to_numpy(zero_copy_only=False)
        return numbers
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) > 1:
        raise FeatureMismatchError(f"{path}: {name} has rows of {min(lengths)} to {max(lengths)} numbers")
    inner = _regular(path, name, column.flatten())
    return inner.reshape(len(column), lengths[0] if lengths else 0, *inner.shape[1:])


def _tsv(path: Path) -> ForeignFile:
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
    columns, _ = _csv_columns(path, "\t", leave_out=large)
    last = [int(part) + 1 for part in header[numbers[-1]].split("_")[1:]] if numbers else []
    shape = tuple(last) if math.prod(last) == len(numbers) else (len(numbers),)
    id_column = header.index("utterance_id")

    def items() -> Iterator[tuple[str, Arrays]]:
        for row in _csv_rows(path, "\t"):
            name = row[id_column]
            try:
                if frames is not None:
                    yield name, {"frames": np.array(json.loads(row[frames]), np.float32)}
                else:
                    yield name, {"embedding": np.array([row[column] for column in numbers], np.float32).reshape(shape)}
            except ValueError as exc:
                raise FeatureMismatchError(f"{path}: the numbers of {name!r} cannot be read: {exc}") from exc

    return ForeignFile(path, "utterance" if frames is None else "frames", items, columns)


def _csv_rows(path: Path, delimiter: str) -> Iterator[list[str]]:
    csv.field_size_limit(sys.maxsize)  # a cell may hold all frames of an utterance
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream, delimiter=delimiter)
        header = next(reader, [])
        for row in reader:
            if len(row) != len(header):
                raise CorruptFileError(f"{path}: line {reader.line_num} has {len(row)} cells, the header {len(header)}")
            yield row


def _csv_columns(
    path: Path, delimiter: str, leave_out: Set[str] = frozenset()
) -> tuple[dict[str, pa.Array], list[str]]:  # type: ignore[assignment]
    """Columns of a csv but the ids, with the types their values have; and the ids."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        header = next(csv.reader(stream, delimiter=delimiter), [])
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
    """Numbers where every cell is one, written as numbers are; so 007 stays text. Empty is null."""
    cells = [text or None for text in texts]
    given = [text for text in cells if text is not None]
    if given and all(_INTEGER.fullmatch(text) for text in given):
        return pa.array([None if text is None else int(text) for text in cells], pa.int64())
    if given and all(_NUMBER.fullmatch(text) for text in given):
        return pa.array([None if text is None else float(text) for text in cells], pa.float64())
    return pa.array(cells, pa.string())
