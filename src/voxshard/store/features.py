"""Reading of a merged feature set: `voxshard.open_features(DIR)`."""

from __future__ import annotations

import csv
import functools
import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from voxshard import files
from voxshard.errors import BackendUnavailableError, CorruptFileError, DataError, IncompleteError, StaleShardError
from voxshard.files import quoted
from voxshard.store import hdf5, lookup, mapped, merged, seal
from voxshard.store.batch import Batch
from voxshard.store.hdf5 import BULK, PER_FRAME
from voxshard.store.inventory import shard_names
from voxshard.store.layout import FeatureDir, Identity
from voxshard.store.mapped import MappedFile, PackedRows, Rows, ShardedRows, ShardRange
from voxshard.store.output_spec import Granularity, OutputSpec
from voxshard.store.structure import ARRAYS, structure_of, table_of_shards

Check: TypeAlias = Literal["none", "open", "blocks"]
"""What a reader compares with the recorded digests; see `FeatureSet`."""


_BYTES_AT_ONCE = 16 << 20
"""Small batches are read together, so that several threads can read and check them."""


class FeatureSet:
    """The embeddings of a corpus, accessed by utterance_id or by row.

    Look-ups go through a memory map and passes over everything through large sequential reads; a set may be forked,
    pickled and shared by threads.

    Parameters
    ----------
    path : DIR, after `voxshard merge` or `voxshard ingest`.
    check : what is compared with the digests recorded when it was written. "open": summary, identity, tables and the
        index of shards when the set is opened, and each block of about 1 MiB of an array at its first read in a pass
        (`read`, `iter_batches`, `rows` and `ids` of many, `complete`, training, export, report). "blocks": also the
        blocks that a single look-up touches. "none": nothing. In sets of format 1 the block is the complete file.

    Raises
    ------
    IncompleteError : nothing is merged here yet, or a merge was interrupted.
    StaleShardError : shards were rewritten after the merge.
    CorruptFileError : a file is damaged; reading raises it too.
    FormatVersionError : written by a newer voxshard.
    """

    def __init__(self, path: Path, check: Check = "open") -> None:
        self.path, self.check = path, check
        self._folder = folder = FeatureDir(path)
        if path.is_file():
            raise IncompleteError(f"{path}: a file; a feature set is a folder, made with `voxshard extract`")
        if not path.exists():
            raise IncompleteError(f"{path}: no such folder; give the folder of a merged feature set")
        summary = merged.read_summary(folder)
        if summary is None or not folder.features.exists():
            raise merged.not_merged(folder)
        if summary["stale"]:
            raise StaleShardError(f"{path}: shards were rewritten after the merge; run `voxshard merge {quoted(path)}`")
        self.summary: Mapping[str, Any] = summary
        """Content of summary.json."""
        self._file = MappedFile(folder.features, seal.read_seal(folder.features, "features"))
        self._attributes, self._layout = structure_of(self._file)
        self._spec = OutputSpec.of(self._attributes)
        ids = {merged.merge_id_of_table(folder.utterances), summary["merge_id"], self._attributes["merge_id"]}
        if len(ids) > 1:
            raise IncompleteError(f"{path}: its files come from different merges; run `voxshard merge {quoted(path)}`")
        if check != "none":
            self._check_small_files()
        self._intact: set[str] = set()
        """Arrays of the file that were checked completely."""
        self._shards = table_of_shards(self._file, self._layout, checks=check != "none")
        self._open_shard = functools.lru_cache(mapped.MAX_OPEN_SHARDS)(self._checked_shard)
        arrays = {name: self._array(name) for name in ARRAYS if name in self._layout}
        self._id_text, self._id_text_offsets = arrays["id_text"], arrays["id_text_offsets"]
        self._slot_hash, self._slot_row = arrays["id_hash"], arrays["id_row"]
        self._offsets: npt.NDArray[np.int64] | None = arrays.get("offsets")
        names = [name for name in BULK.values() if name in self._layout or f"{name}_at" in self._shards]
        self._bulk = {name: self._rows_of(name, checks=check == "blocks") for name in names}
        self._complete = {name: self._rows_of(name, checks=check != "none") for name in names}

    def _check_small_files(self) -> None:
        folder, summary = self._folder, self.summary
        again = f"run `voxshard verify {quoted(self.path)}`, then `voxshard merge {quoted(self.path)}`"
        about = summary["files"][folder.features.name]
        if "digest" in about and about["digest"] != self._file.seal.digest:
            raise IncompleteError(f"{self.path}: {folder.features.name} is not the one of its summary; {again}")
        for damaged in merged.differs_from_summary(folder, summary):
            raise CorruptFileError(f"{damaged}: does not match its SHA-256 in {folder.summary.name}; {again}")
        if folder.identity.exists():
            Identity.read(folder.identity)

    def _array(self, name: str) -> npt.NDArray[Any]:
        shape, dtype, at = self._layout[name]
        return self._file.array(at, shape, dtype)

    def _check_arrays(self, *names: str) -> None:
        """Check all blocks of some arrays of the merged file, unless this set was opened with check="none"."""
        for name in names:
            if self.check != "none" and name in self._layout and name not in self._intact:
                start, stop = hdf5.range_of(self._layout[name])
                self._file.check(start, stop - start)
                self._intact.add(name)

    def _rows_of(self, name: str, *, checks: bool) -> PackedRows | ShardedRows:
        if name in self._layout:
            shape, dtype, at = self._layout[name]
            return PackedRows(self._file, at, shape, dtype, checks=checks)
        first, count = ("first_frame", "num_frames") if name in PER_FRAME else ("first_row", "num_rows")
        parts = [
            ShardRange(self._folder.shards / shard, int(at), int(start), int(start + length))
            for shard, at, start, length in zip(
                self._shards["name"], self._shards[f"{name}_at"], self._shards[first], self._shards[count], strict=True
            )
        ]
        row_shape = self._spec.row_shape
        if name == "codes":
            num_codebooks = self._attributes.get("num_codebooks")
            row_shape = () if num_codebooks is None else (int(num_codebooks),)
        dtype = np.dtype(self._attributes[f"{name}_dtype"])
        return ShardedRows(parts, row_shape, dtype, self._open_shard, checks=checks)

    def _checked_shard(self, path: Path) -> MappedFile:
        merge_again = f"run `voxshard verify {quoted(self.path)}`, then `voxshard merge {quoted(self.path)}`"
        try:
            found = seal.read_seal(path, "shard")
        except FileNotFoundError as exc:
            raise IncompleteError(
                f"{path}: this set reads from its shards, and this one is gone; {merge_again}"
            ) from exc
        if found.digest != self._digest_of_shard[path.name]:
            raise StaleShardError(f"{path}: changed after the merge; {merge_again}")
        return MappedFile(path, found)

    @functools.cached_property
    def _digest_of_shard(self) -> dict[str, str]:
        return dict(zip(self._shards["name"], self._shards["digest"], strict=True))

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureSet, (self.path, self.check)

    def __repr__(self) -> str:
        kind = f"{self.granularity} of {self._spec.size_text}"
        return f"<FeatureSet {self.path}: {len(self):,} utterances, {self.encoder}, {kind}>"

    @property
    def encoder(self) -> str:
        """Name of the encoder."""
        return str(self._attributes["encoder"])

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that the numbers depend on."""
        return str(self._attributes["fingerprint"])

    @property
    def granularity(self) -> Granularity:
        """What one row of the arrays is: `utterance`, `frames` or `windows`."""
        return self._spec.granularity

    @property
    def dim(self) -> int:
        """Size D of an embedding."""
        return self._spec.dim

    @property
    def num_layers(self) -> int | None:
        """Number of layers L if embeddings are (L, D), otherwise None."""
        return self._spec.num_layers

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one embedding or frame: (D,) or (L, D)."""
        return self._spec.row_shape

    @property
    def mode(self) -> str:
        """Where the arrays are stored: `packed` (in features.h5) or `index` (in the shards)."""
        return str(self._attributes["mode"])

    def __len__(self) -> int:
        return len(self._id_text_offsets) - 1

    def __contains__(self, utterance_id: object) -> bool:
        return isinstance(utterance_id, str) and bool(self._find([utterance_id])[0] >= 0)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __getitem__(self, utterance_id: str) -> npt.NDArray[Any]:
        """Return an utterance's embedding, (D,) or (L, D), or all its frames or windows if the set has those instead.

        Raises
        ------
        KeyError : no such utterance; the message states whether it is among the failures.
        """
        if "embeddings" in self._bulk:
            return np.array(self._bulk["embeddings"][self._row(utterance_id)])
        return self.frames(utterance_id)

    def frames(self, utterance_id: str) -> npt.NDArray[Any]:
        """Return an utterance's frame or window embeddings, (T, D) or (T, L, D)."""
        return self._frames_of("frames", utterance_id)

    def codes(self, utterance_id: str) -> npt.NDArray[np.int32]:
        """Return an utterance's token ids, (T,), or (T, K) for several codebooks."""
        return self._frames_of("codes", utterance_id)

    def _frames_of(self, name: str, utterance_id: str) -> npt.NDArray[Any]:
        rows = self.large(name)
        row = self._row(utterance_id)
        start, stop = self._frame_range(row, row + 1)
        return np.array(rows[start:stop])

    def _frame_range(self, start: int, stop: int) -> tuple[int, int]:
        assert self._offsets is not None
        return int(self._offsets[start]), int(self._offsets[stop])

    @property
    def offsets(self) -> npt.NDArray[np.int64] | None:
        """First frame of each utterance, and the total number of frames, (N + 1,); None if the set has no frames."""
        self._check_arrays("offsets")
        return self._offsets

    @property
    def embeddings(self) -> Any:
        """All embeddings, (N, D) or (N, L, D), as a read-only memory-mapped array. If the set stays in its shards, an
        object that reads rows on demand (`rows[3]`, `rows[2:5]`, `rows[[0, 4]]`, `numpy.asarray(rows)`)."""
        return _as_array(self.large("embeddings"))

    @property
    def all_frames(self) -> Any:
        """All frames, (sum of T, D) or (sum of T, L, D), divided by `offsets`; an array or an object as in
        `embeddings`."""
        return _as_array(self.large("frames"))

    @property
    def all_codes(self) -> Any:
        """All token ids, (sum of T,) or (sum of T, K), divided by `offsets`; an array or an object as in
        `embeddings`."""
        return _as_array(self.large("codes"))

    def large(self, name: str) -> Rows:
        """Return `embeddings`, `frames` or `codes` as rows that are read on demand, whether packed or in shards.

        Raises
        ------
        DataError : this set has none.
        """
        if name not in self._bulk:
            raise DataError(f"{self.path}: has no {name}, but {' and '.join(self._bulk) or 'no rows'}")
        return self._bulk[name]

    def complete(self, name: str) -> Rows:
        """Return the rows of `large` for code that reads all of them: each block is checked at its first read."""
        self.large(name)
        return self._complete[name]

    def has(self, name: str) -> bool:
        """Whether the set contains `embeddings`, `frames` or `codes`."""
        return name in self._bulk

    @property
    def ids(self) -> list[str]:
        """All utterance_ids, in the order of the rows."""
        return self.ids_of(np.arange(len(self)))

    def ids_of(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """Return the utterance_ids of some rows."""
        self._check_arrays("id_text", "id_text_offsets")
        return self._names(rows)

    def _names(self, rows: npt.NDArray[np.int64]) -> list[str]:
        starts, stops = self._id_text_offsets[rows].tolist(), self._id_text_offsets[rows + 1].tolist()
        try:
            return [self._id_text[start:stop].tobytes().decode() for start, stop in zip(starts, stops, strict=True)]
        except UnicodeDecodeError as exc:
            raise CorruptFileError(f"{self._folder.features}: an utterance_id is damaged: {exc}") from exc

    def rows(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the row numbers of several utterances, (Q,); -1 for an utterance that is not in the set."""
        self._check_arrays("id_hash", "id_row", "id_text", "id_text_offsets")
        return self._find(ids)

    def _find(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        def is_same(questions: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
            if len(rows) and not ((rows >= 0) & (rows < len(self))).all():
                raise CorruptFileError(f"{self._folder.features}: its look-up table is damaged")
            names = self._names(rows)
            same = (ids[question] == name for question, name in zip(questions.tolist(), names, strict=True))
            return np.fromiter(same, np.bool_, len(names))

        return lookup.find(lookup.hash_ids(ids), self._slot_hash, self._slot_row, len(self), is_same)

    def _row(self, utterance_id: str) -> int:
        if not isinstance(utterance_id, str):
            raise KeyError(
                f"{utterance_id!r} is no utterance_id; row i of the set is `.embeddings[i]`, its id `.ids[i]`"
            )
        row = int(self.rows([utterance_id])[0] if self.check == "blocks" else self._find([utterance_id])[0])
        if row >= 0:
            return row
        for failure in self.failures:
            if failure["utterance_id"] == utterance_id:
                raise KeyError(f"{utterance_id} failed: {failure['error']}: {failure['message']}")
        example = f"; ids here look like {self._names(np.array([0]))[0]!r}" if len(self) else ""
        raise KeyError(f"{utterance_id} is not among the {len(self):,} utterances of {self.path}{example}")

    @property
    def failures(self) -> list[dict[str, str]]:
        """Rows of failures.csv: utterance_id, path, split, error, message."""
        with open(files.open_to_read(self._folder.failures), newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))

    @property
    def decoding_warnings(self) -> Mapping[str, str]:
        """Warnings from decoding, by utterance_id; the column `warning` of the table contains them, too."""
        found: Mapping[str, str] = self._file.seal.facts.get("warnings", {})
        return found

    @functools.cached_property
    def table(self) -> pa.Table:
        """Content of utterances.parquet; row i describes row i of the arrays."""
        with files.with_retries(self._folder.utterances, self._open_table) as file:
            table = file.read().replace_schema_metadata(None)
        if table.num_rows != len(self):
            raise CorruptFileError(
                f"{self._folder.utterances}: {table.num_rows} rows, {self._folder.features.name} has {len(self)}"
            )
        return table

    def _open_table(self) -> pq.ParquetFile:
        return pq.ParquetFile(self._folder.utterances, page_checksum_verification=self.check != "none")

    def iter_batches(
        self, size: int = 256, *, rows: Sequence[int] | npt.NDArray[np.int64] | None = None
    ) -> Iterator[Batch]:
        """Iterate over the set in order, `size` utterances at a time, in large sequential reads.

        Parameters
        ----------
        rows : only these; neighbours are read together.
        """
        chosen = np.arange(len(self)) if rows is None else np.asarray(rows, np.int64)
        together = size * max(1, _BYTES_AT_ONCE // max(1, size * self._bytes_per_utterance))
        for start in range(0, len(chosen), together):
            yield from self.read(chosen[start : start + together]).divided(size)

    @property
    def _bytes_per_utterance(self) -> int:
        """Average number of bytes of one utterance in all arrays."""
        total = sum(int(np.prod(rows.shape, dtype=np.int64)) * rows.dtype.itemsize for rows in self._bulk.values())
        return total // max(1, len(self))

    def read(self, rows: npt.NDArray[np.int64]) -> Batch:
        """Read some utterances into memory; neighbouring rows are read together."""
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1) if len(rows) else []
        values: dict[str, npt.NDArray[Any] | None] = dict.fromkeys(BULK.values())
        self._check_arrays("offsets")
        for name, bulk in self._complete.items():
            ranges = [(int(run[0]), int(run[-1]) + 1) for run in runs]
            if name in PER_FRAME:
                ranges = [self._frame_range(*item) for item in ranges]
            parts = [bulk.read(*item) for item in ranges]
            values[name] = parts[0] if len(parts) == 1 else np.concatenate(parts)
        offsets = None
        if self._offsets is not None:
            offsets = np.concatenate([[0], np.cumsum(self._offsets[rows + 1] - self._offsets[rows])]).astype(np.int64)
        return Batch(rows, self.ids_of(rows), values["embeddings"], values["frames"], values["codes"], offsets)

    def to_pandas(self) -> Any:
        """Read the set into a pandas DataFrame; this needs the memory of all its embeddings.

        Returns
        -------
        One row per utterance, with utterance_id as index: the columns of `table`, then `embedding`, or `frames` (and
        `codes`), whose cells are arrays: (D,) or (L, D), (T, D) or (T, L, D), (T,).

        Raises
        ------
        BackendUnavailableError : pandas is not installed.
        """
        try:
            importlib.import_module("pandas")
        except ModuleNotFoundError as exc:
            raise BackendUnavailableError(
                "to_pandas needs pandas, which is not installed: pip install 'voxshard[learn]'"
            ) from exc
        frame = self.table.to_pandas().set_index("utterance_id")
        batch = self.read(np.arange(len(self)))
        if batch.embeddings is not None:
            frame["embedding"] = list(batch.embeddings)
        if batch.offsets is not None:
            for name, values in (("frames", batch.frames), ("codes", batch.codes)):
                if values is not None:
                    frame[name] = np.split(values, batch.offsets[1:-1]) if len(self) else []
        return frame

    def torch_dataset(self) -> TorchDataset:
        """Return a map-style dataset for `torch.utils.data.DataLoader`; item i is (tensor of utterance i, its id)."""
        return TorchDataset(self)


class TorchDataset:
    """Map-style PyTorch dataset of a feature set; works in forked and in spawned workers."""

    def __init__(self, features: FeatureSet) -> None:
        self.features = features
        self._from_numpy = importlib.import_module("torch").from_numpy

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> tuple[Any, str]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, str]]:
        """Return several items; the data loader calls this with a complete batch."""
        count = len(self)
        if not all(-count <= index < count for index in indices):
            raise IndexError(f"indices {list(indices)} of {count} utterances")
        batch = self.features.read(np.array(indices, np.int64) % max(count, 1))
        if batch.embeddings is not None:
            arrays = list(batch.embeddings)
        else:
            assert batch.frames is not None
            assert batch.offsets is not None
            arrays = np.split(batch.frames, batch.offsets[1:-1])
        return [(self._from_numpy(array), name) for array, name in zip(arrays, batch.ids, strict=True)]


def _as_array(rows: Rows) -> Any:
    return rows.array if isinstance(rows, PackedRows) else rows


def is_stale(path: Path) -> bool:
    """Whether the shards of a merged set have changed since the merge: some were rewritten, removed or added.

    Reads 512 bytes of each shard. False where nothing is merged, and where the shards were deleted after merging.
    """
    folder = FeatureDir(path)
    summary = merged.read_summary(folder)
    if summary is None:
        return False
    if summary["stale"]:
        return True
    if summary["shards"]["deleted"] or not summary["shards"]["total"]:
        return False
    try:
        file = MappedFile(folder.features, seal.read_seal(folder.features, "features"))
        table = table_of_shards(file, structure_of(file)[1], checks=True)
        digests = dict(zip(table.get("name", ()), table.get("digest", ()), strict=True))
        names = shard_names(folder)
        return set(names) != digests.keys() or any(
            seal.read_digest(folder.shards / name, "shard") != digests[name] for name in names
        )
    except (CorruptFileError, FileNotFoundError):
        return True
