"""`uid-folders`: a folder per recording, named by its uid, and lists of uids with labels.

    ROOT/train.csv  test.csv  val.csv (optional)     uid,<label>,<label>,...
    ROOT/<uid>/waveform.wav                          any audio extension
    ROOT/<uid>/metadata.json                         {"encoding": "WAV", "sample_rate_hz": 16000, ...}

Layout: README of https://github.com/dwiepert/naip-w2v2 (section "Data structure"). There a parent folder may hold
several studies: with `--study NAME` the recordings are in ROOT/NAME. The lists may be elsewhere: name them with
`--split train=FILE`. The id is the uid. Labels may be numbers, missing ones are null.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from voxshard.corpora.base import AUDIO_EXTENSIONS, Listing, Request, extension_of, path_array, path_text
from voxshard.corpora.remote_folder import CorpusPath, content_of, matches
from voxshard.corpora.tables import column_of, read_tables, stacked
from voxshard.corpora.unicode_forms import Folders
from voxshard.corpora.walk import contents
from voxshard.errors import DuplicateIdError, EmptyCorpusError, ManifestError

# metadata.json's `encoding` -> the container a header then shows. Any other encoding is compared with the extension.
_CONTAINERS = {"WAV": "WAV", "WAVE": "WAV", "LINEAR16": "WAV", "MP3": "MP3", "FLAC": "FLAC", "OGG": "OGG",
               "OGG_OPUS": "OGG"}  # fmt: skip


_READERS = 32
"""Threads that read metadata.json from a bucket."""
_HIGHEST_RATE_HZ = 1 << 31


def list_corpus(request: Request) -> Listing:
    """List one row per uid of the lists, in their order; without lists, one per uid folder.

    Columns `uid`, the lists' label columns, `encoding` and `sample_rate_hz` of metadata.json, and `warning`: where
    metadata.json is missing or disagrees with the file's header, which wins. Takes no settings.

    Raises
    ------
    EmptyCorpusError : neither lists nor uid folders.
    DuplicateIdError : a uid twice in a list, or in two lists.
    """
    request.allow()
    root = request.folder
    folder = root / request.study if request.study and (root / request.study).is_dir() else root
    lists = list(request.lists) or _lists_in([folder, root])
    table, notes = _listed(lists) if lists else (_unlisted(folder), [])
    prefix = "" if folder == root else f"{folder.name}/"
    real = Folders(str(folder)).real_path
    names = [real(uid) for uid in table["uid"].to_pylist()]
    places = [folder / name for name in names]
    if isinstance(folder, Path):
        found = [_look(place) for place in places]
    else:
        with ThreadPoolExecutor(_READERS) as pool:
            found = list(pool.map(_look, places))
    pairs = zip(names, found, strict=True)
    table = (
        table.append_column("utterance_id", table["uid"])
        .append_column("path", path_array([f"{prefix}{uid}/{name}" for uid, (name, _, _) in pairs]))
        .append_column("encoding", pa.array([about.get("encoding") for _, about, _ in found], pa.string()))
        .append_column("sample_rate_hz", pa.array([about.get("sample_rate_hz") for _, about, _ in found], pa.int64()))
        .append_column("warning", pa.array([warning for _, _, warning in found], pa.string()))
    )
    return Listing(table, request.root, notes=notes, after_probe=compare_with_headers)


def compare_with_headers(table: pa.Table) -> pa.Table:
    """Fill `warning` where metadata.json disagrees with the header that was probed."""
    if "sample_rate" not in table.column_names:  # nothing was probed
        return table
    names = ("path", "encoding", "sample_rate_hz", "sample_rate", "format", "warning")
    columns = {name: table[name].to_pylist() for name in names if name in table.column_names and name != "path"}
    columns["path"] = path_text(table["path"].combine_chunks()).to_pylist()
    warnings = []
    for row in range(len(table)):
        of = {name: values[row] for name, values in columns.items()}
        found = [of["warning"]] if of["warning"] else []
        if None not in (of["sample_rate"], of["sample_rate_hz"]) and of["sample_rate"] != of["sample_rate_hz"]:
            found.append(f"metadata.json states {of['sample_rate_hz']} Hz, the header {of['sample_rate']} Hz")
        shown = of.get("format")
        if of["encoding"] is not None and shown is not None and not _agrees(of["encoding"], shown, of["path"]):
            found.append(f"metadata.json states encoding {of['encoding']}, the file is {shown}")
        warnings.append("; ".join(found) or None)
    return table.set_column(table.column_names.index("warning"), "warning", pa.array(warnings, pa.string()))


def _agrees(encoding: str, shown: str, path: str) -> bool:
    expected = _CONTAINERS.get(encoding.upper())
    if expected is None:
        return encoding.lower() == extension_of(path)
    return shown.upper().startswith(expected)


def _lists_in(folders: list[CorpusPath]) -> list[tuple[str, str]]:
    for folder in folders:
        files = [(split, folder / f"{split}.csv") for split in ("train", "test", "val")]
        found = [(split, str(file)) for split, file in files if file.is_file()]
        if found:
            return found
    return []


def _listed(lists: list[tuple[str, str]]) -> tuple[pa.Table, list[str]]:
    tables = []
    notes: list[str] = []
    of: dict[str, str] = {}
    for (split, file), table in zip(lists, read_tables([file for _, file in lists], notes=notes), strict=True):
        key = column_of(table, ("uid", "utterance_id", "id"), chosen=None, where=file, what="uids (uid)")
        table = table.rename_columns({key: "uid"}) if key != "uid" else table
        table = table.set_column(table.column_names.index("uid"), "uid", table["uid"].cast(pa.string()))
        for row, uid in enumerate(table["uid"].to_pylist()):
            if uid is None:
                raise ManifestError(f"{file}: row {row} has no {key}")
            if uid in of:
                where = f"twice in {file}" if of[uid] == file else f"in {of[uid]} and in {file}"
                raise DuplicateIdError(f"uid {uid!r} is {where}; a recording has one row and one split")
            of[uid] = file
        table = table.drop_columns([name for name in ("split", "path", "utterance_id") if name in table.column_names])
        tables.append(table.append_column("split", pa.array([split] * len(table), pa.string())))
    return stacked(tables), [*(f"split {split}: {file}" for split, file in lists), *notes]


def _unlisted(folder: CorpusPath) -> pa.Table:
    uids = sorted(path.parent.name for path in matches(folder, "*/waveform.*"))
    if not uids:
        raise EmptyCorpusError(
            f"{folder}: neither train.csv and test.csv nor folders with a waveform.<ext>; "
            f"found {contents(str(folder))}; name the lists with --split NAME=FILE"
        )
    return pa.table({"uid": path_text(path_array(list(dict.fromkeys(uids))))})


def _look(folder: CorpusPath) -> tuple[str, dict[str, Any], str | None]:
    """Return the name of the recording in a uid folder, what metadata.json states, and its problems."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except (OSError, ValueError):  # or a name with a NUL
        return "waveform.wav", {}, None  # the row will state that its recording is missing
    waveforms = [name for name in names if name.startswith("waveform.") and extension_of(name) in AUDIO_EXTENSIONS]
    name = waveforms[0] if waveforms else "waveform.wav"
    if "metadata.json" not in names:
        return name, {}, "no metadata.json"
    try:
        about = json.loads(content_of(folder / "metadata.json"))
    except (OSError, ValueError, RecursionError) as exc:
        return name, {}, f"metadata.json cannot be read: {exc}"
    if not isinstance(about, dict):
        return name, {}, f"metadata.json cannot be read: {about!r} is no object"
    known, warnings = _known(about)
    several = f"several recordings, {name} is taken" if len(waveforms) > 1 else None
    return name, known, "; ".join([*warnings, *([several] if several else [])]) or None


def _known(about: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the encoding and the rate in Hz that metadata.json states, and its irregularities."""
    known: dict[str, Any] = {}
    warnings = []
    encoding, rate = about.get("encoding"), about.get("sample_rate_hz")
    if encoding is None or (isinstance(encoding, str) and encoding.isprintable()):
        known["encoding"] = encoding
    else:
        warnings.append(f"metadata.json states encoding {encoding!r}, which is no text")
    try:
        known["sample_rate_hz"] = None if rate is None else int(rate)
        if rate is not None and not 0 < known["sample_rate_hz"] < _HIGHEST_RATE_HZ:
            raise ValueError
    except (ValueError, TypeError, OverflowError):
        known["sample_rate_hz"] = None
        warnings.append(f"metadata.json states {rate!r} Hz, which is no sample rate")
    return known, warnings
