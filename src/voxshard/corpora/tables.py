"""Tables and lists that people or other programs make: CSV, TSV, Parquet, JSON lines, and one name per line."""

from __future__ import annotations

import csv
import functools
import io
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from voxshard import remote
from voxshard.audio import is_url
from voxshard.corpora import json_lines
from voxshard.corpora.base import AUDIO_EXTENSIONS, extension_of
from voxshard.corpora.remote_folder import CorpusPath, content_of
from voxshard.corpora.text import as_utf8, check_text, first_not_utf8, not_utf8
from voxshard.corpora.values import cleaned, number_note, typed
from voxshard.errors import EnvironmentProblemError, ManifestError
from voxshard.no_table import NO_TABLE

TABLE_EXTENSIONS = (".csv", ".tsv", ".parquet", ".pq", *json_lines.EXTENSIONS)

# Column names that hold a recording's place, the likeliest first: ours, then those of NeMo manifests (audio_filepath),
# Hugging Face audio folders (file_name), Common Voice (path), UrbanSound8K and ESC-50.
PATH_COLUMNS = (
    "path", "audio_path", "audio_filepath", "file_path", "filepath", "audio_file", "filename", "file_name", "file",
    "fname", "audio", "wav_path", "wav", "recording", "slice_file_name",
)  # fmt: skip
ID_COLUMNS = ("utterance_id", "utt_id", "utt", "id", "uid")

# Never guessed to be numbers: 007 and 7 are two speakers.
_ALWAYS_TEXT = {"split", "fold", "speaker", *ID_COLUMNS}
_NAMES = {*ID_COLUMNS, *PATH_COLUMNS}
"""Columns of names, which no rule for labels changes: a recording may be called NA."""
_DELIMITERS = "\t,;|"
_LARGEST_BLOCK = 1 << 28
"""Bytes of a table parsed at once; no value can be longer."""


def read_table(path: str | CorpusPath, *, names: Sequence[str] = (), notes: list[str] | None = None) -> pa.Table:
    """Read one table; see `read_tables`."""
    return read_tables([path], names=names, notes=notes)[0]


def read_tables(
    paths: Sequence[str | CorpusPath], *, names: Sequence[str] = (), notes: list[str] | None = None
) -> list[pa.Table]:
    """Read CSV, TSV, Parquet or JSON files, local or at a URL, whose columns of one name get one type.

    Blanks around column names and values are removed, letters are composed (NFC), and empty text, `NaN`, `NA`, `None`
    and what else pandas takes as missing is null. In CSV and TSV a column becomes int64 or float64 only if all its
    values are numbers or missing, none has leading zeros, and no digit is lost; the columns `split`, `fold`, `speaker`
    and ids stay text. Columns of ids and paths keep their values as they are, except that empty text is null.

    Parameters
    ----------
    names : further columns of ids or paths.
    notes : gets a line for every rule that changed something.

    Raises
    ------
    ManifestError : missing, not such a table, or text in an unknown encoding.
    """
    notes = [] if notes is None else notes
    raw = [_raw(str(path), notes) for path in paths]
    kept = {name.lower() for name in names} | _NAMES
    found: list[dict[str, pa.ChunkedArray]] = [{} for _ in raw]
    for name in dict.fromkeys(name for table in raw for name in table.column_names):
        owners = [number for number, table in enumerate(raw) if name in table.column_names]
        gaps: list[str] = []
        columns = [_text(raw[number][name], str(paths[number]), name, kept, notes, gaps) for number in owners]
        may_be_numbers = name.lower() not in _ALWAYS_TEXT and all(
            pa.types.is_binary(raw[number][name].type) and pa.types.is_string(column.type)
            for number, column in zip(owners, columns, strict=True)
        )
        if may_be_numbers:
            together = typed(pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string()))
            columns = [column.cast(together.type) for column in columns]
            notes += number_note(together, name)
        if any(pa.types.is_string(column.type) for column in columns):
            notes += gaps
        for number, column in zip(owners, columns, strict=True):
            found[number][name] = column
    return [
        pa.table({name: columns[name] for name in table.column_names})
        for table, columns in zip(raw, found, strict=True)
    ]


