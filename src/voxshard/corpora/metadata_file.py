"""Read the single metadata file of a corpus that ships with its labels and folds."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from voxshard.corpora.base import Request, require_columns
from voxshard.corpora.tables import read_table
from voxshard.corpora.walk import contents
from voxshard.errors import EmptyCorpusError


def read_metadata(request: Request, name: str, columns: Sequence[str], notes: list[str]) -> pa.Table:
    """Read the file, which is in a folder next to the folder `audio`.

    Parameters
    ----------
    name : path of the file below ROOT.
    columns : columns that it must have.
    notes : gets a line for each oddity of the file.

    Raises
    ------
    EmptyCorpusError : the file is missing; names what is in ROOT instead.
    ManifestError : it lacks a column.
    """
    file = request.folder / name
    if not file.is_file():
        raise EmptyCorpusError(
            f"{request.root}: no {name}; found {contents(request.root)}; "
            f"give the folder that holds {name.partition('/')[0]}/ and audio/"
        )
    table = read_table(file, notes=notes)
    require_columns(table, columns, str(file))
    return table
