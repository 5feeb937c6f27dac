"""Exceptions of pyarrow for bytes that are not a table."""

from __future__ import annotations

import pyarrow as pa

NO_TABLE = (
    pa.ArrowIndexError,
    pa.ArrowInvalid,
    pa.ArrowKeyError,
    pa.ArrowNotImplementedError,
    pa.ArrowTypeError,
)
"""Besides OSError: one changed byte of a Parquet file may ask for a type or a codec that does not exist. Lack of
memory, `pa.ArrowMemoryError`, is no verdict on a file."""
