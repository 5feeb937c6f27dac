"""Export of a merged feature set to formats that other programs read: npy, json, npz, parquet, tsv.

Embeddings pass through in pieces, so that memory does not grow with them.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from voxshard import files
from voxshard.config import Settings
from voxshard.errors import ConfigError, DataError
from voxshard.locations import AnyLocation, Location, check_output, local_copy
from voxshard.progress import Progress
from voxshard.store import delimited, hdf5
from voxshard.store.batch import Batch
from voxshard.store.features import FeatureSet
from voxshard.uploads import output

Rows = npt.NDArray[np.int64]
Format = Literal["npy", "json", "npz", "parquet", "tsv"]

ALL = "all"
"""Name of the npy file with the rows that belong to no split."""

_SUFFIXES = {"npy": (), "json": (".json",), "npz": (".npz",), "parquet": (".parquet", ".pq"), "tsv": (".tsv", ".txt")}

_NO_BRACKETS = str.maketrans("", "", "[]")

_VALUES_AT_ONCE = 1 << 20
"""Numbers in memory at a time, unless a single utterance has more."""
_ROWS_AT_ONCE = 1 << 16


class ExportConfig(Settings):
    """Settings of one export."""

    features: Location
    """Folder of the feature set (DIR)."""
    format: Format
    """Format of the files to write."""
    out: Location
    """File to write; for npy, the folder."""
    split: str | None = None
    """Export only the utterances of this split; null: all utterances."""
    label: str | None = None
    """With npz, the column that becomes the array Y."""


def export(config: ExportConfig, progress: Progress, check: Callable[[], None]) -> Sequence[AnyLocation]:
    """Write a feature set, or one split of it, in another format; each file appears complete or not at all.

    Parameters
    ----------
    check : called now and then; raises if a stop was requested.

    Returns
    -------
    The files written.

    Raises
    ------
    ConfigError : a column or a format that this set has not, or that does not go with it.
    DataError : no such split, or the set itself cannot be opened; see `FeatureSet`.
    """
    check_output(config.out, _SUFFIXES[config.format])
    features = FeatureSet(local_copy(config.features))
    if config.label is not None and config.format != "npz":
        raise ConfigError(f"--label {config.label}: only npz takes it (as Y); npy, parquet and tsv have every column")
    if config.format != "npy" and isinstance(config.out, Path) and config.out.is_dir():
        raise ConfigError(f"--out {config.out}: is a folder; {config.format} is written as one file, name it")
    rows = _selected(features, config.split)
    writer = _ExportWriter(features, rows, progress, check)
    progress.begin(f"export {config.format}", items=len(rows))
    with output(config.out) as path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if config.format == "npy":
            written = writer.npy(path)
            return written if isinstance(config.out, Path) else [config.out / item.name for item in written]
        with files.publish(path) as stream:
            if config.format == "npz":
                writer.npz(stream, config.label)
            else:
                {"json": writer.json, "parquet": writer.parquet, "tsv": writer.tsv}[config.format](stream)
    return [config.out]


def _selected(features: FeatureSet, split: str | None) -> Rows:
    rows = np.arange(len(features))
    if split is not None:
        rows = np.flatnonzero(pc.fill_null(pc.equal(features.table["split"], split), False).to_numpy())
        if not len(rows):
            names = [name for name in pc.unique(features.table["split"]).to_pylist() if name is not None]
            raise DataError(
                f"{features.path}: no utterance has split {split!r}; splits here: {', '.join(names) or 'none'}"
            )
    if not len(rows):
        raise DataError(f"{features.path}: has no utterances, so there is nothing to export; see its failures.csv")
    return rows


class _ExportWriter:
    def __init__(self, features: FeatureSet, rows: Rows, progress: Progress, check: Callable[[], None]) -> None:
        self.features, self.rows, self.progress, self.check = features, rows, progress, check
        self.is_framewise = not features.has("embeddings")
        self.row_shape = features.row_shape

    def npy(self, folder: Path) -> list[Path]:
        """Write an array and a metadata file per split, and the checksums of all of them."""
        if self.is_framewise:
            raise ConfigError(
                f"--format npy: has one row per utterance, {self.features.path} holds {self.features.granularity}; "
                "use json, npz or parquet, or extract with --set pooling=mean"
            )
        folder.mkdir(parents=True, exist_ok=True)
        column = pc.fill_null(self.features.table["split"], ALL).to_numpy()
        written = []
        for split in dict.fromkeys(column[self.rows].tolist()):
            if "/" in split or split.startswith("."):
                raise DataError(f"{self.features.path}: split {split!r} cannot be the name of a file; rename the split")
            rows = self.rows[column[self.rows] == split]
            array, metadata = folder / f"{split}.npy", folder / f"{split}_metadata.csv"
            types = metadata.with_suffix(".dtypes.json")
            with files.publish(array) as stream:
                self._write_npy(stream, "embeddings", rows)
            with files.publish(metadata) as stream:
                self._write_metadata(stream, rows)
            files.publish_json(types, self._pandas_dtypes(rows))
            written += [array, metadata, types]
        sums = folder / "SHA256SUMS"
        text = "".join(f"{files.sha256_of(path)}  {path.name}\n" for path in written)
        files.publish_bytes(sums, text.encode())
        return [*written, sums]

    def json(self, stream: IO[bytes]) -> None:
        """Write one JSON object, `{"<utterance_id>": [...], ...}`, with one line per utterance."""
        before = b"{\n"
        for batch in self._batches():
            for name, text in zip(
                batch.ids, self._json(batch), strict=True
            ):  # one by one: no large text in fresh pages
                stream.write(before + orjson.dumps(name) + b":" + text)
                before = b",\n"
        stream.write(b"\n}\n")

    def _json(self, batch: Batch) -> Iterator[bytes]:
        """Yield each utterance's numbers as nested lists, in the shortest decimals that restore the same float32."""
        values, lengths = self._values(batch)
        items = values if lengths is None else np.split(values, np.cumsum(lengths[:-1]))
        return (orjson.dumps(item, option=orjson.OPT_SERIALIZE_NUMPY) for item in items)

    def npz(self, stream: IO[bytes], label: str | None) -> None:
        """Write the arrays ids and X; offsets if the set has frames or windows; codes and Y if they exist."""
        labels = self._labels(label) if label is not None else None
        with zipfile.ZipFile(stream, "w") as archive:
            width = max(1, *(len(name) for rows in self._pieces(self.rows) for name in self.features.ids_of(rows)))
            parts = (np.array(self.features.ids_of(rows), f"<U{width}") for rows in self._pieces(self.rows))
            self._add(archive, "ids", (len(self.rows),), f"<U{width}", parts)
            with self._member(archive, "X") as member:
                self._write_npy(member, "frames" if self.is_framewise else "embeddings", self.rows)
            if self.features.offsets is not None:
                counts = np.diff(self.features.offsets)[self.rows]
                offsets = np.concatenate([[0], np.cumsum(counts)]).astype("<i8")
                self._add(archive, "offsets", offsets.shape, "<i8", [offsets])
            if self.features.has("codes"):
                with self._member(archive, "codes") as member:
                    self._write_npy(member, "codes", self.rows)
            if labels is not None:
                self._add(archive, "Y", labels.shape, labels.dtype, [labels])

    def parquet(self, stream: IO[bytes]) -> None:
        """Write one row per utterance: every column of utterances.parquet, and `embedding` or `frames` (and
        `codes`)."""
        table = self.features.table
        writer: pq.ParquetWriter | None = None
        for batch in self._batches():
            part = table.take(pa.array(batch.rows))
            for name, column in self._columns(batch):
                part = part.append_column(name, column)
            writer = writer or pq.ParquetWriter(stream, part.schema, compression="zstd")
            writer.write_table(part)
        if writer:
            writer.close()

    def tsv(self, stream: IO[bytes]) -> None:
        """Write one row per utterance: every column of utterances.parquet, then one column per number, or frames as
        JSON."""
        text = _text(stream)
        table = self.features.table
        writer = delimited.writer(text, "\t")
        if self.is_framewise:
            writer.writerow([*table.column_names, "frames"])
        else:
            writer.writerow(
                [
                    *table.column_names,
                    *("embedding_" + "_".join(map(str, index)) for index in np.ndindex(self.row_shape)),
                ]
            )
        for batch in self._batches():
            about = _cells(table.take(pa.array(batch.rows)))
            texts = (text.decode() for text in self._json(batch))
            if self.is_framewise:
                writer.writerows([*row, frames] for row, frames in zip(about, texts, strict=True))
            else:
                numbers = (text.translate(_NO_BRACKETS).split(",") for text in texts)
                writer.writerows([*row, *cells] for row, cells in zip(about, numbers, strict=True))
        text.detach()

    def _pieces(self, rows: Rows) -> Iterator[Rows]:
        """Divide rows into pieces of about `_VALUES_AT_ONCE` numbers each."""
        size = int(np.prod(self.row_shape))
        offsets = self.features.offsets
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[start : start + _ROWS_AT_ONCE]
            counts = np.ones(len(some), np.int64) if offsets is None else offsets[some + 1] - offsets[some]
            piece = np.cumsum(counts * size) // _VALUES_AT_ONCE
            yield from np.split(some, np.flatnonzero(np.diff(piece)) + 1)

    def _batches(self) -> Iterator[Batch]:
        for rows in self._pieces(self.rows):
            self.check()
            yield self.features.read(rows)
            self.progress.advance(len(rows))

    def _values(self, batch: Batch) -> tuple[npt.NDArray[Any], list[int] | None]:
        if batch.embeddings is not None:
            return batch.embeddings, None
        assert batch.frames is not None
        assert batch.offsets is not None
        return batch.frames, np.diff(batch.offsets).tolist()

    def _columns(self, batch: Batch) -> Iterator[tuple[str, pa.Array]]:
        if batch.embeddings is not None:
            yield "embedding", _fixed_lists(batch.embeddings)
        for name, values in (("frames", batch.frames), ("codes", batch.codes)):
            if values is not None and batch.offsets is not None:
                yield name, pa.LargeListArray.from_arrays(pa.array(batch.offsets), _fixed_lists(values))

    def _write_npy(self, stream: IO[bytes], name: str, rows: Rows) -> None:
        large = self.features.large(name)
        count = len(rows)
        if name != "embeddings":
            assert self.features.offsets is not None
            count = int(np.diff(self.features.offsets)[rows].sum())
        _write_header(stream, (count, *large.shape[1:]), large.dtype)
        for piece in self._pieces(rows):
            self.check()
            values = getattr(self.features.read(piece), name)
            stream.write(values.tobytes())
            if name != "codes":
                self.progress.advance(len(piece))

    def _member(self, archive: zipfile.ZipFile, name: str) -> IO[bytes]:
        return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)

    def _add(
        self, archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike, parts: Any
    ) -> None:
        with self._member(archive, name) as member:
            _write_header(member, shape, np.dtype(dtype))
            for part in parts:
                member.write(part.tobytes())

    def _labels(self, name: str) -> npt.NDArray[Any]:
        table = self.features.table
        if name not in table.column_names:
            raise ConfigError(f"--label {name}: no such column; columns here: {', '.join(table.column_names)}")
        column = table[name].take(pa.array(self.rows)).combine_chunks()
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            return np.array([value or "" for value in column.to_pylist()], str)
        values: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False)
        if values.dtype == object:
            raise ConfigError(
                f"--label {name}: of type {column.type}, which npz cannot hold without pickle; use parquet"
            )
        return values

    def _write_metadata(self, stream: IO[bytes], rows: Rows) -> None:
        table = self.features.table.take(pa.array(rows))
        text = _text(stream)
        writer = delimited.writer(text)
        writer.writerow([*table.column_names, "embedding_idx"])
        writer.writerows([*row, index] for index, row in enumerate(_cells(table)))
        text.detach()

    def _pandas_dtypes(self, rows: Rows) -> dict[str, str]:
        """Return the `dtype` argument with which pandas reads the metadata columns as `FeatureSet.to_pandas` returns
        them, so that text of digits remains text. A column of true, false and null needs none."""
        table = self.features.table.take(pa.array(rows))
        found = {name: _pandas_dtype(table[name]) for name in table.column_names}
        return {name: dtype for name, dtype in found.items() if dtype is not None} | {"embedding_idx": "int64"}


