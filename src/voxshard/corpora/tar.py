"""`tar`: shards of WebDataset, and any other tar archives of recordings, read in place.

    ROOT/train-000.tar      utt1.flac  utt1.json  utt1.cls    utt2.flac  utt2.json  utt2.cls

ROOT may also be one archive. Files of one key (the name up to the first dot) belong together, as in
https://github.com/webdataset/webdataset: the keys of `.json` become columns, `.cls` and `.txt` columns of that name.
Nothing is unpacked: a manifest's path names the place of the recording in its archive (see voxshard.audio.members).
"""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from voxshard.audio.members import Member
from voxshard.corpora import json_lines
from voxshard.corpora.base import AUDIO_EXTENSIONS, Listing, Request, extension_of, path_array, path_text
from voxshard.corpora.remote_folder import CorpusPath, corpus_path, open_file
from voxshard.corpora.text import as_utf8
from voxshard.corpora.unicode_forms import composed
from voxshard.corpora.values import cleaned, typed
from voxshard.corpora.walk import audio_files, contents
from voxshard.errors import EmptyCorpusError, ManifestError
from voxshard.progress import counted

_TEXTS = ("cls", "txt")
_ARCHIVES_AT_ONCE = 16
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


def list_corpus(request: Request) -> Listing:
    """List one row per recording of the archives, in their order; the id is `<archive>/<name in it>`.

    Takes no settings.

    Raises
    ------
    EmptyCorpusError : no archive, or none with recordings.
    ManifestError : an archive that is compressed, cut or damaged.
    """
    request.allow()
    root = corpus_path(request.root)
    archives = [root.name] if root.is_file() else _archives(request)
    folder = root.parent if root.is_file() else root
    rows: list[dict[str, Any]] = []
    others: Counter[str] = Counter()
    # Of an archive in a bucket every header is a request, which takes its time.
    with ThreadPoolExecutor(1 if isinstance(root, Path) else _ARCHIVES_AT_ONCE) as pool:
        for some, left_out in pool.map(lambda archive: _rows(folder, archive), archives):
            rows += some
            others += left_out
    if not rows:
        raise EmptyCorpusError(f"{request.root}: no recordings in {len(archives):,} tar archives")
    notes = [f"{counted(len(archives), 'archive')} with {counted(len(rows), 'recording')}, read in place"]
    if others:
        shown = ", ".join(f"{count:,} {name}" for name, count in others.most_common(5))
        notes.append(f"files of other kinds in the archives are left out: {shown}")
    paths = path_array([row.pop("path") for row in rows])
    ids = path_text(path_array([row.pop("utterance_id") for row in rows]))
    columns = {"utterance_id": ids, "path": paths} | _columns(rows, notes)
    return Listing(pa.table(columns), str(folder), notes=notes)


def _archives(request: Request) -> list[str]:
    try:
        return audio_files(request.root, part=request.part, glob="**/*.tar").paths
    except EmptyCorpusError as exc:
        raise EmptyCorpusError(
            f"{request.root}: no .tar archive; found {contents(request.root)}; compressed archives cannot be read in "
            "place: decompress them"
        ) from exc


