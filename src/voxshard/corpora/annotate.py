"""Splits and labels that the user brings: lists, tables, and patterns over paths.

Every function takes the utterance table (with `utterance_id` and `path`) and returns it with columns filled, in the
same order. What the user specifies overrules what the corpus specifies.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from voxshard.corpora.base import first_names, path_text
from voxshard.corpora.tables import ID_COLUMNS, PATH_COLUMNS, column_of, is_table, read_lines, read_table
from voxshard.corpora.unicode_forms import composed
from voxshard.errors import ConfigError, ManifestError
from voxshard.manifest import COLUMNS

Notes = list[str]

# Of the fixed columns the user may fill these; the others report which audio is meant, or are measured.
_FREE = ("split", "fold", "speaker")


def apply_split_lists(
    table: pa.Table, lists: Sequence[tuple[str, str]], *, require_all: bool = True
) -> tuple[pa.Table, Notes]:
    """Assign the utterances that each list names to its split.

    Parameters
    ----------
    lists : (split, file) pairs. A file has one id, path, file name or stem per line, or is a table with such a column.
    require_all : the table is the complete corpus, so every line must match; else lines without a match are only
        counted.

    Raises
    ------
    ManifestError : lines that match no utterance, or an utterance in two splits.
    """
    notes: Notes = []
    values: list[str | None] = [None] * len(table)
    for split, file in lists:
        option = f"--split {split}={file}"
        entries = list_entries(file)
        matches, note = _match(table, entries, option, require_all=require_all)
        notes += note
        for row, index in enumerate(matches.to_pylist()):
            if index is None:
                continue
            if values[row] not in (None, split):
                name = table["utterance_id"][row].as_py()
                raise ManifestError(f"{option}: {name!r} is in split {values[row]} too; an utterance has one split")
            values[row] = split
    return put(table, "split", pa.array(values, pa.string())), notes


def join_labels(table: pa.Table, file: str, *, require_all: bool = True) -> tuple[pa.Table, Notes]:
    """Add the columns of a label table, joined by id, path, file name or stem.

    Raises
    ------
    ManifestError : no column to join by, rows that match no utterance, or two rows for one.
    """
    option = f"--labels {file}"
    notes: Notes = []
    labels = read_table(file, notes=notes)
    key = column_of(
        labels,
        (*ID_COLUMNS, *PATH_COLUMNS),
        chosen=None,
        where=option,
        what="ids or paths, such as utterance_id or path",
    )
    entries = _names_in(labels[key], f"{option}, column {key}")
    twice = [name for name, count in Counter(entries).items() if count > 1]
    if twice:
        raise ManifestError(f"{option}: {len(twice)} values of {key} appear twice: {first_names(twice)}")
    matches, more = _match(table, entries, option, require_all=require_all)
    notes += more
    measured = [name for name in labels.column_names if name in COLUMNS and name not in _FREE and name != key]
    if measured:
        notes.append(f"{option}: columns {', '.join(measured)} are left out, prepare finds them itself")
    for name in labels.column_names:
        if name != key and name not in measured:
            table = put(table, name, labels[name].combine_chunks().take(matches))
    if matches.null_count:
        notes.append(f"{option}: {matches.null_count:,} of {len(table):,} utterances have no row in it")
    return table, notes


def labels_from_paths(table: pa.Table, expression: str) -> tuple[pa.Table, Notes]:
    """Add one column per named group of a regular expression that is searched in the path.

    Raises
    ------
    ConfigError : not a regular expression, without named groups, or groups named like what prepare measures.
    ManifestError : no path matches.
    """
    option = f"--label-from {expression}"
    pattern = _compiled(expression, option)
    groups = list(pattern.groupindex)
    if not groups:
        raise ConfigError(f"{option}: no named group; write (?P<label>...) around what is to become a column")
    fixed = [name for name in groups if name in COLUMNS and name not in _FREE]
    if fixed:
        raise ConfigError(f"{option}: {', '.join(fixed)} cannot be a label; choose another name for the group")
    values: dict[str, list[str | None]] = {name: [] for name in groups}
    without: list[str] = []
    for path in _texts(table):
        match = pattern.search(path)
        if match is None:
            without.append(path)
        for name in groups:
            values[name].append(match[name] if match else None)
    if len(without) == len(table):
        raise ManifestError(f"{option}: matches no path; the paths are like {first_names(without)}")
    for name in groups:
        table = put(table, name, pa.array(values[name], pa.string()))
    notes = [f"{option}: {len(without):,} of {len(table):,} paths do not match: {first_names(without)}"]
    return table, notes if without else []


def splits_from_paths(table: pa.Table, rules: Sequence[tuple[str, str]]) -> tuple[pa.Table, Notes]:
    """Assign each utterance the split of the first rule (regular expression, split) that matches its path.

    Raises
    ------
    ConfigError : not a regular expression.
    ManifestError : a rule that matches no path at all.
    """
    patterns = [(_compiled(expression, f"--split-from {expression}={split}"), split) for expression, split in rules]
    hits = [0] * len(patterns)
    values: list[str | None] = []
    for path in _texts(table):
        chosen = None
        for number, (pattern, split) in enumerate(patterns):
            if pattern.search(path):
                hits[number] += 1
                chosen = split
                break
        values.append(chosen)
    for (pattern, split), count in zip(patterns, hits, strict=True):
        if count == 0 and not any(pattern.search(path) for path in _texts(table)):
            examples = first_names([path for path, _ in zip(_texts(table), range(3), strict=False)])
            raise ManifestError(
                f"--split-from {pattern.pattern}={split}: matches no path; the paths are like {examples}"
            )
    missing = sum(value is None for value in values)
    notes = [
        f"--split-from: {missing:,} of {len(table):,} paths match no rule; add '.*=NAME' last for the remaining ones"
    ]
    return put(table, "split", pa.array(values, pa.string())), notes if missing else []


def put(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """Set a column where `values` is not null; other rows keep their values."""
    if name in COLUMNS:
        values = values.cast(COLUMNS[name])
    if name not in table.column_names:
        return table.append_column(name, values)
    old = table[name]
    if pa.types.is_null(old.type) or values.null_count == 0:
        merged = values
    else:
        common = old.type if old.type == values.type else pa.string()
        merged = pc.coalesce(values.cast(common), old.cast(common))
    return table.set_column(table.column_names.index(name), name, merged)


def list_entries(file: str) -> list[str]:
    """Return the names in a list: the lines of a text file, or the id or path column of a table."""
    if not is_table(file):
        return [line.strip() for line in read_lines(file)]
    table = read_table(file)
    key = column_of(table, (*ID_COLUMNS, *PATH_COLUMNS), chosen=None, where=file, what="ids or paths")
    return _names_in(table[key], f"{file}, column {key}")


def _names_in(column: pa.ChunkedArray, where: str) -> list[str]:
    """Return ids or paths as text; bytes that are not UTF-8 become surrogates."""
    if column.null_count:
        raise ManifestError(f"{where}: row {pc.index(column.is_null(), True).as_py()} is empty")
    if pa.types.is_binary(column.type):
        return [os.fsdecode(name) for name in column.to_pylist()]
    names: list[str] = column.cast(pa.string()).to_pylist()
    return names


def _match(table: pa.Table, entries: Sequence[str], option: str, *, require_all: bool) -> tuple[pa.Array, Notes]:
    """Return for each utterance the index of the entry that names it, or null, by the first kind of name that fits.

    Kinds are tried from the strictest on, and the one that leaves the fewest entries over is taken. A file name or
    stem must belong to one utterance only.
    """
    if not entries:
        raise ManifestError(f"{option}: no entries in it")
    wanted = pa.array([os.fsencode(entry.removeprefix("./")) for entry in entries], pa.binary())
    best = _best_kind(_kinds(table), wanted)
    notes: Notes = []
    if best[0] and (of_composed := _composed(wanted)) is not None:
        kinds = ((kind, names) for kind, plain in _kinds(table) if (names := _composed(plain)) is not None)
        other = _best_kind(kinds, of_composed)
        if other[0] < best[0]:
            notes = [f"{option}: {best[0] - other[0]:,} entries match in the other form of their letters (NFC, NFD)"]
            best = other
    left, matches = best
    if left == 0:
        return matches, notes
    used_entries = set(pc.unique(matches).to_pylist())
    over = [entry for index, entry in enumerate(entries) if index not in used_entries]
    if require_all or matches.null_count == len(matches):
        like = first_names(table["utterance_id"][:3].to_pylist())
        raise ManifestError(
            f"{option}: {len(over):,} of {len(entries):,} entries match no utterance: {first_names(over)}; "
            f"an entry is an id, a path, a file name or its stem; the ids here are like {like}{_spelling(table, over)}"
        )
    left_over = f"{option}: {len(over):,} of {len(entries):,} entries are not in what was chosen of the corpus"
    return matches, [*notes, left_over]


def _best_kind(kinds: Iterable[tuple[str, pa.Array]], wanted: pa.Array) -> tuple[int, pa.Array]:
    """Return the number of entries without a match, and the matches, by the kind of name that fits most entries."""
    best: tuple[int, pa.Array] | None = None
    num_wanted = pc.count_distinct(wanted).as_py()
    for kind, names in kinds:
        matches = pc.index_in(names, value_set=wanted)
        used = pc.count_distinct(matches, mode="only_valid").as_py()
        if kind in ("file name", "stem") and used < len(matches) - matches.null_count:
            continue
        if best is None or num_wanted - used < best[0]:
            best = (num_wanted - used, matches)
        if best[0] == 0:
            break
    return best or (num_wanted + 1, pa.nulls(0))


def _composed(names: pa.Array) -> pa.Array | None:
    """Return names with composed letters (NFC); None if that makes two names equal."""
    found = pa.array([os.fsencode(composed(os.fsdecode(name))) for name in names.to_pylist()], pa.binary())
    return found if pc.count_distinct(found).as_py() == pc.count_distinct(names).as_py() else None


def _spelling(table: pa.Table, over: Sequence[str]) -> str:
    """Describe how entries without a match differ from names that exist, for the error."""
    kinds = {kind: [os.fsdecode(name) for name in names.to_pylist()] for kind, names in _kinds(table)}
    counts = Counter(name for names in kinds.values() for name in set(names))
    shared = {name for names in kinds.values() for name, count in Counter(names).items() if count > 1}
    several = [entry for entry in over if entry in shared]
    if several:
        return f"; {len(several):,} are names of several utterances: {first_names(several)}; write their paths"
    other = [entry for entry in over if entry in counts]
    if other:
        return f"; {len(other):,} are another kind of name than the other entries: {first_names(other)}"
    folded = {_folded(name) for name in counts}
    alike = [entry for entry in over if _folded(entry) in folded]
    if alike:
        return f"; {len(alike):,} match but for blanks, backslashes, or upper and lower case: {first_names(alike)}"
    odd = [entry for entry in over if not entry.isprintable()]
    return f"; {len(odd):,} are not UTF-8 or have invisible characters; save the list as UTF-8" if odd else ""


def _folded(name: str) -> str:
    return composed(name.strip().replace("\\", "/").removeprefix("./")).casefold()


def _kinds(table: pa.Table) -> Iterator[tuple[str, pa.Array]]:
    ids = table["utterance_id"].combine_chunks().cast(pa.binary())
    paths = table["path"].combine_chunks().cast(pa.binary())
    yield "id", ids
    if not ids.equals(paths):
        yield "path", paths
    names = pa.array([path.rpartition(b"/")[2] for path in paths.to_pylist()], pa.binary())
    yield "file name", names
    yield "stem", pa.array([os.path.splitext(name)[0] for name in names.to_pylist()], pa.binary())  # noqa: PTH122


def _texts(table: pa.Table) -> Iterator[str]:
    for chunk in path_text(table["path"].combine_chunks()).to_pylist():
        yield str(chunk)


def _compiled(expression: str, option: str) -> re.Pattern[str]:
    try:
        return re.compile(expression)
    except re.error as exc:
        raise ConfigError(f"{option}: not a regular expression: {exc}") from exc