def _pandas_dtype(column: pa.ChunkedArray) -> str | None:
    if pa.types.is_boolean(column.type):
        return None if column.null_count else "bool"
    if pa.types.is_integer(column.type):
        return "float64" if column.null_count else str(column.type)
    if pa.types.is_floating(column.type):
        return {"float": "float32", "double": "float64"}.get(str(column.type))
    return "str"


def _text(stream: IO[bytes]) -> io.TextIOWrapper:
    """Return a text stream for the csv module; it is detached, not closed, at the end."""
    return io.TextIOWrapper(stream, "utf-8", newline="", write_through=True)


def _write_header(stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, about)


def _cells(table: pa.Table) -> Iterator[Sequence[Any]]:
    """Yield the rows of a table as CSV cells; null becomes an empty cell."""
    for batch in table.to_batches(max_chunksize=4096):
        yield from zip(*([_cell(value) for value in column.to_pylist()] for column in batch.columns), strict=True)


def _cell(value: Any) -> Any:
    if isinstance(value, bytes):
        return hdf5.readable(os.fsdecode(value))
    return "" if value is None else value


def _fixed_lists(values: npt.NDArray[Any]) -> pa.Array:
    flat = np.ascontiguousarray(values).reshape(-1)
    array = pa.array(flat.astype(np.float32) if flat.dtype == np.float16 else flat)  # few readers know half floats
    for size in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array
