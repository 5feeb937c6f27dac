"""The manifest: one row per utterance, in Parquet, with the corpus's root in its metadata."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from voxshard import files
from voxshard.errors import DuplicateIdError, FormatVersionError, ManifestError
from voxshard.no_table import NO_TABLE

FORMAT_VERSION = 1

# Column -> type, in order; labels and whatever else the corpus has follow. `path` is binary instead of text in a
# manifest where at least one path is not valid UTF-8. `duration_s` is the utterance's: of its span, where it has one.
COLUMNS: dict[str, pa.DataType] = {
    "utterance_id": pa.string(),
    "path": pa.string(),
    "start_s": pa.float64(),
    "end_s": pa.float64(),
    "duration_s": pa.float64(),
    "sample_rate": pa.int32(),
    "num_channels": pa.int16(),
    "num_bytes": pa.int64(),
    "split": pa.string(),
    "fold": pa.string(),
    "speaker": pa.string(),
    "problem": pa.string(),
}


_REQUIRED = ("utterance_id", "path")
_OF_UTTERANCE = ("utterance_id", "path", "start_s", "end_s", "duration_s", "num_bytes", "problem")
OBJECT_VERSION = "object_version"
"""Column of corpora in buckets: the version of each object, as in `voxshard.remote.RemoteObject`."""

ROW_GROUP = 32_768
"""Rows of the file that are read together by who wants a few of them."""


@dataclass(frozen=True)
class Utterance:
    """Fields of a manifest row that decoding needs.

    `path` is relative to the manifest's root, or absolute, or a URL; `start_s` and `end_s` are seconds, None for the
    complete file; `duration_s` is None where nothing was probed.
    """

    utterance_id: str
    path: str | bytes
    start_s: float | None = None
    end_s: float | None = None
    duration_s: float | None = None
    num_bytes: int | None = None
    problem: str | None = None
    object_version: str | None = None
    """Version of an object in a bucket when it was prepared; null: not known."""


@dataclass(frozen=True)
class Manifest:
    """Utterance table in a fixed order, and the root of its audio."""

    table: pa.Table
    root: str
    """Folder or URL that relative paths start from."""
    corpus: str
    """Name of the corpus format it was prepared from."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        columns = ", ".join(self.table.column_names)
        return f"<Manifest of {len(self):,} utterances in {self.root} ({self.corpus}): {columns}>"

    @property
    def ids(self) -> list[str]:
        return self.table["utterance_id"].to_pylist()  # type: ignore[no-any-return]

    @property
    def label_columns(self) -> list[str]:
        """Return the columns beyond the fixed ones."""
        return [name for name in self.table.column_names if name not in COLUMNS and name != OBJECT_VERSION]

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]], *, root: str | os.PathLike[str], corpus: str) -> Manifest:
        """Build a manifest from one mapping per utterance; missing fixed columns are null, other keys become columns.

        Raises
        ------
        DuplicateIdError : two rows with one utterance_id; names both.
        ManifestError : a row without id or path, or columns whose values do not share a type.
        """
        names = dict.fromkeys(["utterance_id", "path", *(key for row in rows for key in row)])
        columns = {name: _column(name, [row.get(name) for row in rows]) for name in names}
        return cls.from_table(pa.table(columns), root=root, corpus=corpus)

    @classmethod
    def from_table(cls, table: pa.Table, *, root: str | os.PathLike[str], corpus: str) -> Manifest:
        """Build a manifest from columns: the fixed ones first, in their types, missing ones null, then all others.

        Raises
        ------
        DuplicateIdError : two rows with one utterance_id; names both.
        ManifestError : no id or path, in a row or at all, a fixed column of another type, or a span without numbers.
        """
        columns = {}
        for name, wanted in COLUMNS.items():
            if name not in table.column_names:
                if name not in _REQUIRED:
                    columns[name] = pa.nulls(len(table), wanted)
                continue
            column = table[name]
            binary_path = name == "path" and pa.types.is_binary(column.type)
            try:
                columns[name] = column if binary_path else column.cast(wanted)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
                raise ManifestError(f"column {name}: {exc}") from exc
        columns |= {name: table[name] for name in table.column_names if name not in COLUMNS}
        manifest = cls(pa.table(columns), os.fspath(root), corpus)
        manifest._check()
        return manifest

    def _check(self) -> None:
        for name in _REQUIRED:
            if name not in self.table.column_names:
                raise ManifestError(f"no column {name}; a manifest has at least utterance_id and path")
            if self.table[name].null_count:
                row = pc.index(self.table[name].is_null(), True).as_py()
                raise ManifestError(f"row {row} has no {name}")
        ids = self.table["utterance_id"]
        if pc.any(pc.match_substring(ids, "\0")).as_py():
            raise ManifestError("an utterance_id holds a NUL character; HDF5 cannot store it, rename the utterance")
        has_nul = pc.match_substring(self.table["path"].cast(pa.binary()), "\0")
        if pc.any(has_nul).as_py():
            raise ManifestError(
                f"row {pc.index(has_nul, True).as_py()}: a NUL character in path; no file has such a name"
            )
        for name in ("start_s", "end_s"):
            is_odd = pc.invert(pc.fill_null(pc.is_finite(self.table[name]), True))
            if pc.any(is_odd).as_py():
                row = pc.index(is_odd, True).as_py()
                raise ManifestError(
                    f"row {row}: {name} is {self.table[name][row].as_py()}; expected seconds, or nothing"
                )
        if _hashes_differ(ids) or pc.count_distinct(ids).as_py() == len(self):
            return
        counts = pc.value_counts(ids)
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        first, second = pc.indices_nonzero(pc.equal(ids, twice[0]))[:2].to_pylist()
        paths = self.table["path"]
        raise DuplicateIdError(
            f"utterance_id {twice[0].as_py()!r} is in rows {first} ({paths[first].as_py()!r}) and "
            f"{second} ({paths[second].as_py()!r})"
            + (f", and {len(twice) - 1} more ids appear twice" if len(twice) > 1 else "")
            + "; ids must be unique: fix the list, or use relative paths as ids"
        )

    def write(self, path: Path, *, first_wins: bool = False) -> None:
        """Publish the manifest as Parquet; by default the last writer wins."""
        with files.publish(path, first_wins=first_wins) as stream:
            self._write(stream)

    def to_parquet(self) -> pa.Buffer:
        """Return the bytes that `write` publishes."""
        stream = pa.BufferOutputStream()
        self._write(stream)
        return stream.getvalue()

    def _write(self, stream: Any) -> None:
        about = {"format_version": FORMAT_VERSION, "root": self.root, "corpus": self.corpus}
        text = json.dumps(about).encode()  # ASCII: a root that is not UTF-8 travels as escaped surrogates
        table = self.table.replace_schema_metadata({b"voxshard": text})
        pq.write_table(table, stream, row_group_size=ROW_GROUP, **parquet_options(table.schema))

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Open a manifest that `voxshard prepare` wrote.

        Raises
        ------
        ManifestError : missing, not Parquet, or not a manifest.
        FormatVersionError : written by a newer voxshard.
        """
        if path.is_dir():
            raise ManifestError(
                f"{path}: a folder; expected a manifest, made with `voxshard prepare folder {files.quoted(path)} --out "
                "manifest.parquet`"
            )
        try:
            table = files.with_retries(path, lambda: _read_table(path))
        except FileNotFoundError as exc:
            raise ManifestError(
                f"{path}: no such manifest; make it with `voxshard prepare FORMAT ROOT --out {path}`"
            ) from exc
        except (OSError, *NO_TABLE) as exc:
            raise ManifestError(f"{path}: not a Parquet file: {exc}; make it with `voxshard prepare`") from exc
        about = _about(path, table.schema)
        manifest = cls(table.replace_schema_metadata(None), about["root"], about["corpus"])
        manifest._check()
        return manifest

    def where(self, mask: Sequence[bool] | pa.Array) -> Manifest:
        """Return the rows where `mask` is true, in order."""
        return replace(self, table=self.table.filter(pa.array(mask, pa.bool_())))

    def select_split(self, split: str) -> Manifest:
        """Return the rows of one split.

        Raises
        ------
        ManifestError : no row has it; names the splits there are.
        """
        mask = pc.fill_null(pc.equal(self.table["split"], split), False)
        if not pc.any(mask).as_py():
            raise no_such_split(split, self.splits())
        return self.where(mask.combine_chunks() if isinstance(mask, pa.ChunkedArray) else mask)

    def splits(self) -> list[str]:
        """Return the names of the splits, in order of first appearance."""
        return [name for name in pc.unique(self.table["split"]).to_pylist() if name is not None]

    def head(self, count: int) -> Manifest:
        """Return the first `count` rows."""
        return replace(self, table=self.table.slice(0, count))

    def utterances(self, start: int = 0, stop: int | None = None) -> Iterator[Utterance]:
        """Return rows `start` to `stop` as utterances."""
        return _utterances(self.table.slice(start, None if stop is None else stop - start))

    def content_digest(self) -> str:
        """Return the SHA-256 of the id, path, start and end of every row, which decide the audio that is read.

        Labels, splits, probed facts and the root do not count: a corpus may move and gain labels.
        """
        digest = hashlib.sha256()
        for batch in self.table.select(("utterance_id", "path", "start_s", "end_s")).to_batches(max_chunksize=4096):
            names, paths, starts, ends = (column.to_pylist() for column in batch.columns)
            paths = [os.fsdecode(path) if isinstance(path, bytes) else path for path in paths]
            digest.update(_json_rows(list(zip(names, paths, starts, ends, strict=True))).encode())
        return digest.hexdigest()


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """Return the options of Parquet files that describe utterances.

    A dictionary of ids or paths, which differ in every row, makes a file three times as large and takes twice the time.
    """
    repeated = [name for name in schema.names if name not in _REQUIRED]
    return {"compression": "zstd", "use_dictionary": repeated, "write_page_checksum": True}


class ManifestFile:
    """The rows of a manifest, read from its file when they are asked for, so that a large corpus takes no memory."""

    def __init__(self, path: Path) -> None:
        """Open the file and keep it open: a manifest that is made again meanwhile is another file."""
        self._file = files.with_retries(path, lambda: pq.ParquetFile(path, page_checksum_verification=True))
        self.root: str = _about(path, self._file.schema_arrow)["root"]
        """Folder or URL that relative paths start from."""
        about = self._file.metadata
        sizes = (about.row_group(number).num_rows for number in range(about.num_row_groups))
        self._starts = list(itertools.accumulate(sizes, initial=0))

    def groups(self, columns: Sequence[str] | None = None) -> Iterator[tuple[int, pa.Table]]:
        """Yield (first row, some columns or all) of each row group."""
        for group, start in enumerate(self._starts[:-1]):
            table = self._file.read_row_group(group, columns, use_threads=False)
            yield start, table.replace_schema_metadata(None)

    def utterances(self, start: int, stop: int) -> Iterator[Utterance]:
        """Yield rows `start` to `stop` as utterances."""
        if start >= stop:
            return
        first, last = (np.searchsorted(self._starts, [start, stop - 1], "right") - 1).tolist()
        columns = [name for name in (*_OF_UTTERANCE, OBJECT_VERSION) if name in self._file.schema_arrow.names]
        groups = self._file.read_row_groups(range(first, last + 1), columns=columns, use_threads=False)
        yield from _utterances(groups.slice(start - self._starts[first], stop - start))


def _json_rows(rows: Sequence[tuple[Any, ...]]) -> str:
    """Return `json.dumps` of each row; encoding all rows together takes a third of the time."""
    parts = json.dumps(rows)[1:-1].split('], ["')
    if len(parts) == len(rows):
        return ']["'.join(parts)
    return "".join(map(json.dumps, rows))  # an id or path contains the separator


def no_such_split(split: str, available: Sequence[str]) -> ManifestError:
    """Return the error for a split that no utterance has."""
    return ManifestError(f"no utterance has split {split!r}; splits here: {', '.join(available) or 'none'}")


def _read_table(path: Path) -> pa.Table:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read(use_threads=False)  # threads keep the memory they read with


def _about(path: Path, schema: pa.Schema) -> dict[str, Any]:
    """Return format, root and corpus from a manifest's metadata."""
    metadata = (schema.metadata or {}).get(b"voxshard")
    if metadata is None:
        raise ManifestError(
            f"{path}: a Parquet file, but no manifest of voxshard; make one with `voxshard prepare table {path}`"
        )
    about: dict[str, Any] = json.loads(metadata)
    if about["format_version"] > FORMAT_VERSION:
        raise FormatVersionError(
            f"{path}: manifest format {about['format_version']}, this voxshard reads up to {FORMAT_VERSION}; update it"
        )
    return about


