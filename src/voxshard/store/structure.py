"""Attributes and arrays of a features file, validated against what merge writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from voxshard.errors import CorruptFileError
from voxshard.store import hdf5
from voxshard.store.hdf5 import BULK, PER_FRAME, Datasets
from voxshard.store.mapped import MappedFile, Rows
from voxshard.store.output_spec import GRANULARITIES, OutputSpec
from voxshard.store.seal import USER_BLOCK_BYTES

ARRAYS = ("id_text", "id_text_offsets", "id_hash", "id_row", "offsets", *BULK.values())
_FLOATS = ("<f4", "<f2")
TYPES: dict[str, tuple[str, ...]] = {
    "id_text": ("|u1",),
    "id_text_offsets": ("<i8",),
    "id_hash": ("<u8",),
    "id_row": ("<i8",),
    "offsets": ("<i8",),
    "embeddings": _FLOATS,
    "frames": _FLOATS,
    "codes": ("<i4",),
}
"""Types of each array, as NumPy writes them; columns of shards/ are int64, but for `SHARD_TEXTS`."""

SHARD_TEXTS = ("name", "digest")
SHARD_COLUMNS = (*SHARD_TEXTS, "first_row", "num_rows", "first_frame", "num_frames")
"""Columns that a table of shards has; those of where each shard's arrays begin depend on what these hold."""
_BYTES_AT_ONCE = 4 << 20


def structure_of(file: MappedFile) -> tuple[dict[str, Any], Datasets]:
    """Return the attributes of a features file and the positions of its arrays.

    Raises
    ------
    CorruptFileError : sealed as it is, and yet not what merge writes: an attribute or array is missing, is of another
        type or shape, or is not in the file.
    """
    facts = file.seal.facts
    layout: Datasets
    if file.seal.version > 1:
        try:
            datasets = facts["datasets"].items()
            layout = {name: (tuple(shape), np.dtype(dtype), at) for name, (shape, dtype, at) in datasets}
            attributes = dict(facts["attributes"])
        except (KeyError, TypeError, ValueError, AttributeError, SyntaxError) as exc:
            raise _odd(file.path, f"its facts cannot be read: {exc}") from exc
    else:
        with hdf5.reading(file.path) as content:
            attributes, layout = dict(content.attrs), dict(hdf5.datasets_of(content, ARRAYS))
    _check_attributes(file.path, attributes)
    _check_layout(file, attributes, layout)
    return attributes, layout


def _odd(path: Path, what: str) -> CorruptFileError:
    return CorruptFileError(f"{path}: {what}; not what voxshard writes, run `voxshard merge {path.parent}`")


def _check_attributes(path: Path, attributes: Mapping[str, Any]) -> None:
    for name in ("merge_id", "mode", "encoder", "fingerprint", "granularity"):
        if not isinstance(attributes.get(name), str):
            raise _odd(path, f"attribute {name} is {attributes.get(name)!r:.60}, a text is wanted")
    if attributes["granularity"] not in GRANULARITIES or attributes["mode"] not in ("packed", "index"):
        raise _odd(path, f"granularity is {attributes['granularity']!r:.60}, mode is {attributes['mode']!r:.60}")
    for name, is_wanted in (("dim", True), ("num_layers", False), ("num_codebooks", False)):
        value = attributes.get(name)
        is_size = isinstance(value, int | np.integer) and not isinstance(value, bool) and value > 0
        if not is_size and (is_wanted or value is not None):
            raise _odd(path, f"attribute {name} is {value!r:.60}, a number above 0 is wanted")
    for name in BULK.values():
        if attributes.get(f"{name}_dtype", TYPES[name][0]) not in TYPES[name]:
            raise _odd(path, f"attribute {name}_dtype is {attributes[f'{name}_dtype']!r:.60}")


def _check_layout(file: MappedFile, attributes: Mapping[str, Any], layout: Datasets) -> None:
    for name, (shape, dtype, at) in layout.items():
        if type(at) is not int or not all(type(size) is int and size >= 0 for size in shape):  # a bool is no size
            raise _odd(file.path, f"/{name} has shape {shape} and starts at {at!r:.60}")
        is_text = name.removeprefix("shards/") in SHARD_TEXTS
        wanted = TYPES.get(name, ("text",) if is_text else ("<i8",))
        if dtype.kind != "S" if is_text else dtype.str not in wanted:
            raise _odd(file.path, f"/{name} is of type {dtype}, wanted: {' or '.join(wanted)}")
        start, stop = hdf5.range_of((shape, dtype, at))
        if stop > file.size or start < 0 or (stop and start < USER_BLOCK_BYTES):
            raise _odd(file.path, f"/{name} is at bytes {start} to {stop} of {file.size}")
    missing = [name for name in ("id_text", "id_text_offsets", "id_hash", "id_row") if name not in layout]
    if missing:
        raise _odd(file.path, f"/{', /'.join(missing)} is missing")
    for name in BULK.values():
        if f"shards/{name}_at" in layout and f"{name}_dtype" not in attributes:
            raise _odd(file.path, f"attribute {name}_dtype is missing")
    sizes = {name: shape for name, (shape, _, _) in layout.items()}
    num_rows = (sizes["id_text_offsets"] or (0,))[0] - 1
    for name, wanted_shape in _shapes(attributes, sizes, num_rows).items():
        if name in sizes and sizes[name] != wanted_shape:
            raise _odd(file.path, f"/{name} has shape {sizes[name]}, wanted: {wanted_shape}")
    is_framewise = any(name in sizes for name in PER_FRAME)
    if is_framewise and "offsets" not in sizes:
        raise _odd(file.path, "/offsets is missing")


