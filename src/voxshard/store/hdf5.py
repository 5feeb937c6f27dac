"""The HDF5 files of a feature set: how they are opened, laid out, sealed with a SHA-256 and checked against it.

A file starts with a user block of 512 bytes, two lines of text: what it is, and the SHA-256 of all that follows, so
`tail -c +513 FILE | sha256sum` checks it without any library. Datasets are contiguous and unfiltered, so that they can
be mapped into memory; every open passes `locking=False`, because locks of parallel file systems fail in ways that have
nothing to do with us.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import h5py
import numpy as np
import numpy.typing as npt

from voxshard import files
from voxshard.errors import CorruptFileError, FormatVersionError
from voxshard.store.layout import FORMAT_VERSION

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""What an encoder gives per utterance: "embedding" (D,) or (L, D), "frames" (T, D) or (T, L, D), "codes" (T,) or (T, K)
of several codebooks."""

BULK = {"embedding": "embeddings", "frames": "frames", "codes": "codes"}
"""Key of an output -> dataset that holds it for all utterances, in the order of the datasets in a file."""
PER_FRAME = ("frames", "codes")
"""Datasets with one row per frame or window, cut by /offsets; the others have one row per utterance."""

USER_BLOCK_BYTES = 512
ALIGNMENT_BYTES = 512
"""Of datasets of at least this size, so that mapped arrays are aligned."""

TEXT = h5py.string_dtype("utf-8")
FAILURE = np.dtype([("utterance_id", TEXT), ("error", TEXT), ("message", TEXT)])

Kind = Literal["shard", "features"]
_SEAL = re.compile(rb"voxshard (?P<kind>shard|features) (?P<version>\d+)\nsha256 (?P<digest>[0-9a-f]{64})\n\0*")


def seal(kind: Kind, digest: str) -> bytes:
    """The user block of a file whose remaining bytes have this SHA-256 (hex)."""
    return f"voxshard {kind} {FORMAT_VERSION}\nsha256 {digest}\n".encode().ljust(USER_BLOCK_BYTES, b"\0")


def read_seal(path: Path, kind: Kind) -> str:
    """SHA-256 (hex) that a file claims for itself; reads 512 bytes.

    Raises
    ------
    CorruptFileError : too short, or not a file of this kind.
    FormatVersionError : written by a newer voxshard.
    """
    with open(path, "rb") as stream:
        block = stream.read(USER_BLOCK_BYTES)
    match = _SEAL.fullmatch(block)
    if len(block) < USER_BLOCK_BYTES or not match or match["kind"].decode() != kind:
        raise CorruptFileError(
            f"{path}: does not start with the 512 bytes of a voxshard {kind} file; damaged, or something else"
        )
    if int(match["version"]) > FORMAT_VERSION:
        raise newer_format(path, int(match["version"]))
    return match["digest"].decode()


def newer_format(path: Path, version: int) -> FormatVersionError:
    """The error for a file of a later format than this program knows."""
    return FormatVersionError(f"{path}: format {version}, this voxshard reads up to {FORMAT_VERSION}; update it")


def check_seal(path: Path, kind: Kind) -> str:
    """Read a whole file and compare it with its SHA-256, which is returned.

    Raises
    ------
    CorruptFileError : truncated, or a byte has changed.
    """
    claimed = read_seal(path, kind)
    if files.sha256_of(path, start=USER_BLOCK_BYTES) != claimed:
        raise broken_seal(path)
    return claimed


def broken_seal(path: Path) -> CorruptFileError:
    """The error for a file whose bytes are not those it was sealed with."""
    return CorruptFileError(
        f"{path}: truncated or changed: its {path.stat().st_size} bytes do not match the SHA-256 it starts with"
    )


@contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file to read.

    Raises
    ------
    CorruptFileError : not HDF5, or something is missing in it. Faults of the storage itself stay OSErrors.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except OSError as exc:
        if exc.errno is not None:  # the storage's own verdict: says nothing about the content
            raise
        raise CorruptFileError(f"{path}: cannot be read as HDF5: {exc}") from exc
    except (KeyError, RuntimeError) as exc:
        raise CorruptFileError(f"{path}: something is missing in it: {exc}") from exc


def writing(target: Path | IO[bytes]) -> h5py.File:
    """A new HDF5 file with room for the user block, in a path or in memory."""
    return h5py.File(
        target,
        "w",
        locking=False,
        userblock_size=USER_BLOCK_BYTES,
        alignment_threshold=ALIGNMENT_BYTES,
        alignment_interval=ALIGNMENT_BYTES,
    )


def reserve(file: h5py.File, name: str, shape: Sequence[int], dtype: npt.DTypeLike) -> h5py.Dataset:
    """A contiguous dataset whose place in the file is fixed now and whose bytes come later."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return file.create_dataset(name, tuple(shape), dtype, dcpl=properties)


def place(dataset: h5py.Dataset) -> int:
    """First byte of a contiguous dataset in its file; 0 where it has no bytes."""
    return int(dataset.id.get_offset()) if dataset.size else 0


def write_texts(file: h5py.File, name: str, texts: Iterable[str]) -> None:
    """A vlen UTF-8 dataset (N,)."""
    file.create_dataset(name, data=np.array(list(texts), object), dtype=TEXT)


def write_failures(file: h5py.File, failures: Sequence[tuple[str, str, str]]) -> None:
    """/failures: (F,) rows of utterance_id, error, message."""
    rows = [(name, error, readable(message)) for name, error, message in failures]
    file.create_dataset("failures", data=np.array(rows, FAILURE), dtype=FAILURE)


def readable(text: str) -> str:
    """Text that HDF5 and UTF-8 can hold: NUL and lone surrogates (bytes of odd file names) as escapes."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def read_texts(file: h5py.File, name: str) -> list[str]:
    """A vlen UTF-8 dataset (N,) as Python strings."""
    return [text.decode() for text in file[name][:]]


def write_attributes(file: h5py.File, attributes: Mapping[str, Any]) -> None:
    """Attributes of the file; None is left out."""
    for name, value in attributes.items():
        if value is not None:
            file.attrs[name] = value
