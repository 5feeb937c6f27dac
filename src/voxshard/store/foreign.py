"""Reading of embeddings that other programs wrote: npy + csv, npz, json, parquet, tsv. Pickle is never used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from voxshard.errors import FeatureMismatchError, ManifestError
from voxshard.store.foreign_base import ForeignFile, check_numbers, check_sums, damage_named
from voxshard.store.foreign_json import read_json_features
from voxshard.store.foreign_numpy import read_npy, read_npz
from voxshard.store.foreign_tables import read_parquet, read_tsv
from voxshard.store.hdf5 import Arrays


def open_foreign(path: Path) -> ForeignFile:
    """Recognise a file's format by its name and read everything except its arrays.

    Raises
    ------
    ManifestError : a format that is not known, or ids that are not where they should be.
    FeatureMismatchError : arrays that do not fit together, or that only pickle can read.
    CorruptFileError : damaged, or not what its name promises, or against the SHA256SUMS next to it.
    """
    readers = {
        ".npy": read_npy,
        ".npz": read_npz,
        ".json": read_json_features,
        ".parquet": read_parquet,
        ".tsv": read_tsv,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ManifestError(f"{path}: not a format that can be ingested; these are: {', '.join(readers)}")
    if not path.is_file():
        raise ManifestError(f"{path}: no such file")
    check_sums(path)
    with damage_named(path):
        found = reader(path)
        columns = {name: _plain(path, name, column) for name, column in found.columns.items()}
    return ForeignFile(path, found.granularity, lambda: _checked_items(path, found.items()), columns)


def _checked_items(path: Path, items: Iterator[tuple[str, Arrays]]) -> Iterator[tuple[str, Arrays]]:
    with damage_named(path):
        for name, output in items:
            for key, values in output.items():
                check_numbers(path, f"{key} of {name!r}", values.dtype, whole=key == "codes")
            if "codes" in output:
                _check_codes(path, name, output)
            yield name, output


def _check_codes(path: Path, name: str, output: Arrays) -> None:
    codes = output["codes"]
    if len(codes) != len(output["frames"]):
        raise FeatureMismatchError(f"{path}: {name!r} has {len(output['frames'])} frames and {len(codes)} codes")
    if codes.size and not (int(codes.min()) >= 0 and int(codes.max()) <= np.iinfo(np.int32).max):
        raise FeatureMismatchError(
            f"{path}: codes of {name!r} go from {codes.min()} to {codes.max()}; 0 to {np.iinfo(np.int32).max} is wanted"
        )


def _plain(path: Path, name: str, column: pa.Array) -> pa.Array:
    """Return a column of single values; dictionary-encoded values are decoded.

    Raises
    ------
    ManifestError : lists, structures and other nested values.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_nested(column.type) or isinstance(column.type, pa.ExtensionType):
        raise ManifestError(f"{path}: column {name} is of type {column.type}; one text or number per row is wanted")
    return column
