"""Reading of features in npy files with a csv, and in npz archives. Pickle is never used."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from voxshard.errors import CorruptFileError, FeatureMismatchError, ManifestError
from voxshard.store.foreign_base import Array, ForeignFile, check_numbers, check_sums, needs_pickle
from voxshard.store.foreign_tables import csv_columns
from voxshard.store.hdf5 import Arrays
from voxshard.store.output_spec import Granularity

_ROWS_AT_ONCE = 1024


def read_npy(path: Path) -> ForeignFile:
    beside = [path.with_name(f"{path.stem}_metadata.csv"), path.with_suffix(".csv")]
    metadata = next((item for item in beside if item.is_file()), None)
    if metadata is None:
        raise ManifestError(
            f"{path}: no {beside[0].name} or {beside[1].name} next to it, so it is unknown whose rows these are"
        )
    check_sums(metadata)
    columns, ids = csv_columns(metadata, ",")
    array = _load(path, path, mmap_mode="r")
    check_numbers(path, "the array", array.dtype)
    if array.ndim not in (2, 3):
        raise FeatureMismatchError(
            f"{path}: of shape {array.shape}; one row per utterance is wanted, (N, D) or (N, L, D)"
        )
    given = columns.pop("embedding_idx", None)
    rows = np.arange(len(ids)) if given is None else _row_numbers(metadata, given)
    if given is None and len(ids) != len(array):
        raise FeatureMismatchError(
            f"{path}: {len(array)} rows, {metadata.name} has {len(ids)}, and no column embedding_idx"
        )
    if len(rows) and not ((rows >= 0) & (rows < len(array))).all():
        raise FeatureMismatchError(
            f"{metadata}: embedding_idx goes from {rows.min()} to {rows.max()}, {path.name} has {len(array)} rows"
        )

    def items() -> Iterator[tuple[str, Arrays]]:
        for name, row in zip(ids, rows.tolist(), strict=True):
            yield name, {"embedding": np.asarray(array[row])}

    return ForeignFile(path, "utterance", items, columns)


def _row_numbers(metadata: Path, column: pa.Array) -> Array:
    if not pa.types.is_integer(column.type) or column.null_count:
        found = next((value for value in column.to_pylist() if not isinstance(value, int)), None)
        raise FeatureMismatchError(f"{metadata}: embedding_idx is {found!r} in one row; integers are wanted")
    rows: Array = column.to_numpy()
    return rows


def read_npz(path: Path) -> ForeignFile:
    with zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
    if "X" not in names or not names & {"ids", "IDS"}:
        raise ManifestError(
            f"{path}: holds {', '.join(sorted(names)) or 'nothing'}; X and ids are wanted (or X, Y and IDS)"
        )
    with np.load(path, allow_pickle=False) as arrays:
        small = {name: _member(path, arrays, name) for name in sorted(names & {"ids", "IDS", "offsets", "Y"})}
    shape, dtype, _ = _npy_rows(path, "X")
    check_numbers(path, "X", dtype)
    if "ids" in small:
        ids = _ids(path, "ids", small["ids"])
        offsets = small.get("offsets")
        if offsets is not None:
            _check_offsets(path, offsets)
        granularity: Granularity = "utterance" if offsets is None else "frames"
    else:
        ids, offsets = _runs(path, np.array(_ids(path, "IDS", small["IDS"])))
        granularity = "windows"
    wanted = len(ids) if offsets is None else int(offsets[-1])
    if shape[0] != wanted or (offsets is not None and len(offsets) != len(ids) + 1):
        raise FeatureMismatchError(f"{path}: X has {shape[0]} rows, its ids call for {wanted}")
    columns = {}
    if "Y" in small:
        columns["label"] = _labels(path, small["Y"], ids, None if "ids" in small else offsets)
    lengths = [1] * len(ids) if offsets is None else np.diff(offsets).tolist()
    keys = ["X", "codes"] if "codes" in names and offsets is not None else ["X"]
    if len(keys) == 2:
        of_codes, kind, _ = _npy_rows(path, "codes")
        check_numbers(path, "codes", kind, whole=True)
        if len(of_codes) not in (1, 2) or of_codes[:1] != shape[:1]:
            raise FeatureMismatchError(
                f"{path}: codes has shape {of_codes}, one row per row of X is wanted: ({shape[0]},) or ({shape[0]}, K)"
            )

    def items() -> Iterator[tuple[str, Arrays]]:
        streams = [_cut(_npy_rows(path, key)[2], lengths) for key in keys]
        for name, *values in zip(ids, *streams, strict=True):
            if offsets is None:
                yield name, {"embedding": values[0][0]}
            else:
                yield name, dict(zip(("frames", "codes"), values, strict=False))

    return ForeignFile(path, granularity, items, columns)


def _ids(path: Path, name: str, values: Array) -> list[str]:
    """Return ids (N,) as texts; integers become their digits."""
    if values.ndim != 1 or values.dtype.kind not in "Uiu":
        advice = "; bytes become text by .astype(str)" if values.dtype.kind == "S" else ""
        raise FeatureMismatchError(
            f"{path}: {name} is of type {values.dtype} and shape {values.shape}; texts or integers, (N,), are "
            f"wanted{advice}"
        )
    return [str(value) for value in values.tolist()]


def _check_offsets(path: Path, offsets: Array) -> None:
    if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or not len(offsets):
        raise FeatureMismatchError(
            f"{path}: offsets is of type {offsets.dtype} and shape {offsets.shape}; integers (N + 1,) are wanted"
        )
    if offsets[0] != 0:
        raise FeatureMismatchError(f"{path}: offsets starts at {offsets[0]}; 0 is wanted")
    falling = np.flatnonzero(offsets[1:] < offsets[:-1])
    if len(falling):
        at = int(falling[0])
        raise FeatureMismatchError(
            f"{path}: offsets decreases from {offsets[at]} to {offsets[at + 1]} at position {at + 1}; it must not"
        )


def _runs(path: Path, of_row: Array) -> tuple[list[str], Array]:
    """Return the ids of utterances whose windows are adjacent, and the first window of each, (N + 1,)."""
    starts = np.concatenate([[0], np.flatnonzero(of_row[1:] != of_row[:-1]) + 1, [len(of_row)]]).astype(np.int64)
    starts = np.unique(starts)
    ids = [str(name) for name in of_row[starts[:-1]].tolist()]
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        for name in ids:
            if name in seen:
                raise FeatureMismatchError(f"{path}: windows of {name!r} are in several places; sort the rows by IDS")
            seen.add(name)
    return ids, starts


def _labels(path: Path, labels: Array, ids: Sequence[str], offsets: Array | None) -> pa.Array:
    wanted = len(ids) if offsets is None else int(offsets[-1])
    if labels.shape != (wanted,):
        raise FeatureMismatchError(f"{path}: Y has shape {labels.shape}, one label per row is wanted: ({wanted},)")
    if labels.dtype.kind not in "biufU":
        raise FeatureMismatchError(f"{path}: Y is of type {labels.dtype}; texts or numbers are wanted")
    if offsets is None:
        return pa.array(labels.tolist())
    if offsets[-1] and not np.diff(offsets).all():
        raise FeatureMismatchError(f"{path}: an utterance has no rows, so that Y does not label it")
    first = labels[offsets[:-1]]
    same = labels == np.repeat(first, np.diff(offsets))
    if not same.all():
        row = int(np.flatnonzero(~same)[0])
        name = ids[int(np.searchsorted(offsets, row, side="right")) - 1]
        raise FeatureMismatchError(f"{path}: windows of {name!r} have several labels, {labels[row]!r} in row {row}")
    return pa.array(first.tolist())


def _member(path: Path, arrays: Any, name: str) -> Array:
    _npy_rows(path, name)  # refuses a header that describes more than the file holds
    try:
        values: Array = arrays[name]
    except ValueError as exc:
        if "Object arrays" not in str(exc):
            raise CorruptFileError(f"{path}: {name} cannot be read: {exc}") from exc
        raise needs_pickle(f"{path} ({name})") from exc
    return values


def _load(path: Path, stream: Any, **options: Any) -> Array:
    try:
        values: Array = np.load(stream, allow_pickle=False, **options)
    except ValueError as exc:
        if "Object arrays" in str(exc) or "Python objects" in str(exc):
            raise needs_pickle(path) from exc
        raise CorruptFileError(f"{path}: cannot be read: {exc}") from exc
    return values


def _npy_rows(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any], Iterator[Array]]:
    """Return the shape and dtype of an array in an npz archive, and an iterator over blocks of its rows."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
        shape, is_fortran, dtype = _npy_header(path, name, member)
        held = archive.getinfo(f"{name}.npy").file_size - member.tell()
    if dtype.hasobject:
        raise needs_pickle(f"{path} ({name})")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != held:
        raise CorruptFileError(f"{path}: {name} has {held} bytes, its header describes {shape} of {dtype}")
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
    """Regroup blocks of rows (at least one block) into pieces of the given lengths."""
    rest = next(blocks)
    for length in lengths:
        parts = [rest[:length]]
        while (wanted := length - sum(map(len, parts))) > 0:
            rest = next(blocks)
            parts.append(rest[:wanted])
        rest = rest[len(parts[-1]) :]
        yield np.concatenate(parts) if len(parts) > 1 else parts[0]
