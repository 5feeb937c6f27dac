"""Writing the four files of a merged feature set: features.h5, utterances.parquet, failures.csv, summary.json.

All four carry one merge_id, a digest of what was merged: the same shards and labels give the same files, and a reader
that finds two ids knows that a merge was interrupted between two renames.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from voxshard import files
from voxshard.errors import CorruptFileError, IncompleteError
from voxshard.store import delimited, hdf5, lookup
from voxshard.store.hdf5 import USER_BLOCK_BYTES
from voxshard.store.layout import FORMAT_VERSION, FeatureDir
from voxshard.store.shard import Failure

Buffer = bytes | memoryview

FRAME_COLUMNS = ("first_frame", "num_frames")
"""Columns of utterances.parquet that say which rows of /frames are an utterance's."""

_BLOCK_BYTES = 8 << 20
_TEXTS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Bulk:
    """One large dataset whose bytes come in order."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Callable[[], Iterator[Buffer]]

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True)
class Content:
    """What features.h5 holds."""

    attributes: Mapping[str, Any]
    ids: pa.Array
    failures: Sequence[Failure]
    offsets: npt.NDArray[np.int64] | None
    """(N + 1,) where there are frames or codes."""
    shards: Mapping[str, npt.NDArray[Any]]
    """Columns of the table of shards; empty for a set that was not made from shards."""
    bulk: Mapping[str, Bulk]
    """Dataset -> its bytes; empty where they stay in the shards."""


class OrderedHash:
    """SHA-256 computed in a thread beside the reading and writing; blocks count in the order they are given."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._digest = hashlib.sha256()
        self._pool = pool
        self._last: Future[None] | None = None

    def update(self, block: Buffer) -> None:
        """Take a block, which must not change afterwards; waits until the one before is done."""
        self._wait()
        self._last = self._pool.submit(self._digest.update, block)

    def hexdigest(self) -> str:
        """Of all blocks so far."""
        self._wait()
        return self._digest.hexdigest()

    def _wait(self) -> None:
        if self._last:
            self._last.result()