def _raw(where: str, notes: list[str]) -> pa.Table:
    """Read the columns of a table: binary from a text file, typed if the file has types."""
    try:
        content = _content(where)
        if where.lower().endswith((".parquet", ".pq")):
            table = _flat(pq.read_table(pa.BufferReader(content)))
            table.validate(full=True)  # damage inside may have left text that is none
        elif where.lower().endswith(json_lines.EXTENSIONS):
            table = json_lines.read(content, where)
        else:
            check_text(content, where)
            table = _read_delimited(as_utf8(content, where), where, notes)
    except EnvironmentProblemError:
        raise
    except FileNotFoundError as exc:
        raise ManifestError(f"{where}: no such file") from exc
    except (OSError, *NO_TABLE) as exc:
        raise ManifestError(f"{where}: cannot be read as a table: {exc}") from exc
    plain = [unicodedata.normalize("NFC", name.strip()) for name in table.column_names]
    if plain != table.column_names:
        changed = [new for new, old in zip(plain, table.column_names, strict=True) if new != old]
        notes.append(f"{where}: blanks around column names are removed, their letters composed: {', '.join(changed)}")
    _check_unique(plain, where)
    return table.rename_columns(plain)


def _text(
    column: pa.ChunkedArray, where: str, name: str, kept: set[str], notes: list[str], gaps: list[str]
) -> pa.ChunkedArray:
    """Convert a column of text by the rules for labels; other columns stay as they are."""
    is_name = name.lower() in kept
    if pa.types.is_binary(column.type):
        try:
            column = column.cast(pa.string())
        except pa.ArrowInvalid as exc:
            if is_name and name.lower() not in ID_COLUMNS:
                return column
            row, value = first_not_utf8(column.to_pylist())
            raise not_utf8(value, f"{where}: column {name}", row) from exc
    if not pa.types.is_string(column.type):
        return column
    if is_name:
        return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
    return cleaned(column, f"{where}, column {name}", notes, gaps)


def _check_unique(names: Sequence[str], where: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ManifestError(f"{where}: column {', '.join(twice)} appears twice in the header")


def stacked(tables: Sequence[pa.Table]) -> pa.Table:
    """Concatenate tables; the type of a column can represent its values in all of them."""
    names = list(dict.fromkeys(name for table in tables for name in table.column_names))
    columns = {}
    for name in names:
        parts = [table[name] if name in table.column_names else _gap(len(table)) for table in tables]
        kinds = {part.type for part in parts if part.null_count < len(part)}
        if len(kinds) > 1:
            numbers = all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds)
            kinds = {pa.float64() if numbers else pa.string()}
        kind = kinds.pop() if kinds else pa.string()
        columns[name] = pa.chunked_array([chunk for part in parts for chunk in part.cast(kind).chunks], kind)
    return pa.table(columns)


def _gap(length: int) -> pa.ChunkedArray:
    return pa.chunked_array([pa.nulls(length)])


def read_lines(path: str | CorpusPath) -> list[str]:
    """Read the names in a list file, one per line, without empty lines and lines that begin with `#`."""
    try:
        content = as_utf8(_content(str(path)), str(path))
    except EnvironmentProblemError:
        raise
    except FileNotFoundError as exc:
        raise ManifestError(f"{path}: no such file") from exc
    except OSError as exc:
        raise ManifestError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    lines = (os.fsdecode(line.rstrip(b"\r")) for line in content.split(b"\n"))
    return [line for line in lines if line.strip() and not line.startswith("#")]


def is_table(path: str | CorpusPath) -> bool:
    """Whether a file is a table by its name, rather than a list of names."""
    return str(path).lower().endswith(TABLE_EXTENSIONS)


