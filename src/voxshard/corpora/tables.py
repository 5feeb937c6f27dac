"""Tables and lists that people make by hand or with other programs: CSV, TSV, Parquet, and one name per line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from voxshard import remote
from voxshard.audio import is_url
from voxshard.corpora.remote_folder import CorpusPath
from voxshard.errors import ManifestError

TABLE_EXTENSIONS = (".csv", ".tsv", ".parquet", ".pq")

# Column names that hold a recording's place, the likeliest first: ours, then those of NeMo manifests (audio_filepath),
# Hugging Face audio folders (file_name), Common Voice (path), UrbanSound8K and ESC-50.
PATH_COLUMNS = (
    "path", "audio_path", "audio_filepath", "file_path", "filepath", "audio_file", "filename", "file_name", "file",
    "fname", "audio", "wav_path", "wav", "recording", "slice_file_name",
)  # fmt: skip
ID_COLUMNS = ("utterance_id", "utt_id", "utt", "id", "uid")

# Never guessed to be numbers: 007 and 7 are two speakers.
_ALWAYS_TEXT = {"split", "fold", "speaker", *ID_COLUMNS}
_INTEGER = r"^-?(0|[1-9][0-9]{0,17})$"
_NUMBER = r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$"
_NOT_A_NUMBER = ("", "nan", "NaN", "NA", "N/A", "null", "None")


def read_table(path: str | CorpusPath, *, keep_bytes: Sequence[str] = ()) -> pa.Table:
    """Read a CSV, TSV or Parquet file, local or at a URL.

    In CSV and TSV a column becomes int64 or float64 only if all its values are numbers or missing (empty, NaN, NA,
    null, None) and none has leading zeros; the columns `split`, `fold`, `speaker` and ids stay text, whatever they
    hold. Empty text is null.

    Parameters
    ----------
    keep_bytes : columns to leave as binary where they are not UTF-8 (paths).

    Raises
    ------
    ManifestError : not there, not such a table, or text that is not UTF-8.
    """
    where = str(path)
    try:
        if where.lower().endswith((".parquet", ".pq")):
            return _flat(pq.read_table(pa.BufferReader(_content(where))))
        return _typed(_read_delimited(where), where, keep_bytes)
    except FileNotFoundError as exc:
        raise ManifestError(f"{where}: no such file") from exc
    except (OSError, pa.ArrowInvalid, pa.ArrowKeyError) as exc:
        raise ManifestError(f"{where}: cannot be read as a table: {exc}") from exc


def stacked(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables one below the other; a column's type is the one that holds what it has in all of them."""
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
    """The names in a list file, one per line; empty lines and lines that begin with `#` are left out."""
    try:
        content = _content(str(path)).removeprefix(b"\xef\xbb\xbf")
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
    """The column that holds `what`: the one the user chose, else the first candidate there is (in any case).

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
    raise ManifestError(f"{where}: no column with {what}; it has {', '.join(names)}")


def _content(where: str) -> bytes:
    if not is_url(where):
        return Path(where).read_bytes()
    return remote.read(where)


def _read_delimited(where: str) -> pa.Table:
    content = _content(where).removeprefix(b"\xef\xbb\xbf")
    header = content.split(b"\n", 1)[0]
    if not header.strip():
        raise ManifestError(f"{where}: empty; expected a table with a header line")
    delimiter = "\t" if where.lower().endswith(".tsv") or b"\t" in header else ","
    if delimiter not in header.decode("latin-1") and b";" in header:
        delimiter = ";"
    parse = pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    # One pass for the header's names, so that every column can be asked for as it stands in the file.
    names = pacsv.open_csv(pa.BufferReader(content), parse_options=parse).schema.names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ManifestError(f"{where}: column {', '.join(twice)} stands twice in the header")
    convert = pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.binary()))
    table = pacsv.read_csv(pa.BufferReader(content), parse_options=parse, convert_options=convert)
    unnamed = [name for name in names if not name]  # pandas writes its index so
    return table.drop_columns(unnamed) if unnamed else table


def _typed(table: pa.Table, where: str, keep_bytes: Sequence[str]) -> pa.Table:
    columns = {}
    for name in table.column_names:
        try:
            text = table[name].cast(pa.string())
        except pa.ArrowInvalid as exc:
            if name.lower() in keep_bytes:
                columns[name] = table[name]
                continue
            raise ManifestError(f"{where}: column {name} is not UTF-8; save the table as UTF-8") from exc
        columns[name] = _as_text(text) if name.lower() in _ALWAYS_TEXT else _as_number_or_text(text)
    return pa.table(columns)


def _as_text(text: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def _as_number_or_text(text: pa.ChunkedArray) -> pa.ChunkedArray:
    missing = pc.is_in(text, pa.array(_NOT_A_NUMBER))
    values = pc.if_else(missing, pa.scalar(None, pa.string()), text)
    if pc.any(pc.not_equal(text, "")).as_py() and not _padded(values):
        for pattern, kind in ((_INTEGER, pa.int64()), (_NUMBER, pa.float64())):
            if pc.all(pc.match_substring_regex(values, pattern), min_count=0).as_py():
                return values.cast(kind)
    return _as_text(text)


def _padded(values: pa.ChunkedArray) -> bool:
    """Whether a value has leading zeros, as codes have and numbers have not."""
    return bool(pc.any(pc.match_substring_regex(values, r"^[-+]?0[0-9]")).as_py())


def _flat(table: pa.Table) -> pa.Table:
    """Without an index that pandas stored, and with dictionary columns as what they stand for."""
    keep = [name for name in table.column_names if not name.startswith("__index_level_")]
    columns = {}
    for name in keep:
        column = table[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_large_string(column.type):
            column = column.cast(pa.string())
        columns[name] = column
    return pa.table(columns)
