"""`lhotse`: recording and supervision manifests of lhotse, read without its package and without its audio backends.

    ROOT/corpus_recordings_train.jsonl.gz      {"id": "r1", "sources": [{"type": "file", "source": "a.flac"}], ...}
    ROOT/corpus_supervisions_train.jsonl.gz    {"id": "s1", "recording_id": "r1", "start": 0.0, "duration": 3.2, ...}

ROOT may also be one such file. Layout: https://lhotse.readthedocs.io/en/latest/corpus.html.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from voxshard.corpora import json_lines
from voxshard.corpora.base import MEASURED, Listing, Request, path_array
from voxshard.corpora.durations import comparison
from voxshard.corpora.relative_paths import start_of
from voxshard.corpora.remote_folder import CorpusPath, content_of, corpus_path, matches
from voxshard.corpora.values import cleaned
from voxshard.corpora.walk import contents
from voxshard.errors import DuplicateIdError, EmptyCorpusError, ManifestError

_EXTENSIONS = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
_OWN = ("id", "recording_id", "start", "duration", "channel", "custom", "alignment")


def list_corpus(request: Request) -> Listing:
    """List one row per supervision, a span of its recording; without supervisions one row per recording.

    `speaker`, `text`, `language`, `gender` and the keys of `custom` are columns. The split is what follows
    `recordings` in the file's name. Settings: `audio_root`, where relative paths start.

    Raises
    ------
    EmptyCorpusError : no recordings.
    ManifestError : no such manifest, or a recording that is no single file: a command, data in memory, several files.
    DuplicateIdError : an id twice.
    """
    request.allow("audio_root")
    root = corpus_path(request.root)
    folder = root if root.is_dir() else root.parent
    given = [root] if not root.is_dir() else []
    files = given or [path for path in matches(folder, "*") if path.name.endswith(_EXTENSIONS)]
    of_recordings = [path for path in files if "recordings" in path.name]
    if not of_recordings:
        if given and "supervisions" in root.name:
            of_recordings = [folder / root.name.replace("supervisions", "recordings")]
        elif given:
            of_recordings = [root]
        else:
            raise EmptyCorpusError(
                f"{request.root}: no manifest of recordings (*recordings*.jsonl.gz; manifests of cuts are not read); "
                f"found {contents(request.root)}"
            )
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    partners: set[CorpusPath] = set()
    for file in of_recordings:
        match = re.search(r"recordings[_-]?(?:(\w[\w-]*?))?\.json", file.name)
        split = match[1] if match and match[1] else None
        partner = folder / file.name.replace("recordings", "supervisions")
        has_partner = partner != file and partner.is_file()
        partners.add(partner)
        recordings = _recordings(file)
        found = _supervised(recordings, partner, notes) if has_partner else _complete(recordings)
        rows += [{**row, "split": split} for row in found]
    if not rows:
        raise EmptyCorpusError(f"{request.root}: no recordings in it")
    for file in files:
        if "supervisions" in file.name and file not in partners and not given:
            wanted = file.name.replace("supervisions", "recordings")
            notes.append(f"{file}: left out, since there is no {wanted}")
    start, more = start_of(str(folder), [row["path"] for row in rows], request.option("audio_root"))
    stated = [row.pop("stated_s") for row in rows]
    table = json_lines.table_of([{key: value for key, value in row.items() if key != "path"} for row in rows])
    columns = {name: _cleaned(table[name], name, notes) for name in table.column_names}
    spans = {name: pa.array([row[name] for row in rows], pa.float64()) for name in ("start_s", "end_s")}
    paths = path_array([row["path"] for row in rows])
    compare = comparison([row["utterance_id"] for row in rows], stated)
    return Listing(pa.table({**columns, **spans, "path": paths}), start, notes=[*notes, *more], after_probe=compare)


def _cleaned(column: pa.ChunkedArray, name: str, notes: list[str]) -> pa.ChunkedArray:
    if not pa.types.is_string(column.type) or name == "utterance_id":
        return column
    gaps: list[str] = []
    column = cleaned(column, f"column {name}", notes, gaps)
    notes += gaps
    return column


def _recordings(file: CorpusPath) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    problems: list[str] = []
    for item in _objects(file):
        name = str(item.get("id"))
        if "id" not in item:
            raise ManifestError(f"{file}: recording {len(found)} has no id; is this a manifest of recordings?")
        if name in found:
            raise DuplicateIdError(f"{file}: recording {name!r} is in it twice; ids must be unique")
        found[name] = item
        if what := _unreadable(item):
            problems.append(f"{name}: {what}")
    if any("recording" in item for item in found.values()):
        raise ManifestError(
            f"{file}: a manifest of cuts; write it with CutSet.decompose as recordings and supervisions"
        )
    if problems:
        raise ManifestError(
            f"{file}: {len(problems):,} of {len(found):,} recordings are no plain file: {problems[0]}; "
            "write them to their own files, for example with lhotse's `recording.move_to_memory()` and `save_audio`"
        )
    return found


def _unreadable(item: Mapping[str, Any]) -> str | None:
    sources = item.get("sources")
    if not isinstance(sources, list) or not sources or not all(isinstance(source, dict) for source in sources):
        return "it has no sources; is this a manifest of recordings?"
    if not all(isinstance(source.get("source"), str) for source in sources):
        return "its source is no path"
    numbers = (item.get("duration"), item.get("sampling_rate"))
    if not all(value is None or type(value) in (int, float) for value in numbers):
        return f"its duration is {numbers[0]!r}, its sampling rate {numbers[1]!r}"
    if not isinstance(sources[0].get("channels") or [], list):
        return f"its channels are {sources[0]['channels']!r}"
    kinds = {str(source.get("type")) for source in sources}
    if not kinds <= {"file", "url"}:
        return f"its source is of type {', '.join(sorted(kinds))}" + (
            ", which would run a program" if "command" in kinds else ""
        )
    if len(sources) > 1:
        return f"its channels are in {len(sources)} files"
    if item.get("transforms"):
        return "it is changed by transforms (speed, volume ...), which only lhotse applies"
    return None


def _complete(recordings: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "utterance_id": name,
            "path": str(item["sources"][0]["source"]),
            "start_s": None,
            "end_s": None,
            "stated_s": item.get("duration"),
        }
        for name, item in recordings.items()
    ]


def _supervised(
    recordings: Mapping[str, Mapping[str, Any]], file: CorpusPath, notes: list[str]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    used: set[str] = set()
    num_channels = 0
    for item in _objects(file):
        name, recording_id = str(item.get("id")), str(item.get("recording_id"))
        recording = recordings.get(recording_id)
        if recording is None:
            raise ManifestError(f"{file}: {name}: recording {recording_id!r} is not in the manifest of recordings")
        used.add(recording_id)
        start, length = item.get("start", 0.0), item.get("duration")
        if not isinstance(start, int | float) or not isinstance(length, int | float) or start < 0 or length <= 0:
            raise ManifestError(f"{file}: {name}: start {start!r}, duration {length!r}; expected seconds")
        channel, channels = item.get("channel"), recording["sources"][0].get("channels") or [0]
        num_channels += channel is not None and len(channel if isinstance(channel, list) else [channel]) < len(channels)
        whole = start == 0 and abs(length - float(recording.get("duration") or 0)) < _one_sample(recording)
        custom = item.get("custom")
        labels = {key: value for key, value in item.items() if key not in _OWN}
        labels |= custom if isinstance(custom, dict) else {}
        place = {"utterance_id": name, "path": str(recording["sources"][0]["source"])}
        span = (None, None) if whole else (float(start), round(start + length, 9))
        stated = recording.get("duration") if whole else None
        rows.append({**_unlike(labels), **place, "start_s": span[0], "end_s": span[1], "stated_s": stated})
    if left := len(recordings) - len(used):
        notes.append(f"{file}: {left:,} of {len(recordings):,} recordings have no supervision and are left out")
    if num_channels:
        notes.append(f"{file}: {num_channels:,} supervisions are of some of the channels; the mean of all is read")
    return rows


def _unlike(labels: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in labels.items() if key not in (*MEASURED, "split")}


def _one_sample(recording: Mapping[str, Any]) -> float:
    return 1.5 / float(recording.get("sampling_rate") or 16000)


def _objects(file: CorpusPath) -> Sequence[Mapping[str, Any]]:
    try:
        return json_lines.objects(content_of(file), str(file))
    except FileNotFoundError as exc:
        raise ManifestError(f"{file}: no such file") from exc
    except OSError as exc:
        raise ManifestError(f"{file}: cannot be read: {exc.strerror or exc}") from exc