def column_of(table: pa.Table, candidates: Iterable[str], *, chosen: str | None, where: str, what: str) -> str:
    """Return the column that contains `what`: the user's choice, else the first candidate that exists (in any case).

    Raises
    ------
    ManifestError : there is none; names the columns there are.
    """
    names = table.column_names
    if chosen is not None:
        if chosen not in names:
            raise ManifestError(f"{where}: no column {chosen!r}; it has {', '.join(names)}")
        return chosen
    lower: dict[str, str] = {name.lower(): name for name in reversed(names)}
    for candidate in candidates:
        if candidate in lower:
            return lower[candidate]
    hint = ""
    if len(names) == 1 or any(extension_of(name) in AUDIO_EXTENSIONS for name in names):
        hint = "; the first line of a table must be the names of its columns"
    raise ManifestError(f"{where}: no column with {what}; it has {', '.join(names)}{hint}")


def _content(where: str) -> bytes:
    if not is_url(where):
        return content_of(Path(where))
    return remote.read(where)


def _read_delimited(content: bytes, where: str, notes: list[str]) -> pa.Table:
    content = content.lstrip(b"\r\n")
    header, _, rows = content.partition(b"\n")
    if not header.strip():
        raise ManifestError(f"{where}: empty; expected a table with a header line")
    check_text(content, where)
    try:
        header.decode()
    except UnicodeDecodeError as exc:
        raise not_utf8(header, f"{where}: its header") from exc
    parse = pacsv.ParseOptions(delimiter=_delimiter(header, rows.partition(b"\n")[0]), newlines_in_values=True)
    blocks = pacsv.ReadOptions(block_size=min(len(content) + 1, _LARGEST_BLOCK))
    # One pass for the header's names, so that every column can be asked for as it is in the file.
    names = pacsv.open_csv(pa.BufferReader(content), read_options=blocks, parse_options=parse).schema.names
    named = [number for number, name in enumerate(names) if name.strip()]
    _check_unique([names[number] for number in named], where)
    convert = pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.binary()))
    table = pacsv.read_csv(pa.BufferReader(content), read_options=blocks, parse_options=parse, convert_options=convert)
    if content.count(b'"') % 2 and any(b"\n" in (column[-1].as_py() or b"") for column in table.columns if len(table)):
        raise ManifestError(
            f"{where}: a quotation mark in row {len(table) - 1} is not closed: rows after it would be lost"
        )
    _check_rows(content, table, names, parse.delimiter, where)
    if left_out := [
        str(number + 1) for number in range(1, len(names)) if number not in named
    ]:  # pandas' index is first
        notes.append(f"{where}: columns without a name are left out: {', '.join(left_out)}")
    return table.select(named)


def _check_rows(content: bytes, table: pa.Table, names: Sequence[str], delimiter: str, where: str) -> None:
    """Check that no row is the header again, and that no row was lost between two quotation marks.

    Raises
    ------
    ManifestError : names the row, or the line.
    """
    is_header = functools.reduce(
        pc.and_, (pc.equal(column, name.encode()) for name, column in zip(names, table.columns, strict=True))
    )
    if pc.any(is_header).as_py():
        raise ManifestError(f"{where}: row {pc.index(is_header, True).as_py()} is the header again; remove this line")
    if content.count(b"\n") <= len(table) + 1 or b'"' not in content:
        return
    before = csv.field_size_limit(_LARGEST_BLOCK)
    lines = csv.reader(io.StringIO(os.fsdecode(content), newline=""), delimiter=delimiter, strict=True)
    try:
        for _ in lines:
            pass
    except csv.Error as exc:
        raise ManifestError(
            f"{where}: line {lines.line_num:,}: a quotation mark is missing or one too many ({exc}): rows would be lost"
        ) from exc
    finally:
        csv.field_size_limit(before)


def _delimiter(header: bytes, row: bytes) -> str:
    """Return the separator that is most frequent in the header and the first row."""
    counts = {mark: (min(header.count(mark), row.count(mark)), header.count(mark)) for mark in _DELIMITERS.encode()}
    return chr(max(counts, key=lambda mark: counts[mark]))


def _flat(table: pa.Table) -> pa.Table:
    """Drop an index that pandas stored, and decode dictionary columns."""
    keep = [name for name in table.column_names if not name.startswith("__index_level_")]
    columns = {}
    for name in keep:
        column = table[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
            column = column.cast(pa.string())
        if pa.types.is_large_binary(column.type) or pa.types.is_binary_view(column.type):
            column = column.cast(pa.binary())
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        columns[name] = column
    return pa.table(columns)
