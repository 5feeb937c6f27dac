"""Tables of JSON objects: one per line (NeMo manifests, metadata.jsonl), or a list of them."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from voxshard.corpora.text import as_utf8, not_utf8
from voxshard.errors import ManifestError

EXTENSIONS = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".json.gz")
_AS_LINES = "write one object per line, without commas after them (pandas: orient='records', lines=True)"
_INT64 = range(-(1 << 63), 1 << 63)


def read(content: bytes, where: str) -> pa.Table:
    """Read objects, one row each; a key that an object lacks is null. Nested values become their JSON text.

    Raises
    ------
    ManifestError : a line is no JSON object; names the line.
    """
    return table_of(objects(content, where))


def objects(content: bytes, where: str) -> list[dict[str, Any]]:
    """Return the objects of a file, compressed with gzip or not.

    Raises
    ------
    ManifestError : a line is no JSON object; names the line.
    """
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError) as exc:
            raise ManifestError(f"{where}: a damaged gzip file: {exc}") from exc
    try:
        text = as_utf8(content, where).decode()
    except UnicodeDecodeError as exc:
        raise not_utf8(content, where) from exc
    if text.lstrip().startswith("["):
        rows = parsed(text, where)
        if not all(isinstance(row, dict) for row in rows):
            raise ManifestError(f"{where}: a JSON list of something else than objects")
        return list(rows)
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            row = parsed(line, f"{where}: line {number}")
            if not isinstance(row, dict):
                raise ManifestError(f"{where}: line {number}: no JSON object")
            rows.append(row)
    if len(rows) == 1 and all(isinstance(value, dict | list) for value in rows[0].values()):
        raise ManifestError(f"{where}: one object of lists or objects, not a row; {_AS_LINES}")
    return rows


def table_of(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Make columns from objects; a column has one type, which changes no value.

    Raises
    ------
    ManifestError : text that is no Unicode (half of a surrogate pair).
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    try:
        return pa.table({name: _column([row.get(name) for row in rows]) for name in names})
    except UnicodeEncodeError as exc:
        raise ManifestError(f"{exc.object!a}: text that is no Unicode: {exc.reason}; correct the file") from exc


def parsed(text: str | bytes, where: str) -> Any:
    """Parse one JSON text.

    Raises
    ------
    ManifestError : it is no JSON, or an object has a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as exc:
        end = text.rstrip()[-1:]
        hint = f"; {_AS_LINES}" if end in (",", "{", b",", b"{") else ""
        raise ManifestError(f"{where}: no JSON: {exc}{hint}") from exc


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is in an object twice")
    return found


def _column(values: list[Any]) -> pa.Array:
    values = [None if isinstance(value, float) and math.isnan(value) else value for value in values]
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int} and all(value is None or value in _INT64 for value in values):
        return pa.array(values, pa.int64())
    if kinds and kinds <= {int, float} and all(type(value) is not int or abs(value) <= 1 << 53 for value in values):
        return pa.array(values, pa.float64())
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    texts = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return pa.array(texts, pa.string())
