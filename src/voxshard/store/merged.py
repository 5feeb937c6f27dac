"""Writing of the four files of a merged feature set: features.h5, utterances.parquet, failures.csv, summary.json.

All four carry one merge_id, a digest of what was merged: the same shards and labels give the same files, and a reader
that finds two ids knows that a merge was interrupted between two renames.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from voxshard import files, leases
from voxshard.errors import CorruptFileError, IncompleteError
from voxshard.files import quoted
from voxshard.manifest import ROW_GROUP, parquet_options
from voxshard.no_table import NO_TABLE
from voxshard.store import delimited, hdf5, lookup, seal
from voxshard.store.hdf5 import BULK, Datasets
from voxshard.store.layout import FORMAT_VERSION, FeatureDir, read_sealed, sealed, sets_below, text_and_ends
from voxshard.store.shard import Failure

FRAME_COLUMNS = ("first_frame", "num_frames")
"""Columns of utterances.parquet that record which rows of /frames are an utterance's."""

_TEXTS_AT_ONCE = 1 << 16
_LEASE = ".merge.lease"

Blocks = tuple[list[int], list[bytes]]
"""Ends of blocks in a file, and their digests."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """Content of features.h5."""

    attributes: Mapping[str, Any]
    num_rows: int
    num_id_bytes: int
    ids: Callable[[], Iterator[pa.Array]]
    """Returns an iterator over the utterance_ids in order, in several arrays."""
    failures: Sequence[Failure]
    warnings: Mapping[str, str]
    """Warnings from decoding, by utterance_id."""
    offsets: npt.NDArray[np.int64] | None
    """(N + 1,) first frame of each utterance and the number of frames; None without frames and codes."""
    shards: Mapping[str, npt.NDArray[Any]]
    """Columns of the table of shards; empty if the set was not made from shards."""
    bulk: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
    """Shape and type of each large dataset; empty if they stay in the shards."""
    fill: Callable[[int, Mapping[str, int]], Mapping[str, Blocks]]
    """Writes the large datasets into an open file (descriptor), each at its given first byte."""


def write_features(path: Path, content: Content, meanwhile: Callable[[], None]) -> str:
    """Write features.h5 to a temporary path; it is safely on disk when this returns.

    What the HDF5 library has to write comes first, and the file is closed: that library does not survive a full disk.
    The arrays whose places it fixed are then written in place, the large datasets in threads of their own.

    Parameters
    ----------
    meanwhile : further work, done while the large datasets come in.

    Returns
    -------
    The digest (hex) of the file.
    """
    hashes = np.empty(content.num_rows, np.uint64)
    with hdf5.writing(path) as file:
        _write_texts(file, content, hashes)
        order = lookup.order_of(hashes)
        datasets = _write_structure(file, content, lookup.num_slots(hashes, order))
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        content_stop = os.fstat(descriptor).st_size
        ranges = {name: hdf5.range_of(datasets[name]) for name in content.bulk}
        with ThreadPoolExecutor(1) as filler:
            filling = filler.submit(content.fill, descriptor, {name: start for name, (start, _) in ranges.items()})
            _write_index(descriptor, datasets, content, hashes, order)
            meanwhile()
        filled = filling.result()
        stops, digests = _blocks(descriptor, {ranges[name]: filled[name] for name in filled}, content_stop)
        facts = {
            "attributes": {name: value for name, value in content.attributes.items() if value is not None},
            "datasets": {name: [list(shape), dtype.str, at] for name, (shape, dtype, at) in datasets.items()},
        }
        if content.warnings:
            facts["warnings"] = {name: hdf5.readable(text) for name, text in content.warnings.items()}
        block, table = seal.user_block_and_table("features", content_stop, stops, digests, facts)
        write_at(descriptor, memoryview(table), content_stop)
        write_at(descriptor, memoryview(block), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return seal.read_digest(path, "features")


def _blocks(descriptor: int, filled: Mapping[seal.Range, Blocks], content_stop: int) -> Blocks:
    """Return all blocks of a file: those of its large arrays as given, and those of its structure, which are hashed
    here."""
    stops: list[int] = []
    digests: list[bytes] = []
    ranges = sorted(item for item in filled if item[1])
    position = seal.USER_BLOCK_BYTES
    for first, last in [*ranges, (content_stop, content_stop)]:
        between = seal.block_stops(position, first)
        digests += seal.hash_blocks(descriptor, [position, *between[:-1]], between) if between else []
        stops += between
        if (first, last) in filled:
            stops += filled[first, last][0]
            digests += filled[first, last][1]
        position = last
    return stops, digests


def _write_texts(file: h5py.File, content: Content, hashes: lookup.Hashes) -> None:
    """Write /utterance_id, (N,) texts, and store their hashes in `hashes`."""
    dataset = file.create_dataset("utterance_id", (content.num_rows,), hdf5.TEXT)
    row = 0
    for part in content.ids():
        for start in range(0, len(part), _TEXTS_AT_ONCE):
            texts = part.slice(start, _TEXTS_AT_ONCE).cast(pa.binary()).to_pylist()
            if row + len(texts) > len(hashes):
                raise _other_ids(content)
            dataset[row : row + len(texts)] = np.array(texts, object)
            hashes[row : row + len(texts)] = lookup.hash_texts(texts)
            row += len(texts)
    if row != len(hashes):
        raise _other_ids(content)


def _other_ids(content: Content) -> CorruptFileError:
    return CorruptFileError(f"not the {content.num_rows} utterance_ids that were expected; their source changed")


def _write_structure(file: h5py.File, content: Content, num_slots: int) -> Datasets:
    hdf5.write_attributes(file, content.attributes)
    hdf5.reserve(file, "id_text", (content.num_id_bytes,), np.uint8)
    hdf5.reserve(file, "id_text_offsets", (content.num_rows + 1,), np.int64)
    hdf5.reserve(file, "id_hash", (num_slots,), np.uint64)
    hdf5.reserve(file, "id_row", (num_slots,), np.int64)
    hdf5.write_failures(file, content.failures)
    if content.offsets is not None:
        file.create_dataset("offsets", data=content.offsets)
    for name, column in content.shards.items():
        file.create_dataset(f"shards/{name}", data=column)
    for name, (shape, dtype) in content.bulk.items():
        hdf5.reserve(file, name, shape, dtype)
    arrays = ("id_text", "id_text_offsets", "id_hash", "id_row", "offsets", *BULK.values())
    return hdf5.datasets_of(file, (*arrays, *(f"shards/{name}" for name in content.shards)))


def _write_index(
    descriptor: int, datasets: Datasets, content: Content, hashes: lookup.Hashes, order: lookup.RowNumbers
) -> None:
    """Write the text of the ids, and the hash table that leads from an id to its row."""
    at = {name: dataset[2] for name, dataset in datasets.items()}
    size = 0
    end_at = _put(descriptor, np.zeros(1, np.int64), at["id_text_offsets"])
    for part in content.ids():
        text, ends = text_and_ends(part)
        if size + len(text) <= content.num_id_bytes:
            _put(descriptor, text, at["id_text"] + size)
            end_at = _put(descriptor, size + ends, end_at)
        size += len(text)
    if size != content.num_id_bytes:
        raise _other_ids(content)
    hash_at, row_at = at["id_hash"], at["id_row"]
    for slot_hash, slot_row in lookup.pieces(hashes, order):
        hash_at, row_at = _put(descriptor, slot_hash, hash_at), _put(descriptor, slot_row, row_at)


def _put(descriptor: int, array: npt.NDArray[Any], position: int) -> int:
    """Write an array at a position of an open file, and return the position after it."""
    write_at(descriptor, array.view(np.uint8).data, position)
    return position + array.nbytes


def write_at(descriptor: int, view: memoryview, position: int) -> None:
    """Write a complete view at a position of an open file."""
    while view:
        count = os.pwrite(descriptor, view, position)
        view, position = view[count:], position + count


def write_stream(descriptor: int, at: int, num_bytes: int, blocks: Iterable[bytes]) -> Blocks:
    """Write one dataset whose bytes come in order, and return its blocks with their digests.

    Raises
    ------
    CorruptFileError : more or fewer bytes came than were announced.
    """
    done = 0
    for block in blocks:
        write_at(descriptor, memoryview(block), at + done)
        done += len(block)
    if done != num_bytes:
        raise CorruptFileError(f"{done} bytes came for a dataset of {num_bytes}; its sources changed meanwhile")
    stops = seal.block_stops(at, at + done)
    return stops, seal.hash_blocks(descriptor, [at, *stops[:-1]], stops) if stops else []


def publish_set(
    folder: FeatureDir,
    content: Content,
    utterances: Iterable[pa.Table],
    failures: Iterable[Mapping[str, Any]],
    summary: dict[str, Any],
) -> dict[str, Any]:
    """Write the four files under temporary names, then publish them together, summary.json last.

    Of two merges at the same time, each publishes its four files while the other waits: the last one wins completely.

    Parameters
    ----------
    content : its attributes hold the merge_id.
    utterances : at least one table, N rows in all; row i describes row i of the arrays.
    failures : rows of failures.csv: utterance_id, path, split, error, message.
    summary : what summary.json states, without merge_id and the files' digests.

    Returns
    -------
    The summary, complete.
    """
    merge_id = content.attributes["merge_id"]
    targets = (folder.features, folder.utterances, folder.failures, folder.summary)
    features, table, csv, about = temporary = [files.temp_path_for(path) for path in targets]

    def write_tables() -> None:
        _write_durably(table, lambda stream: _write_utterances(stream, utterances, merge_id))
        _write_durably(csv, lambda stream: stream.write(_failures_csv(failures, merge_id)))

    try:
        with files.storage_errors(folder.features):
            digest = write_features(features, content, write_tables)
            small = {
                target.name: {"num_bytes": path.stat().st_size, "sha256": files.sha256_of(path)}
                for target, path in ((folder.utterances, table), (folder.failures, csv))
            }
            complete = {
                "merge_id": merge_id,
                "format_version": FORMAT_VERSION,
                "stale": False,
                **summary,
                "files": {folder.features.name: {"num_bytes": features.stat().st_size, "digest": digest}, **small},
            }
            text = json.dumps(sealed(complete), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
            _write_durably(about, lambda stream: stream.write(text.encode()))
            with exclusive(folder):
                for path, target in zip(temporary, targets, strict=True):
                    os.replace(path, target)
                files.fsync_folder(folder.path)
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)
    return complete


@contextmanager
def exclusive(folder: FeatureDir) -> Iterator[None]:
    """Let other merges wait before they replace the merged files, until the block ends."""
    lease = folder.path / _LEASE
    try:
        while not leases.take(lease):
            time.sleep(0.02)
    except OSError:
        pass  # advice that cannot be given: readers find out where two merges are mixed
    try:
        yield
    finally:
        with suppress(OSError):
            lease.unlink(missing_ok=True)


def _write_durably(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    with open(path, "xb") as stream:
        write(stream)
        stream.flush()
        os.fsync(stream.fileno())


def _write_utterances(stream: IO[bytes], tables: Iterable[pa.Table], merge_id: str) -> None:
    about = json.dumps({"format_version": FORMAT_VERSION, "merge_id": merge_id}).encode()
    writer: pq.ParquetWriter | None = None
    for table in tables:
        table = table.replace_schema_metadata({b"voxshard": about})
        writer = writer or pq.ParquetWriter(stream, table.schema, **parquet_options(table.schema))
        writer.write_table(table, row_group_size=ROW_GROUP)
    assert writer is not None, "a set has at least one table, be it empty"
    writer.close()


def _failures_csv(rows: Iterable[Mapping[str, Any]], merge_id: str) -> bytes:
    text = io.StringIO(newline="")
    writer = delimited.writer(text)
    columns = ("utterance_id", "path", "split", "error", "message")
    writer.writerow([*columns, "merge_id"])
    for row in rows:
        cells = ("" if row[name] is None else hdf5.readable(str(row[name])) for name in columns)
        writer.writerow([*cells, merge_id])
    return text.getvalue().encode()


_KEYS_OF_SUMMARY: dict[str, type] = {
    "merge_id": str,
    "stale": bool,
    "mode": str,
    "reasons": dict,
    "splits": dict,
    "utterances/total": int,
    "utterances/ok": int,
    "utterances/failed": int,
    "shards/total": int,
    "shards/deleted": bool,
    "files/features.h5": dict,
    "files/utterances.parquet/sha256": str,
    "files/failures.csv/sha256": str,
}
"""What readers take from summary.json."""


def not_merged(folder: FeatureDir) -> IncompleteError:
    """Return the error for a folder without merged files; it names the feature sets in it, or the command to run."""
    path = folder.path
    if not folder.identity.exists() and (below := sets_below(path)):
        return IncompleteError(f"{path}: not a feature set; give one of those in it: {', '.join(map(quoted, below))}")
    if not folder.identity.exists() and (path / "model").is_dir():
        return IncompleteError(f"{path}: a run; give the feature set, a folder that `voxshard extract` made")
    return IncompleteError(f"{path}: no merged feature set here; run `voxshard merge {quoted(path)}`")


def read_summary(folder: FeatureDir) -> dict[str, Any] | None:
    """Read DIR/summary.json; None if nothing was merged yet.

    Raises
    ------
    CorruptFileError : not what merge writes.
    FormatVersionError : written by a newer voxshard.
    """
    try:
        summary = read_sealed(folder.summary)
    except (FileNotFoundError, NotADirectoryError):
        return None
    for keys, kind in _KEYS_OF_SUMMARY.items():
        value: Any = summary
        for key in keys.split("/"):
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise CorruptFileError(
                f"{folder.summary}: not the summary of a merged set: {keys.replace('/', '.')} is {value!r:.60}; run "
                f"`voxshard merge {folder.path}`"
            )
    return summary


def write_summary(folder: FeatureDir, summary: Mapping[str, Any]) -> None:
    """Replace summary.json; the other merged files remain unchanged."""
    files.publish_json(folder.summary, sealed(summary))


def mark_stale(folder: FeatureDir) -> None:
    """Record that shards were rewritten after the merge, until `voxshard merge` runs again. Has no effect if nothing
    was merged."""
    summary = read_summary(folder)
    if summary is not None:
        write_summary(folder, {**summary, "stale": True})


def differs_from_summary(folder: FeatureDir, summary: Mapping[str, Any]) -> list[Path]:
    """Return those of utterances.parquet and failures.csv whose bytes differ from the digests in summary.json."""
    small = (folder.utterances, folder.failures)
    return [path for path in small if files.sha256_of(path) != summary["files"][path.name]["sha256"]]


def merge_id_of_table(path: Path) -> str:
    """Read the merge_id of utterances.parquet from its footer."""
    try:
        metadata = files.with_retries(path, lambda: pq.read_schema(path)).metadata or {}
        return str(json.loads(metadata[b"voxshard"])["merge_id"])
    except FileNotFoundError as exc:
        raise IncompleteError(f"{path}: missing; run `voxshard merge {quoted(path.parent)}`") from exc
    except (OSError, *NO_TABLE, KeyError, ValueError) as exc:
        raise CorruptFileError(
            f"{path}: not the table of a merged set: {exc}; run `voxshard merge {quoted(path.parent)}`"
        ) from exc