def _rows(folder: CorpusPath, archive: str) -> tuple[list[dict[str, Any]], Counter[str]]:
    """List the recordings of one archive with the files of their key, and the extensions of other files."""
    path = folder / archive
    others: Counter[str] = Counter()
    recordings: list[tuple[str, dict[str, Any]]] = []
    about: dict[str, dict[str, Any]] = {}
    names: set[str] = set()
    for member, content in _members(path):
        stem, kind = os.path.splitext(member.name)  # noqa: PTH122
        stem, kind = composed(stem), kind[1:].lower()
        if any(part.startswith(".") and part.strip(".") for part in member.name.split("/")):
            others["hidden"] += 1
        elif not member.isreg():
            others["links"] += 1
        elif kind in AUDIO_EXTENSIONS:
            if member.name in names:
                raise ManifestError(f"{path}: {member.name} is in it twice; a recording has one place")
            names.add(member.name)
            place = Member(archive, member.offset_data, member.size, member.name)
            recordings.append((stem, {"path": str(place), "utterance_id": f"{archive}/{member.name}"}))
        elif content is None:
            others[f".{kind}" if kind else "without extension"] += 1
        elif kind == "json":
            about.setdefault(stem, {}).update(_json(content, f"{path}: {member.name}"))
        else:
            text = as_utf8(content, f"{path}: {member.name}")
            about.setdefault(stem, {})[kind] = text.decode(errors="backslashreplace").strip()
    keys = {key for stem, _ in recordings for key in (stem, _key(stem))}
    if lonely := sum(stem not in keys for stem in about):
        others["samples without a recording"] += lonely
    rows = []
    for stem, row in recordings:
        found = about.get(_key(stem), {}) | about.get(stem, {})
        rows.append({**{name: value for name, value in found.items() if name not in row}, **row})
    return rows, others


def _members(path: CorpusPath) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """Yield the members of an archive except folders, with the content of those that become columns."""
    try:
        with open_file(path) as stream:
            start = stream.read(2)
            if start in _COMPRESSED:
                raise ManifestError(
                    f"{path}: compressed with {_COMPRESSED[start]}: nothing in it can be read in place; decompress it"
                )
            size = stream.seek(0, os.SEEK_END)
            start_of_archive: int | None = 0
            while start_of_archive is not None:  # archives one after the other, which tar -A and cat make
                stream.seek(start_of_archive)
                with tarfile.open(fileobj=stream, mode="r:") as archive:
                    if start_of_archive and archive.firstmember is None:  # type: ignore[attr-defined]
                        raise ManifestError(f"{path}: damaged at byte {start_of_archive:,}: no header of a file")
                    for member in archive:
                        if member.isdir():
                            continue
                        if member.issparse():
                            raise ManifestError(
                                f"{path}: {member.name} is stored as a sparse file, which cannot be read in place; "
                                "write the archive again without `tar --sparse`"
                            )
                        if member.offset_data + member.size > size:
                            raise ManifestError(f"{path}: cut: {member.name} ends beyond the end of the archive")
                        is_text = member.isreg() and extension_of(member.name) in ("json", *_TEXTS)
                        file = archive.extractfile(member) if is_text else None
                        yield member, file.read() if file is not None else None
                    end = archive.offset
                start_of_archive = _after_zeros(stream, end)
    except tarfile.TarError as exc:
        raise ManifestError(f"{path}: no tar archive, or a damaged one: {exc}") from exc
    except OSError as exc:
        raise ManifestError(f"{path}: cannot be read: {exc.strerror or exc}") from exc


def _after_zeros(stream: BinaryIO, offset: int) -> int | None:
    """Return the offset of the first block from `offset` on that is not all zeros; None if only zeros are left."""
    stream.seek(offset)
    while block := stream.read(tarfile.RECORDSIZE):
        if block.strip(b"\0"):
            return offset + (len(block) - len(block.lstrip(b"\0"))) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        offset += len(block)
    return None


def _key(name: str) -> str:
    """Return the key that the files of one sample share: the name up to its first dot, as in WebDataset."""
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def _json(content: bytes, where: str) -> dict[str, Any]:
    found = json_lines.parsed(content, where)
    if not isinstance(found, dict):
        raise ManifestError(f"{where}: a JSON {type(found).__name__}; expected an object, whose keys become columns")
    return found


def _columns(rows: list[dict[str, Any]], notes: list[str]) -> dict[str, pa.ChunkedArray]:
    table = json_lines.table_of(rows)
    columns = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_string(column.type):
            gaps: list[str] = []
            column = cleaned(column, f"column {name}", notes, gaps)
            column = typed(column) if name in _TEXTS else column
            notes += gaps if pa.types.is_string(column.type) else []
        columns[name] = column
    return columns