def write_features(path: Path, content: Content) -> str:
    """Write features.h5 under a temporary name, on disk when this returns.

    The structure goes first, with room for the large datasets; their bytes are then written in place, while the
    SHA-256 of the file is computed in one pass from front to back.

    Returns
    -------
    SHA-256 (hex) of everything behind the user block.
    """
    with hdf5.writing(path) as file:
        places = _write_structure(file, content)
    descriptor = os.open(path, os.O_RDWR)
    try:
        with ThreadPoolExecutor(1) as pool:
            digest = OrderedHash(pool)
            position = USER_BLOCK_BYTES
            for place, name in sorted((place, name) for name, place in places.items()):
                _hash_range(descriptor, position, place, digest)
                position = place + _fill(descriptor, place, content.bulk[name], digest)
            _hash_range(descriptor, position, os.fstat(descriptor).st_size, digest)
            found = digest.hexdigest()
        _write_at(descriptor, memoryview(hdf5.seal("features", found)), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return found


def _write_structure(file: h5py.File, content: Content) -> dict[str, int]:
    hdf5.write_attributes(file, content.attributes)
    ids = content.ids.cast(pa.large_binary())
    dataset = file.create_dataset("utterance_id", (len(ids),), hdf5.TEXT)
    hashes = [np.empty(0, np.uint64)]
    for start in range(0, len(ids), _TEXTS_AT_ONCE):
        part = ids.slice(start, _TEXTS_AT_ONCE).to_pylist()
        dataset[start : start + len(part)] = np.array(part, object)
        hashes.append(lookup.hash_texts(part))
    text, text_offsets = _text_of(ids)
    file.create_dataset("id_text", data=text)
    file.create_dataset("id_text_offsets", data=text_offsets)
    slot_hash, slot_row = lookup.build(np.concatenate(hashes))
    file.create_dataset("id_hash", data=slot_hash)
    file.create_dataset("id_row", data=slot_row)
    hdf5.write_failures(file, content.failures)
    if content.offsets is not None:
        file.create_dataset("offsets", data=content.offsets)
    for name, column in content.shards.items():
        if column.dtype == object:
            hdf5.write_texts(file, f"shards/{name}", column)
        else:
            file.create_dataset(f"shards/{name}", data=column)
    # Datasets get their place when they are made, those with no bytes none at all.
    made = {name: hdf5.reserve(file, name, bulk.shape, bulk.dtype) for name, bulk in content.bulk.items()}
    return {name: hdf5.place(dataset) for name, dataset in made.items() if dataset.size}


def _text_of(ids: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """All ids in one array of bytes, and where each starts (N + 1,): what look-ups compare with, mapped."""
    if not len(ids):
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    _, starts, text = ids.buffers()
    offsets = np.frombuffer(starts, np.int64, len(ids) + 1, ids.offset * 8)
    return np.frombuffer(text or b"", np.uint8)[offsets[0] : offsets[-1]], offsets - offsets[0]


def _fill(descriptor: int, place: int, bulk: Bulk, digest: OrderedHash) -> int:
    done = 0
    for block in bulk.blocks():
        view = memoryview(block).cast("B")
        digest.update(view)
        _write_at(descriptor, view, place + done)
        done += len(view)
    if done != bulk.num_bytes:
        raise CorruptFileError(f"{done} bytes came for a dataset of {bulk.num_bytes}; its sources changed meanwhile")
    return done


def _write_at(descriptor: int, view: memoryview, position: int) -> None:
    while view:
        count = os.pwrite(descriptor, view, position)
        view, position = view[count:], position + count


def _hash_range(descriptor: int, start: int, stop: int, digest: OrderedHash) -> None:
    for block in read_range(descriptor, start, stop):
        digest.update(block)


def read_range(descriptor: int, start: int, stop: int) -> Iterator[bytes]:
    """Bytes `start` to `stop` of an open file, in blocks of 8 MiB."""
    while start < stop:
        block = os.pread(descriptor, min(_BLOCK_BYTES, stop - start), start)
        if not block:
            raise CorruptFileError(f"ends at byte {start}, {stop} were expected; truncated")
        yield block
        start += len(block)


def publish_set(
    folder: FeatureDir,
    content: Content,
    utterances: pa.Table,
    failures: Iterable[Mapping[str, Any]],
    summary: dict[str, Any],
) -> dict[str, Any]:
    """Write and publish the four files, features.h5 and then summary.json last.

    Parameters
    ----------
    content : its attributes hold the merge_id.
    utterances : (N rows), row i describes row i of the arrays.
    failures : rows of failures.csv: utterance_id, path, split, error, message.
    summary : what summary.json says, without merge_id and the files' checksums.

    Returns
    -------
    The summary, complete.
    """
    merge_id = content.attributes["merge_id"]
    temporary = files.temp_path_for(folder.features)
    try:
        with files.storage_errors(folder.features):
            digest = write_features(temporary, content)
        num_bytes = temporary.stat().st_size
        about = json.dumps({"format_version": FORMAT_VERSION, "merge_id": merge_id}).encode()
        with files.publish(folder.utterances) as stream:
            pq.write_table(utterances.replace_schema_metadata({b"voxshard": about}), stream, compression="zstd")
        files.publish_bytes(folder.failures, _failures_csv(failures, merge_id))
        with files.storage_errors(folder.features):
            files.commit(temporary, folder.features)
    finally:
        temporary.unlink(missing_ok=True)
    small = {
        path.name: {"num_bytes": path.stat().st_size, "sha256": files.sha256_of(path)}
        for path in (folder.utterances, folder.failures)
    }
    complete = {
        "merge_id": merge_id,
        "format_version": FORMAT_VERSION,
        "stale": False,
        **summary,
        "files": {folder.features.name: {"num_bytes": num_bytes, "sha256_behind_user_block": digest}, **small},
    }
    files.publish_json(folder.summary, complete)
    return complete


def _failures_csv(rows: Iterable[Mapping[str, Any]], merge_id: str) -> bytes:
    text = io.StringIO(newline="")
    writer = delimited.writer(text)
    columns = ("utterance_id", "path", "split", "error", "message")
    writer.writerow([*columns, "merge_id"])
    for row in rows:
        cells = ("" if row[name] is None else hdf5.readable(str(row[name])) for name in columns)
        writer.writerow([*cells, merge_id])
    return text.getvalue().encode()


def read_summary(folder: FeatureDir) -> dict[str, Any] | None:
    """DIR/summary.json, or None if nothing was merged yet.

    Raises
    ------
    CorruptFileError : not what merge writes.
    FormatVersionError : written by a newer voxshard.
    """
    try:
        summary: dict[str, Any] = json.loads(folder.summary.read_text())
        version = summary["format_version"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as exc:
        raise CorruptFileError(
            f"{folder.summary}: not a summary of voxshard: {exc}; run `voxshard merge {folder.path}`"
        ) from exc
    if version > FORMAT_VERSION:
        raise hdf5.newer_format(folder.summary, version)
    return summary


def mark_stale(folder: FeatureDir) -> None:
    """Say that shards were rewritten after the merge; `voxshard merge` lifts it. Nothing merged: nothing to do."""
    summary = read_summary(folder)
    if summary is not None:
        files.publish_json(folder.summary, {**summary, "stale": True})


def merge_id_of_table(path: Path) -> str:
    """merge_id that stands in utterances.parquet; reads its footer only."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        return str(json.loads(metadata[b"voxshard"])["merge_id"])
    except FileNotFoundError as exc:
        raise IncompleteError(f"{path}: not there; run `voxshard merge {path.parent}`") from exc
    except (OSError, pa.ArrowInvalid, KeyError, ValueError) as exc:
        raise CorruptFileError(
            f"{path}: not the table of a merged set: {exc}; run `voxshard merge {path.parent}`"
        ) from exc
