"""Preparation of a corpus as manifest.parquet: its recordings, their durations and labels, and which cannot be read."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, Field, field_validator

from voxshard import files, urls
from voxshard.audio import is_url, resolve
from voxshard.audio.members import file_of, member_of
from voxshard.audio.sndfile import Span
from voxshard.config import Settings, as_list
from voxshard.corpora import annotate, formats, unicode_forms
from voxshard.corpora.base import Listing, Request, first_names, path_text
from voxshard.corpora.headers import reason
from voxshard.corpora.hints import missing_hints
from voxshard.corpora.probe import probe_all
from voxshard.corpora.remote_folder import objects_of
from voxshard.corpora.walk import glob_pattern
from voxshard.errors import ConfigError, EmptyCorpusError, ManifestError, MissingRecordingError, TooShortError
from voxshard.locations import Location, check_output, parse
from voxshard.manifest import COLUMNS, OBJECT_VERSION, Manifest
from voxshard.progress import counted
from voxshard.stages.base import Task
from voxshard.uploads import output

_MOST_REASONS = 12
"""Kinds of problems, or of warnings, that a summary shows."""
_PARQUET = b"PAR1"
"""First bytes of a Parquet file."""


class PrepareOptions(Settings):
    """Options of prepare; also those of the section `prepare` of an experiment's config."""

    format: str
    """Corpus format, such as folder, table, asvspoof5, kaldi, lhotse or tar."""
    root: str
    """Folder, URL or, for `table`, file of the corpus."""
    glob: str | None = None
    """Use only paths that match this pattern; `*` matches within one folder, `**` matches any number of folders."""
    part: str | None = None
    """Use only recordings below this folder of the root."""
    split: Annotated[tuple[str, ...], BeforeValidator(as_list)] = ()
    """Split as NAME=FILE: the utterances that are listed in FILE get the split NAME."""
    split_from: Annotated[tuple[str, ...], BeforeValidator(as_list)] = ()
    """Split as REGEX=NAME: paths that contain a match of REGEX get the split NAME; the first match counts."""
    labels: str | None = None
    """CSV, TSV or Parquet file whose columns are joined by id or path."""
    label_from: str | None = None
    """Regular expression that is searched in the path; each named group becomes a column."""
    study: str | None = None
    """Value of a column `study` in every row."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first N utterances; null: all."""
    probe: bool = True
    """Read the header of every recording; false finds only sizes and missing files."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the corpus format, such as `path_column` of `table`."""

    @field_validator("format")
    @classmethod
    def _known(cls, value: str) -> str:
        formats.check_known(value)
        return value

    @field_validator("split", "split_from")
    @classmethod
    def _pairs(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            left, equals, right = value.rpartition("=")
            if not (left and equals and right):
                raise ValueError(f"expected two sides joined by `=`, got {value!r}")
        return values


class PrepareConfig(PrepareOptions):
    """Settings of one preparation."""

    out: Location
    """Manifest to write."""


def run(config: PrepareConfig, task: Task | None = None) -> Manifest:
    """List a corpus, add the user's splits and labels, probe every header, and write the manifest.

    Returns
    -------
    The manifest, as it was written.

    Raises
    ------
    ConfigError : an option that makes no sense, or `out` exists and is no manifest.
    EmptyCorpusError : nothing found; reports where, what was looked for, and what exists.
    DuplicateIdError : two utterances with one id.
    ManifestError : lists or labels that do not fit the corpus.
    TransientFaultError : the storage failed; nothing is written.
    StoppedError : asked to stop; nothing is written.
    """
    task = task or Task()
    check_output(config.out, (".parquet", ".pq"))
    for place in (config.root, config.labels, *(file for _, file in _split_lists(config))):
        if is_url(place):
            urls.require(str(place))
    if isinstance(config.out, Path):
        _check_is_manifest(config.out, config.root)
    task.progress.begin(f"listing {config.root}")
    request = _request(config)
    listing = _listed(config.format, request)
    table, notes = unicode_forms.with_real_paths(_chosen(listing, request), listing.root)
    task.progress.advance(len(table))
    table, more = _annotated(table, config)
    if config.limit is not None:
        table = table.slice(0, config.limit)
    for note in (*listing.notes, *notes, *more):
        task.progress.note(note)
    Manifest.from_table(table, root=listing.root, corpus=config.format)  # a doubled id is found before a long probe
    table = _probed(table, listing.root, config, task)
    table = _with_versions(table, listing.root)
    for hint in missing_hints(listing.root, _missing_paths(table)):
        task.progress.note(hint)
    if listing.after_probe is not None:
        table = listing.after_probe(table)
    table = _split_by_split(table)
    manifest = Manifest.from_table(table, root=listing.root, corpus=config.format)
    with output(config.out) as path:
        path.parent.mkdir(parents=True, exist_ok=True)
        manifest.write(path)
    return manifest


def _listed(name: str, request: Request) -> Listing:
    try:
        return formats.adapter(name)(request)
    except UnicodeEncodeError as exc:
        shown = str(exc.object)[:80]
        raise ManifestError(f"{request.root}: {shown!a} in its lists is not UTF-8; save them as UTF-8") from exc
    except OSError as exc:
        if exc.errno in (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENXIO):
            raise EmptyCorpusError(f"{exc.filename}: {exc.strerror}; check the path and its permissions") from exc
        raise


def _check_is_manifest(out: Path, root: str) -> None:
    """Raise ConfigError if writing `out` would replace anything but a manifest, before hours of listing and probing."""
    if out.is_dir():
        raise ConfigError(f"--out {out}: a folder; give the name of the manifest, such as {out / 'manifest.parquet'}")
    if not out.exists():
        return
    with open(files.open_to_read(out), "rb") as stream:
        is_parquet = stream.read(len(_PARQUET)) == _PARQUET
    if not is_parquet or (not is_url(root) and Path(root).exists() and out.samefile(root)):
        raise ConfigError(f"--out {out}: there already, and no manifest; give a new name")


def _split_by_split(table: pa.Table) -> pa.Table:
    """Sort rows by split, each in the corpus's order; rows without a split come last.

    Shards never cross a split: of splits that alternate, each would hold a few files.
    """
    if "split" not in table.column_names:
        return table
    codes = pc.index_in(table["split"], pc.unique(table["split"]).drop_null())
    return table.take(pc.sort_indices(codes))  # a stable sort, nulls at the end


def summary(manifest: Manifest) -> list[str]:
    """Return a summary of a manifest: utterances and hours per split, problems by reason, warnings."""
    table = manifest.table
    lines = [f"{counted(len(manifest), 'utterance')}{_hours(table)}"]
    if splits := manifest.splits():
        for name in splits:
            rows = table.filter(pc.equal(table["split"], name))
            lines.append(f"  split {name}: {len(rows):,}{_hours(rows)}")
        if table["split"].null_count:
            lines.append(f"  without a split: {table['split'].null_count:,}")
    bad = table.filter(table["problem"].is_valid())
    if len(bad):
        lines.append(f"{len(bad):,} of {len(manifest):,} cannot be read:")
        lines += _by_reason(bad, "problem")
    if "warning" in table.column_names and table["warning"].null_count < len(table):
        warned = table.filter(table["warning"].is_valid())
        lines.append(f"warnings: {len(warned):,}")
        lines += _by_reason(warned, "warning")
    return lines


def _by_reason(table: pa.Table, column: str) -> list[str]:
    """Return lines with the number of rows per reason, the most frequent first; reasons that differ only in numbers are
    combined."""
    rows: dict[str, list[int]] = {}
    texts = [str(text) for text in table[column].to_pylist()]
    for row, text in enumerate(texts):
        rows.setdefault(re.sub(r"\d+(\.\d+)?", "N", text), []).append(row)
    groups = sorted(rows.values(), key=lambda group: -len(group))
    lines = []
    for group in groups[:_MOST_REASONS]:
        name, colon, text = texts[group[0]].partition(": ")
        if column != "problem" or not colon:
            name, text = "", texts[group[0]]
        example = table["utterance_id"][group[0]].as_py()
        lines.append(f"  {len(group):,} {name}{', ' if name else ''}such as {example!r}: {text}")
    if len(groups) > _MOST_REASONS:
        lines.append(f"  {sum(map(len, groups[_MOST_REASONS:])):,} for {len(groups) - _MOST_REASONS} other reasons")
    return lines


def _hours(table: pa.Table) -> str:
    seconds = pc.sum(table["duration_s"]).as_py()
    return "" if seconds is None else f", {seconds / 3600:,.2f} h of audio"


def _request(config: PrepareConfig) -> Request:
    place = parse(config.root)
    root = str(place)
    if isinstance(place, Path):
        root = os.path.abspath(place)  # noqa: PTH100  keeps links as the user wrote them
        try:
            os.stat(root)  # noqa: PTH116
        except (PermissionError, FileNotFoundError, NotADirectoryError) as exc:
            what = "table" if config.format == "table" else "folder"
            why = f"no such {what}" if isinstance(exc, FileNotFoundError) else exc.strerror
            raise EmptyCorpusError(f"{root}: {why}") from exc
    part = config.part.strip("/") if config.part else None
    return Request(root, part, config.glob, _split_lists(config), config.study, config.settings)


def _split_lists(config: PrepareConfig) -> list[tuple[str, str]]:
    return [(name, file) for name, _, file in (text.partition("=") for text in config.split)]


def _chosen(listing: Listing, request: Request) -> pa.Table:
    """Return the listing with ids, restricted to the paths that `--part` and `--glob` select."""
    table = listing.table
    texts = path_text(table["path"].combine_chunks())
    if "utterance_id" not in table.column_names:
        table = table.append_column("utterance_id", texts)
    part = request.part
    pattern = glob_pattern(request.glob) if request.glob else None
    if part is None and pattern is None:
        return table
    keep = [
        (part is None or path.startswith(f"{part}/")) and (pattern is None or pattern.fullmatch(path) is not None)
        for path in texts.to_pylist()
    ]
    if not any(keep):
        asked = " and ".join(f"--{name} {value}" for name, value in (("part", part), ("glob", request.glob)) if value)
        raise EmptyCorpusError(
            f"{request.root}: none of its {len(table):,} utterances fits {asked}; "
            f"their paths are like {first_names(texts[:3].to_pylist())}"
        )
    return table.filter(pa.array(keep))


def _annotated(table: pa.Table, config: PrepareConfig) -> tuple[pa.Table, list[str]]:
    """Add the user's labels and splits; more specific options are applied later."""
    require_all = config.part is None and config.glob is None
    notes: list[str] = []
    if config.study is not None:
        table = annotate.put(table, "study", pa.array([config.study] * len(table), pa.string()))
    if config.labels is not None:
        table, more = annotate.join_labels(table, config.labels, require_all=require_all)
        notes += more
    if config.label_from is not None:
        table, more = annotate.labels_from_paths(table, config.label_from)
        notes += more
    if config.split_from:
        rules = [(expression, name) for expression, _, name in (text.rpartition("=") for text in config.split_from)]
        table, more = annotate.splits_from_paths(table, rules)
        notes += more
    if config.split and not formats.is_from_lists(config.format):
        table, more = annotate.apply_split_lists(table, _split_lists(config), require_all=require_all)
        notes += more
    return table, notes


def _probed(table: pa.Table, root: str, config: PrepareConfig, task: Task) -> pa.Table:
    """Add the results of probing to the table; a recording with several spans is probed once."""

    def on_rows(items: int, audio_s: float) -> None:
        task.progress.advance(items, audio_s)
        task.check()

    recordings = table["path"].combine_chunks().dictionary_encode()
    once = recordings.dictionary
    task.progress.begin("reading headers" if config.probe else "reading sizes", items=len(once))
    found = probe_all(root, once, headers=config.probe, on_rows=on_rows)
    for name in found.column_names:
        measured = config.probe or name in ("num_bytes", "problem")
        if name == "warning" and name in table.column_names:
            table = _with_warnings(table, found[name].combine_chunks().take(recordings.indices))
            continue
        if not measured or (name not in COLUMNS and name in table.column_names):
            continue  # a corpus may have its own column `format`
        values = found[name].combine_chunks().take(recordings.indices)
        if name == "warning" and values.null_count == len(values):
            continue
        at = table.column_names.index(name) if name in table.column_names else None
        table = table.append_column(name, values) if at is None else table.set_column(at, name, values)
    return _cut_to_spans(table) if config.probe else table


def _missing_paths(table: pa.Table) -> list[str | bytes]:
    is_missing = pc.starts_with(pc.fill_null(table["problem"], ""), MissingRecordingError.__name__)
    paths: list[str | bytes] = table["path"].filter(is_missing).to_pylist()
    return paths


def _with_warnings(table: pa.Table, found: pa.Array) -> pa.Table:
    """Append the warnings of probing to those of the corpus."""
    at = table.column_names.index("warning")
    pairs = zip(table["warning"].to_pylist(), found.to_pylist(), strict=True)
    joined = ["; ".join(str(text) for text in pair if text is not None) or None for pair in pairs]
    return table.set_column(at, "warning", pa.array(joined, pa.string()))


def _with_versions(table: pa.Table, root: str) -> pa.Table:
    """Add size and version of every recording in a bucket, or of the archive that contains it."""
    places = [resolve(root, path) for path in table["path"].to_pylist()]
    if not any(map(is_url, places)):
        return table
    found = objects_of([os.fsdecode(file_of(place)) if is_url(place) else None for place in places], root)
    sizes, versions = [], []
    for place, item in zip(places, found, strict=True):
        member = member_of(place)
        sizes.append(member.num_bytes if item and member else item.num_bytes if item else None)
        versions.append(item.version if item else None)
    table = annotate.put(table, "num_bytes", pa.array(sizes, pa.int64()))
    return annotate.put(table, OBJECT_VERSION, pa.array(versions, pa.string()))


def _cut_to_spans(table: pa.Table) -> pa.Table:
    """Set `duration_s` of rows that are spans to the span's duration; spans beyond the recording's end get a
    problem."""
    if "start_s" not in table.column_names or table["start_s"].null_count == table["end_s"].null_count == len(table):
        return table
    durations, problems = [], []
    names = ("start_s", "end_s", "duration_s", "sample_rate", "problem")
    for start_s, end_s, duration_s, sample_rate, problem in zip(
        *(table[name].to_pylist() for name in names), strict=True
    ):
        if problem is None and duration_s is not None:
            try:
                Span(start_s, end_s).check(round(duration_s * sample_rate), sample_rate)
                duration_s = min(end_s or duration_s, duration_s) - (start_s or 0.0)
            except TooShortError as exc:
                problem, duration_s = reason(exc), None
        durations.append(duration_s)
        problems.append(problem)
    for name, values in (("duration_s", durations), ("problem", problems)):
        table = table.set_column(table.column_names.index(name), name, pa.array(values, COLUMNS[name]))
    return table