def _shapes(
    attributes: Mapping[str, Any], sizes: Mapping[str, tuple[int, ...]], num_rows: int
) -> dict[str, tuple[int, ...]]:
    """Return the shapes that fit the attributes and the number of rows."""
    row = OutputSpec.of(attributes).row_shape
    codebooks = attributes.get("num_codebooks")
    frames = next((sizes[name][0] for name in PER_FRAME if sizes.get(name)), 0)
    num_shards = (sizes.get("shards/name") or (0,))[0]
    return {
        "id_text": (max(sizes["id_text"], default=0),),
        "id_text_offsets": (max(num_rows, 0) + 1,),
        "id_row": sizes["id_hash"],
        "offsets": (num_rows + 1,),
        "embeddings": (num_rows, *row),
        "frames": (frames, *row),
        "codes": (frames, *sizes.get("codes", ())[1:2]) if codebooks is None else (frames, int(codebooks)),
        **{name: (num_shards,) for name in sizes if name.startswith("shards/")},
    }


def check_numbers(path: Path, rows: Mapping[str, Rows], *, threads: int = 1) -> None:
    """Read all rows of large arrays and check that numbers are finite and codes are not negative.

    Parameters
    ----------
    path : the file they belong to.
    rows : by the names of the datasets.

    Raises
    ------
    CorruptFileError : they are not; names the first row.
    """
    for name, values in rows.items():
        row = _first_bad_row(values, threads)
        if row is not None:
            kind = "negative numbers" if values.dtype.kind == "i" else "NaN or infinite numbers"
            raise CorruptFileError(f"{path}: /{name} has {kind}, the first in row {row}; not what voxshard writes")


def _first_bad_row(rows: Rows, threads: int) -> int | None:
    count = rows.shape[0]
    step = max(1, _BYTES_AT_ONCE // max(1, int(np.prod(rows.shape[1:], dtype=np.int64)) * rows.dtype.itemsize))

    def look(start: int) -> int | None:
        values = rows.read(start, min(start + step, count))
        is_good = values >= 0 if values.dtype.kind == "i" else np.isfinite(values)
        return None if is_good.all() else start + int(np.nonzero(~is_good)[0][0])

    with ThreadPoolExecutor(threads) as pool:
        return next((row for row in pool.map(look, range(0, count, step)) if row is not None), None)


def table_of_shards(file: MappedFile, layout: Datasets, *, checks: bool) -> dict[str, Any]:
    """Return the columns of the table of shards; empty if the set was not made from shards.

    Raises
    ------
    CorruptFileError : a column is missing, or a name is no text.
    """
    try:
        table = dict(_columns_of_shards(file, layout, checks=checks))
    except UnicodeDecodeError as exc:
        raise _odd(file.path, f"a name in /shards is damaged: {exc}") from exc
    missing = [name for name in SHARD_COLUMNS if name not in table]
    if table and missing:
        raise _odd(file.path, f"/shards/{', /shards/'.join(missing)} is missing")
    return table


def _columns_of_shards(file: MappedFile, layout: Datasets, *, checks: bool) -> Iterator[tuple[str, Any]]:
    if file.seal.version == 1:
        with hdf5.reading(file.path) as content:
            for name, dataset in content.get("shards", {}).items():
                is_text = h5py.check_string_dtype(dataset.dtype)
                column = hdf5.read_texts(content, f"shards/{name}") if is_text else dataset[:]
                yield "digest" if name == "sha256" else name, column
        return
    for name in layout:
        if name.startswith("shards/"):
            shape, dtype, at = layout[name]
            if checks:
                start, stop = hdf5.range_of(layout[name])
                file.check(start, stop - start)
            column = file.array(at, shape, dtype)
            yield name.removeprefix("shards/"), column.astype(str).tolist() if dtype.kind == "S" else column
