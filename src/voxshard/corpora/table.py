"""`table`: a CSV, TSV, Parquet or JSON lines file with a column of paths, and any further columns.

    ROOT/clips.csv      path,start_s,end_s,split,label
    ROOT/audio/a.wav

The command's ROOT is the table, or a folder with exactly one. Paths are relative to the table's folder, absolute, or
URLs.
"""

from __future__ import annotations

import os
import re

import pyarrow as pa
import pyarrow.compute as pc

from voxshard.audio import is_url
from voxshard.corpora import json_lines
from voxshard.corpora.base import Listing, Request, first_names, path_text
from voxshard.corpora.durations import comparison
from voxshard.corpora.remote_folder import corpus_path, matches
from voxshard.corpora.tables import PATH_COLUMNS, TABLE_EXTENSIONS, column_of, read_table
from voxshard.corpora.walk import contents
from voxshard.errors import EmptyCorpusError, ManifestError
from voxshard.manifest import OBJECT_VERSION

_SPAN_LIKE = re.compile(
    r"(segment)?[ _]?(start|end|offset|duration|begin|onset|stop)[ _]?(time|at)?[ _(]*(s|secs?|seconds|ms|msecs?)?\)?",
    re.IGNORECASE,
)
"""Columns of other programs that may be meant as spans."""
_OVERWRITTEN = ("duration_s", "sample_rate", "num_channels", "num_bytes", "problem", OBJECT_VERSION)


def list_corpus(request: Request) -> Listing:
    """List one row per row of the table; every column is kept.

    Settings: `path_column` and `id_column` where the names are not among the known ones, `audio_root` where the paths
    start from another folder than the table's. Without `utterance_id` the path is the id, and
    `<path>@<start_s>-<end_s>` where rows are spans of recordings.

    Raises
    ------
    EmptyCorpusError : no table, or one without rows.
    ManifestError : no column of paths, a row without one, or a span that ends before it starts.
    """
    request.allow("path_column", "id_column", "audio_root")
    file = _table_in(request.root)
    notes: list[str] = []
    chosen_names = [name for name in (request.option("path_column"), request.option("id_column")) if name is not None]
    table = read_table(file, names=chosen_names, notes=notes)
    if not len(table):
        raise EmptyCorpusError(f"{file}: a table without rows")
    chosen = column_of(
        table,
        PATH_COLUMNS,
        chosen=request.option("path_column"),
        where=file,
        what="paths; name it with --set path_column=NAME",
    )
    paths = table[chosen].combine_chunks()
    if not (pa.types.is_string(paths.type) or pa.types.is_binary(paths.type)):
        raise ManifestError(
            f"{file}: column {chosen} holds {paths.type}, not paths; name another: --set path_column=NAME"
        )
    if pc.any(pc.match_substring_regex(paths.cast(pa.binary()), r'^(\{"|\[")')).as_py():
        raise ManifestError(f"{file}: column {chosen} holds objects or lists, not paths: write one path per row")
    empty = pc.equal(pc.binary_length(pc.fill_null(paths, "")), 0)
    if pc.any(empty).as_py():
        raise ManifestError(f"{file}: row {pc.index(empty, True).as_py()} has no {chosen}")
    others = [name for name in PATH_COLUMNS if name in table.column_names and name != chosen]
    notes.append(f"{file}: paths are taken from column {chosen}" + (f", not {', '.join(others)}" if others else ""))
    stated = None
    if file.lower().endswith(json_lines.EXTENSIONS):
        stated = _stated(table)
        table, more = _nemo_spans(table, file)
        notes += more
    elif (columns := _span_like(table)) and {"start_s", "end_s"}.isdisjoint(table.column_names):
        notes.append(
            f"{file}: {', '.join(columns)}: kept as plain columns; seconds in columns named start_s and end_s make a "
            "row a span of its recording"
        )
    if overwritten := [name for name in table.column_names if name in _OVERWRITTEN]:
        notes.append(f"{file}: columns {', '.join(overwritten)} are left out, prepare finds them itself")
        table = table.drop_columns(overwritten)
    if "path" not in table.column_names:
        table = table.append_column("path", paths)
    elif chosen != "path":
        table = table.set_column(table.column_names.index("path"), "path", paths)
    table = _with_ids(_with_spans(table, file), request.option("id_column"), file)
    folder = file.rpartition("/")[0]
    root = request.option("audio_root", folder) or folder
    compare = comparison(table["utterance_id"].to_pylist(), stated) if stated else None
    start = root if is_url(root) else os.path.abspath(root)  # noqa: PTH100  keeps links
    return Listing(table, start, notes=notes, after_probe=compare)


