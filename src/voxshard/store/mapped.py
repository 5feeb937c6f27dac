"""Access to rows in files: memory-mapped for look-ups, in large sequential reads for complete passes.

Nothing here keeps an HDF5 library handle, so that a reader can be forked, shared between threads and pickled.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from voxshard import files
from voxshard.errors import CorruptFileError
from voxshard.store.seal import Seal, fill, num_threads

MAX_OPEN_SHARDS = 64
"""Far below the usual limit of 1,024 descriptors per process, also with several sets open."""


class Rows(Protocol):
    """A large array whose rows are read on demand; `rows[3]`, `rows[2:5]` and `rows[[0, 4]]` give arrays."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, key: Any) -> npt.NDArray[Any]: ...

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Read rows `start` to `stop` into memory sequentially."""
        ...


class MappedFile:
    """A memory-mapped file that is also open for positional reads; the descriptor closes with the object.

    Parameters
    ----------
    path : the file.
    seal : what its blocks are compared with when `check` is called.
    descriptor : of the file, if it is open already; this object closes it.
    """

    def __init__(self, path: Path, seal: Seal, descriptor: int | None = None) -> None:
        self.path, self.seal = path, seal
        self._descriptor = files.open_to_read(path) if descriptor is None else descriptor
        weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size
        self._map = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ) if self.size else b""
        self._is_checked = bytearray(len(seal.stops))

    def check(self, at: int, num_bytes: int) -> None:
        """Compare the blocks that contain a byte range with their digests; each block is checked once per object.

        Raises
        ------
        CorruptFileError : a byte has changed.
        """
        self.check_blocks(self.seal.blocks_of(at, at + num_bytes))

    def check_blocks(self, numbers: Iterable[int]) -> None:
        """Check blocks, given by their numbers; see `check`."""
        unknown = [number for number in numbers if not self._is_checked[number]]
        if unknown:
            self.seal.check(self._descriptor, unknown)
            for number in unknown:
                self._is_checked[number] = 1

    def array(self, at: int, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return a read-only array over the file's bytes from `at` on; nothing is read until it is used."""
        self._check(at, shape, dtype)
        count = int(np.prod(shape, dtype=np.int64))
        flat = np.frombuffer(self._map, dtype, count, at) if count else np.empty(0, dtype)
        return flat.reshape(tuple(shape))

    def read(self, at: int, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Read a range into new memory, in few large reads."""
        result = np.empty(tuple(shape), dtype)
        self.read_into(result, at, checks=False)
        return result

    def read_into(self, target: npt.NDArray[Any], at: int, *, checks: bool) -> None:
        """Fill a contiguous array with the bytes from `at` on, in large reads and, with `checks`, several threads.

        Parameters
        ----------
        checks : compare the blocks as `check` does; those that are read completely are read once.
        """
        self._check(at, target.shape, target.dtype)
        view = memoryview(target.reshape(-1).view(np.uint8).data)
        if checks and self.seal.version == 1:
            self.check(at, len(view))
        if not checks or self.seal.version == 1:
            self._fill(view, at)
            return
        pieces = list(self.seal.pieces(self.seal.blocks_of(at, at + len(view))))
        if len(pieces) < 2:
            for piece in pieces:
                self._fill_checked(view, at, piece)
            return
        with ThreadPoolExecutor(min(num_threads(), len(pieces))) as pool:
            for _ in pool.map(lambda piece: self._fill_checked(view, at, piece), pieces):
                pass

    def _fill(self, view: memoryview, at: int) -> None:
        if fill(self._descriptor, view, at) < len(view):
            raise CorruptFileError(f"{self.path}: became shorter while it was read")

    def _fill_checked(self, view: memoryview, at: int, piece: range) -> None:
        """Read the part of the requested bytes that is in `piece` into the view, and check its blocks."""
        first = max(self.seal.block(piece[0])[0], at)
        last = min(self.seal.block(piece[-1])[1], at + len(view))
        self._fill(view[first - at : last - at], first)
        for number in piece:
            start, stop = self.seal.block(number)
            if self._is_checked[number]:
                continue
            if first <= start and stop <= last:
                self.seal.compare(number, view[start - at : stop - at])
            else:
                self.seal.read_blocks(self._descriptor, range(number, number + 1))
            self._is_checked[number] = 1

    def _check(self, at: int, shape: Sequence[int], dtype: npt.DTypeLike) -> None:
        if at + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize > self.size:
            raise CorruptFileError(f"{self.path}: {self.size} bytes are too few for what it states it holds; truncated")


class PackedRows:
    """Contiguous rows in one file.

    Parameters
    ----------
    checks : whether the blocks of the rows asked for are compared with their digests first.
    """

    def __init__(
        self, file: MappedFile, at: int, shape: tuple[int, ...], dtype: np.dtype[Any], *, checks: bool
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self._array = file.array(at, shape, dtype)
        self._row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        self._file, self._at, self._checks = file, at, checks

    @property
    def array(self) -> npt.NDArray[Any]:
        """All rows as a memory-mapped array."""
        if self._checks:
            self._file.check(self._at, self._array.nbytes)
        return self._array

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        if self._checks:
            chosen = key[0] if isinstance(key, tuple) and key else key
            if isinstance(chosen, slice):
                start, stop, _ = chosen.indices(len(self))
                low, high = min(start, stop), max(start, stop)
                self._file.check(self._at + low * self._row_bytes, (high - low) * self._row_bytes)
            else:
                self._check_rows(_positions(chosen, len(self)))
        rows: npt.NDArray[Any] = self._array[key]
        return rows

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        at = self._at + start * self._row_bytes
        result = np.empty((stop - start, *self.shape[1:]), self.dtype)
        self._file.read_into(result, at, checks=self._checks)
        return result

    def _check_rows(self, rows: npt.NDArray[np.int64]) -> None:
        """Check the blocks that contain some rows, each block once."""
        starts = self._at + rows * self._row_bytes
        first = np.searchsorted(self._file.seal.stops, starts, side="right")
        last = np.searchsorted(self._file.seal.stops, starts + (self._row_bytes - 1), side="right")
        numbers = np.unique(np.concatenate([first, last]))
        if (last > first + 1).any():
            numbers = np.unique(np.concatenate([np.arange(*pair) for pair in zip(first, last + 1, strict=True)]))
        self._file.check_blocks(numbers.tolist())


def _positions(chosen: Any, count: int) -> npt.NDArray[np.int64]:
    """Return the rows, (R,), that a NumPy index selects among `count`. Invalid indices are left for NumPy to reject."""
    rows = np.asarray(chosen)
    if rows.dtype == bool:
        return np.flatnonzero(rows)
    rows = np.where(rows < 0, rows + count, rows).reshape(-1).astype(np.int64)
    return rows[(rows >= 0) & (rows < count)]


@dataclass(frozen=True)
class ShardRange:
    """Rows that are in one shard."""

    path: Path
    at: int
    """Position of the first row's first byte in the shard."""
    start: int
    """First row, and in `stop` the one after the last, counted over all shards."""
    stop: int


class ShardedRows:
    """Rows that are distributed over shards; at most 64 shards are open at a time.

    Parameters
    ----------
    checks : whether the blocks of the rows asked for are compared with their digests first.
    """

    def __init__(
        self,
        parts: Sequence[ShardRange],
        row_shape: tuple[int, ...],
        dtype: np.dtype[Any],
        open_shard: Callable[[Path], MappedFile],
        *,
        checks: bool,
    ) -> None:
        self._checks = checks
        self._parts = [part for part in parts if part.stop > part.start]
        self._starts = np.array([part.start for part in self._parts], np.int64)
        self.shape = (self._parts[-1].stop if self._parts else 0, *row_shape)
        self.dtype = dtype
        self._open_shard = open_shard

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self.read(0, len(self)).astype(dtype or self.dtype, copy=False)

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            return self.read(start, stop) if step == 1 else self[np.arange(start, stop, step)]
        chosen = np.asarray(key)
        if chosen.dtype == bool:
            chosen = np.flatnonzero(chosen)
        rows = np.where(chosen < 0, chosen + len(self), chosen).astype(np.int64)
        if rows.size and not ((rows >= 0) & (rows < len(self))).all():
            raise IndexError(f"row {key} of {len(self)}")
        result = np.empty((*rows.shape, *self.shape[1:]), self.dtype)
        flat, target = rows.reshape(-1), result.reshape(-1, *self.shape[1:])
        owner = np.searchsorted(self._starts, flat, side="right") - 1
        for number in np.unique(owner):
            here = owner == number
            part = self._parts[number]
            target[here] = self._rows_of(part)[flat[here] - part.start]
        return result

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        result = np.empty((max(stop - start, 0), *self.shape[1:]), self.dtype)
        first = max(int(np.searchsorted(self._starts, start, side="right")) - 1, 0)
        for part in self._parts[first:]:
            low, high = max(start, part.start), min(stop, part.stop)
            if low >= high:
                break
            row_bytes = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
            at = part.at + (low - part.start) * row_bytes
            file = self._open_shard(part.path)
            file.read_into(result[low - start : high - start], at, checks=self._checks)
        return result

    def _rows_of(self, part: ShardRange) -> PackedRows:
        shape = (part.stop - part.start, *self.shape[1:])
        return PackedRows(self._open_shard(part.path), part.at, shape, self.dtype, checks=self._checks)