def _hashes_differ(ids: pa.ChunkedArray) -> bool:
    """Whether no two ids have the same hash, in 8 bytes for each; a table of the ids takes as much as the manifest."""
    hashes = np.empty(len(ids), np.int64)
    for start in range(0, len(ids), ROW_GROUP):
        part = ids.slice(start, ROW_GROUP).to_pylist()
        hashes[start : start + len(part)] = [hash(name) for name in part]
    hashes.sort()
    return bool((hashes[1:] != hashes[:-1]).all())


def _utterances(table: pa.Table) -> Iterator[Utterance]:
    extra = [OBJECT_VERSION] if OBJECT_VERSION in table.column_names else []
    for batch in table.select([*_OF_UTTERANCE, *extra]).to_batches(max_chunksize=4096):
        for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield Utterance(*values)


def _column(name: str, values: list[Any]) -> pa.Array:
    wanted = COLUMNS.get(name)
    if name == "path" and any(isinstance(value, bytes) for value in values):
        wanted, values = pa.binary(), [value if isinstance(value, bytes) else str(value).encode() for value in values]
    try:
        array = pa.array(values, wanted)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as exc:
        raise ManifestError(f"column {name}: {exc}") from exc
    return array.cast(pa.string()) if pa.types.is_null(array.type) else array