def _span_like(table: pa.Table) -> list[str]:
    return [name for name in table.column_names if _SPAN_LIKE.fullmatch(name) and name not in _OVERWRITTEN]


def _stated(table: pa.Table) -> list[float | None] | None:
    """Return the durations that NeMo's manifests state of complete recordings."""
    if "duration" not in table.column_names or not {"offset", "start_s", "end_s"}.isdisjoint(table.column_names):
        return None
    kind = table["duration"].type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        return None
    stated: list[float | None] = table["duration"].to_pylist()
    return stated


def _nemo_spans(table: pa.Table, file: str) -> tuple[pa.Table, list[str]]:
    """Convert `offset` and `duration` in seconds (NeMo's manifests) to a span; `duration` alone is not a span."""
    if "offset" not in table.column_names or not {"start_s", "end_s"}.isdisjoint(table.column_names):
        return table, []
    lengths = table["duration"].to_pylist() if "duration" in table.column_names else [None] * len(table)
    ends = []
    for row, (offset, length) in enumerate(zip(table["offset"].to_pylist(), lengths, strict=True)):
        if not all(value is None or type(value) in (int, float) for value in (offset, length)):
            raise ManifestError(f"{file}: row {row}: offset {offset!r}, duration {length!r}: expected seconds")
        ends.append(None if offset is None or length is None else round(offset + length, 9))
    table = table.append_column("start_s", table["offset"].cast(pa.float64()))
    table = table.append_column("end_s", pa.array(ends, pa.float64()))
    return table, ["rows are spans: from offset, of length duration, in seconds"]


def _table_in(root: str) -> str:
    if is_url(root) and root.lower().endswith(TABLE_EXTENSIONS):
        return root
    folder = corpus_path(root)
    if not folder.is_dir():
        return root
    found = [path for path in matches(folder, "*") if path.suffix.lower() in TABLE_EXTENSIONS]
    if len(found) == 1:
        return str(found[0])
    if found:
        raise ManifestError(f"{root}: {first_names([path.name for path in found])}; name the table to prepare")
    raise EmptyCorpusError(
        f"{root}: no .csv, .tsv, .parquet or .jsonl directly in this folder; in it and below: {contents(root)}; "
        "name the table to prepare"
    )


def _with_spans(table: pa.Table, file: str) -> pa.Table:
    for name in ("start_s", "end_s"):
        if name in table.column_names:
            try:
                column = table[name].cast(pa.float64())
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
                raise ManifestError(f"{file}: column {name} is not seconds: {exc}") from exc
            table = table.set_column(table.column_names.index(name), name, column)
        else:
            table = table.append_column(name, pa.nulls(len(table), pa.float64()))
    start_s = pc.fill_null(table["start_s"], 0.0)
    wrong = pc.or_(pc.less(start_s, 0.0), pc.less_equal(pc.fill_null(table["end_s"], float("inf")), start_s))
    if pc.any(wrong).as_py():
        row = pc.index(wrong, True).as_py()
        span = f"start_s={table['start_s'][row].as_py()}, end_s={table['end_s'][row].as_py()}"
        raise ManifestError(f"{file}: row {row}: {span}; expected 0 <= start_s < end_s, in seconds")
    return table


def _with_ids(table: pa.Table, chosen: str | None, file: str) -> pa.Table:
    if chosen is not None or "utterance_id" in table.column_names:
        name = column_of(table, ["utterance_id"], chosen=chosen, where=file, what="ids")
        ids = table[name].cast(pa.string())
    else:
        ids = path_text(table["path"].combine_chunks())
        spans = pc.binary_join_element_wise(
            ids, "@", _seconds(table["start_s"], "0"), "-", _seconds(table["end_s"], "end"), ""
        )
        whole = pc.and_(pc.is_null(table["start_s"]), pc.is_null(table["end_s"]))
        ids = pc.if_else(whole, ids, spans)
    if "utterance_id" in table.column_names:
        return table.set_column(table.column_names.index("utterance_id"), "utterance_id", ids)
    return table.append_column("utterance_id", ids)


def _seconds(values: pa.ChunkedArray, missing: str) -> pa.Array:
    texts = [missing if value is None else f"{value:.10g}" for value in values.to_pylist()]
    return pa.array(texts, pa.string())
