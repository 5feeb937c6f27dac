"""`kaldi`: data directories of Kaldi, ESPnet and their like.

    ROOT/wav.scp    utt1 /corpus/a.flac                     (or ROOT/train/wav.scp, ROOT/dev/wav.scp: splits)
    ROOT/segments   utt1-001 utt1 0.00 3.20                 optional: utterances are spans of recordings
    ROOT/utt2spk    utt1-001 speaker1                       optional, as are utt2lang and others, and spk2gender
    ROOT/text       utt1-001 what was said                  optional

Layout: https://kaldi-asr.org/doc/data_prep.html. An entry of wav.scp that is a command (`... |`) or a place in an
archive (`x.ark:123`) is refused: nothing of a corpus is ever executed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from voxshard.corpora.base import MEASURED, Listing, Request, path_array
from voxshard.corpora.relative_paths import start_of
from voxshard.corpora.remote_folder import CorpusPath, content_of
from voxshard.corpora.text import as_utf8
from voxshard.corpora.values import cleaned
from voxshard.corpora.walk import contents, folders_in
from voxshard.errors import DuplicateIdError, EmptyCorpusError, ManifestError

_MEASURED = ("utt2dur", "utt2num_frames", "utt2uniq")
"""Maps whose content probing finds as well, or which no user trains on."""
_ARCHIVE = re.compile(r".*\.ark(:\d+)?(\[.*\])?")


def list_corpus(request: Request) -> Listing:
    """List one row per utterance: per line of `segments`, else per line of `wav.scp`.

    `speaker` is from utt2spk, `text` from text, `gender` from spk2gender, and a column per further utt2NAME. Where
    ROOT has no wav.scp, the folders below that have one are splits. Settings: `audio_root`, where relative paths start.

    Raises
    ------
    EmptyCorpusError : no wav.scp.
    ManifestError : a pipe, or a segment of a recording that wav.scp does not have.
    DuplicateIdError : an id twice in one file.
    """
    request.allow("audio_root")
    root = request.folder
    places = [("", root)] if (root / "wav.scp").is_file() else []
    if not places:
        places = [(name, root / name) for name in folders_in(root) if (root / name / "wav.scp").is_file()]
    if not places:
        raise EmptyCorpusError(f"{request.root}: no wav.scp, nor in a folder below; found {contents(request.root)}")
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for split, place in places:
        rows += [{**row, "split": split or row.get("split")} for row in _rows(place, notes)]
    start, more = start_of(str(places[0][1]), [row["path"] for row in rows], request.option("audio_root"))
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns: dict[str, list[Any]] = {name: [row.get(name) for row in rows] for name in names}
    labels = [
        name for name in names if name not in (*MEASURED, "split", "speaker", "text")
    ]  # a transcript may be the word NA
    table = pa.table({**columns, "path": path_array(columns["path"])})
    for name in labels:
        column = cleaned(table[name].cast(pa.string()), f"column {name}", notes, notes)
        table = table.set_column(table.column_names.index(name), name, column)
    return Listing(table, start, notes=[*notes, *more])


def _rows(place: CorpusPath, notes: list[str]) -> list[dict[str, Any]]:
    paths = _map(place / "wav.scp")
    empty = [name for name, path in paths.items() if not path]
    if empty:
        raise ManifestError(f"{place / 'wav.scp'}: {empty[0]} has no path")
    pipes = [name for name, path in paths.items() if path.endswith("|") or path.startswith("|")]
    archives = [name for name, path in paths.items() if _ARCHIVE.fullmatch(path)]
    for what, found in (("pipes, which are commands", pipes), ("places in Kaldi archives", archives)):
        if found:
            raise ManifestError(
                f"{place / 'wav.scp'}: {len(found):,} of {len(paths):,} entries are {what}: {found[0]} "
                f"{paths[found[0]]!r}; voxshard runs no command of a corpus and reads no ark files: write these "
                "recordings to files and name those in wav.scp"
            )
    if not paths:
        raise EmptyCorpusError(f"{place / 'wav.scp'}: no entries")
    rows: list[dict[str, Any]] = _segments(place, paths, notes) if (place / "segments").is_file() else [
        {"utterance_id": name, "path": path, "start_s": None, "end_s": None} for name, path in paths.items()
    ]  # fmt: skip
    for name, column in _labels(place).items():
        if name in MEASURED:
            notes.append(f"{place}: utt2{name} is left out: a manifest's column {name} says something else")
            continue
        known = {row["utterance_id"] for row in rows}
        extra = len([key for key in column if key not in known])
        if extra:
            notes.append(f"{place}: {extra:,} entries for column {name} are of utterances that are not in the corpus")
        for row in rows:
            row[name] = column.get(row["utterance_id"]) or (
                "" if name == "text" and row["utterance_id"] in column else None
            )
        if gaps := sum(row[name] is None for row in rows):
            notes.append(f"{place}: {gaps:,} of {len(rows):,} utterances have no {name}")
    return rows


def _segments(place: CorpusPath, paths: Mapping[str, str], notes: list[str]) -> list[dict[str, Any]]:
    rows = []
    num_channels = 0
    for name, value in _map(place / "segments").items():
        where = f"{place / 'segments'}: {name}"
        fields = value.split()
        if len(fields) not in (3, 4):  # the fourth is a channel, which only some recipes have
            raise ManifestError(f"{where}: {value!r}; expected a recording, its start and its end in seconds")
        num_channels += len(fields) == 4
        if fields[0] not in paths:
            raise ManifestError(f"{where}: recording {fields[0]!r} is not in wav.scp")
        try:
            start_s, end_s = float(fields[1]), float(fields[2])
        except ValueError as exc:
            raise ManifestError(f"{where}: {value!r}; expected seconds") from exc
        if end_s == -1:  # Kaldi's mark for: up to the end
            rows.append({"utterance_id": name, "path": paths[fields[0]], "start_s": start_s, "end_s": None})
            continue
        if not 0 <= start_s < end_s:
            raise ManifestError(f"{where}: start {start_s}, end {end_s}; expected 0 <= start < end, in seconds")
        rows.append({"utterance_id": name, "path": paths[fields[0]], "start_s": start_s, "end_s": end_s})
    if num_channels:
        notes.append(f"{place}: {num_channels:,} segments name a channel; the mean of all channels is read")
    return rows


def _labels(place: CorpusPath) -> dict[str, Mapping[str, str]]:
    """Return the labels: column -> utterance -> value."""
    found: dict[str, Mapping[str, str]] = {}
    files = {path.name: path for path in place.iterdir()}
    if "text" in files:
        found["text"] = _map(files["text"])
    for name in sorted(files):
        if name.startswith("utt2") and name not in _MEASURED and files[name].is_file():
            found["speaker" if name == "utt2spk" else name.removeprefix("utt2")] = _map(files[name])
    if "spk2utt" in files and "speaker" not in found:
        utterances = _map(files["spk2utt"]).items()
        found["speaker"] = {name: speaker for speaker, names in utterances for name in names.split()}
    if "spk2gender" in files and "speaker" in found:
        genders = _map(files["spk2gender"])
        found["gender"] = {name: genders[speaker] for name, speaker in found["speaker"].items() if speaker in genders}
    return found


def _map(file: CorpusPath) -> dict[str, str]:
    """Read a Kaldi map file: a key, blanks, and a value up to the end of the line, which may be empty."""
    found: dict[str, str] = {}
    for line in os.fsdecode(as_utf8(content_of(file), str(file))).split("\n"):
        key, _, value = line.strip().replace("\t", " ").partition(" ")
        if not key:
            continue
        if key in found:
            raise DuplicateIdError(f"{file}: {key!r} is in it twice; ids must be unique")
        found[key] = value.strip()
    return found
