"""Opening and layout of the HDF5 files of a feature set; `store.seal` protects their bytes.

Datasets are contiguous and unfiltered, so that they can be mapped into memory; every open passes `locking=False`,
because locks of parallel file systems fail in ways that have nothing to do with us.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias

import h5py
import numpy as np
import numpy.typing as npt

from voxshard import files
from voxshard.errors import CorruptFileError
from voxshard.store.seal import USER_BLOCK_BYTES

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""What an encoder gives per utterance: "embedding" (D,) or (L, D), "frames" (T, D) or (T, L, D), "codes" (T,) or (T, K)
of several codebooks."""

Datasets: TypeAlias = Mapping[str, tuple[tuple[int, ...], np.dtype[Any], int]]
"""Name -> shape, dtype and first byte in the file, of contiguous datasets."""

BULK = {"embedding": "embeddings", "frames": "frames", "codes": "codes"}
"""Key of an output -> dataset that holds it for all utterances, in the order of the datasets in a file."""
PER_FRAME = ("frames", "codes")
"""Datasets with one row per frame or window, cut by /offsets; the others have one row per utterance."""

ALIGNMENT_BYTES = 512
"""Alignment of datasets of at least this size, so that mapped arrays are aligned."""

TEXT = h5py.string_dtype("utf-8")
FAILURE = np.dtype([("utterance_id", TEXT), ("error", TEXT), ("message", TEXT)])
WARNING = np.dtype([("utterance_id", TEXT), ("message", TEXT)])


@contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading.

    Raises
    ------
    CorruptFileError : not HDF5, or something is missing in it.
    StorageFaultError : the storage still fails after several attempts to open the file.
    OSError : it fails later, while the file is read.
    """
    try:
        with files.with_retries(path, lambda: h5py.File(path, "r", locking=False)) as file:
            yield file
    except OSError as exc:
        if exc.errno is not None:  # the storage's own verdict, which is no statement about the content
            raise
        raise CorruptFileError(f"{path}: cannot be read as HDF5: {exc}") from exc
    except (KeyError, RuntimeError) as exc:
        raise CorruptFileError(f"{path}: something is missing in it: {exc}") from exc


def writing(target: Path | IO[bytes]) -> h5py.File:
    """Create an HDF5 file with room for the user block, at a path or in memory."""
    return h5py.File(
        target,
        "w",
        locking=False,
        userblock_size=USER_BLOCK_BYTES,
        alignment_threshold=ALIGNMENT_BYTES,
        alignment_interval=ALIGNMENT_BYTES,
    )


def reserve(file: h5py.File, name: str, shape: Sequence[int], dtype: npt.DTypeLike) -> h5py.Dataset:
    """Create a contiguous dataset whose position in the file is fixed now and whose bytes are written later."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return file.create_dataset(name, tuple(shape), dtype, dcpl=properties)


def place(dataset: h5py.Dataset) -> int:
    """Return the first byte of a contiguous dataset in its file; 0 if it has no bytes."""
    return int(dataset.id.get_offset()) if dataset.size else 0


def datasets_of(file: h5py.File, names: Iterable[str]) -> Datasets:
    """Return the shape, dtype and first byte of those named arrays that a file has.

    Raises
    ------
    CorruptFileError : one of them is not a contiguous, unfiltered array in the file itself.
    """
    return {name: _dataset_of(file, name) for name in names if name in file}


def _dataset_of(file: h5py.File, name: str) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    dataset = file[name]
    is_plain = isinstance(dataset, h5py.Dataset) and dataset.chunks is None and not dataset.is_virtual
    if not is_plain or dataset.external or dataset.dtype.hasobject:
        raise CorruptFileError(f"{file.filename}: /{name} is not a contiguous array in the file itself")
    return dataset.shape, dataset.dtype, place(dataset)


def range_of(dataset: tuple[tuple[int, ...], np.dtype[Any], int]) -> tuple[int, int]:
    """Return a dataset's first byte and the one after its last; both are 0 if it has no bytes."""
    shape, dtype, at = dataset
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return (at, at + size) if size else (0, 0)


def write_texts(file: h5py.File, name: str, texts: Iterable[str]) -> None:
    """Write a variable-length UTF-8 dataset (N,)."""
    file.create_dataset(name, data=np.array(list(texts), object), dtype=TEXT)


def write_failures(file: h5py.File, failures: Sequence[tuple[str, str, str]]) -> None:
    """Write /failures, (F,) rows of utterance_id, error, message."""
    rows = [(name, error, readable(message)) for name, error, message in failures]
    file.create_dataset("failures", data=np.array(rows, FAILURE), dtype=FAILURE)


def write_warnings(file: h5py.File, warnings: Mapping[str, str]) -> None:
    """Write /warnings, (W,) rows of utterance_id, message; the dataset exists only if there are warnings."""
    if warnings:
        rows = [(name, readable(message)) for name, message in warnings.items()]
        file.create_dataset("warnings", data=np.array(rows, WARNING), dtype=WARNING)


def read_warnings(file: h5py.File) -> dict[str, str]:
    """Return the warnings by utterance_id; empty if the file has none."""
    return {name.decode(): message.decode() for name, message in file["warnings"][:]} if "warnings" in file else {}


def readable(text: str) -> str:
    """Return a text that HDF5 and UTF-8 can store: NUL and lone surrogates (bytes of odd file names) are escaped."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def read_texts(file: h5py.File, name: str) -> list[str]:
    """Read a variable-length UTF-8 dataset (N,) as Python strings."""
    return [text.decode() for text in file[name][:]]


def write_attributes(file: h5py.File, attributes: Mapping[str, Any]) -> None:
    """Write attributes of the file; those that are None are omitted."""
    for name, value in attributes.items():
        if value is not None:
            file.attrs[name] = value
