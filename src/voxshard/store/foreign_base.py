"""Code that all readers of other programs' features share: their result, and one error for damaged files."""

from __future__ import annotations

import csv
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from voxshard import files
from voxshard.errors import CorruptFileError, DataError, FeatureMismatchError
from voxshard.no_table import NO_TABLE
from voxshard.store.hdf5 import Arrays
from voxshard.store.output_spec import Granularity

Array = npt.NDArray[Any]

_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    *NO_TABLE,
    csv.Error,
    UnicodeError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    struct.error,
    tokenize.TokenError,
    SyntaxError,
)
"""What the libraries raise, in addition to OSError without an errno, where bytes are not what a format allows."""


@dataclass(frozen=True)
class ForeignFile:
    """One file of embeddings; it can be read any number of times, always in the same order."""

    path: Path
    granularity: Granularity
    items: Callable[[], Iterator[tuple[str, Arrays]]]
    """Returns an iterator over (utterance_id, output); see `hdf5.Arrays`."""
    columns: Mapping[str, pa.Array]
    """Further columns about the utterances, in the order of the items."""


def check_sums(path: Path) -> None:
    """Compare a file with SHA256SUMS in its folder, if it is listed there."""
    sums = path.parent / "SHA256SUMS"
    if not sums.is_file():
        return
    for line in sums.read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, name = line.partition(" ")
        if name.lstrip(" *") == path.name and files.sha256_of(path) != digest:
            raise CorruptFileError(f"{path}: does not match its SHA-256 in {sums}; copy it again")


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Convert the libraries' errors about damaged content into one error that names the file."""
    try:
        yield
    except MemoryError:  # Arrow's own is among the errors below
        raise
    except _DAMAGE as exc:
        raise CorruptFileError(f"{path}: cannot be read: {_one_line(exc)}") from exc
    except OSError as exc:
        if isinstance(exc, DataError) or exc.errno is not None:  # ours, or the storage's own
            raise
        raise CorruptFileError(f"{path}: cannot be read: {_one_line(exc)}") from exc


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def check_numbers(path: Path, what: str, dtype: np.dtype[Any], *, whole: bool = False) -> None:
    if dtype.kind not in ("iu" if whole else "fiu"):
        wanted = "integers are" if whole else "real numbers are"
        raise FeatureMismatchError(f"{path}: {what} is of type {dtype}; {wanted} wanted")


def needs_pickle(where: object) -> FeatureMismatchError:
    return FeatureMismatchError(
        f"{where}: an array of Python objects, which only pickle can read, and pickle can run any program; "
        "save it as numbers or text: numpy.stack for arrays, .astype(str) for names"
    )
