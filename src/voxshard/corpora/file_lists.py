"""`file-lists`: one text file of relative paths per split, labels from the folders.

    ROOT/train_filtered.txt  valid_filtered.txt  test_filtered.txt      blues/blues.00029.wav
    ROOT/genres/blues/blues.00029.au                                    or ROOT/blues/..., ROOT/<any folder>/blues/...

The lists may be in a folder below (ROOT/index/GTZAN/train_filtered.txt), and may name .wav where the files are .au, as
those of GTZAN do: a name that no file has is matched without its extension, where one file alone fits.

The fault-filtered split of GTZAN (Kereliuk, Sturm and Larsen 2015, https://arxiv.org/abs/1507.04761) comes like this:
https://github.com/jongpillee/music_dataset_split, GTZAN_split, and
https://github.com/coreyker/dnn-mgr/tree/master/gtzan. Any corpus with such lists can be prepared so.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from voxshard.corpora.annotate import list_entries
from voxshard.corpora.base import AUDIO_EXTENSIONS, Listing, Request, extension_of, first_names, path_array
from voxshard.corpora.remote_folder import CorpusPath, matches
from voxshard.corpora.unicode_forms import Folders, composed
from voxshard.corpora.walk import contents, folders_in
from voxshard.errors import EmptyCorpusError, ManifestError

# A list's split is the word its name begins with or has in it: train_filtered.txt, filtered_test.txt, val.txt.
_SPLIT = re.compile(r"(?:^|[._-])(train|training|valid|validation|val|dev|test|testing|eval)(?:[._-]|$)", re.IGNORECASE)
_DEPTH, _MOST_FOLDERS = 3, 2000  # folders below the root that lists and files are looked for in
_CHECKED = 50  # entries of a list looked for to find the folder its paths start from


def list_corpus(request: Request) -> Listing:
    """List one row per line of the lists: those of `--split NAME=FILE`, else text files of the root that name a split.

    `label` is the name of the folder a file is in. Takes no settings.
    """
    request.allow()
    root = request.folder
    lists = list(request.lists) or _lists_in(root)
    if not lists:
        raise EmptyCorpusError(
            f"{root}: no list named after a split (train*.txt, valid*.txt, test*.txt); found {contents(request.root)}; "
            "name the lists with --split NAME=FILE"
        )
    columns: dict[str, list[Any]] = {"path": [], "split": [], "label": []}
    of: dict[str, str] = {}
    base: str | None = None
    files = _Files(root)
    for split, file in lists:
        entries = [entry.strip().removeprefix("./").replace("\\", "/") for entry in list_entries(file)]
        if not entries:
            raise ManifestError(f"{file}: no entries in it")
        base = _base(root, files, entries, file) if base is None else base
        for entry in entries:
            path = files.named(f"{base}/{entry}" if base else entry)
            if "/" not in entry and not files.exists(path):
                path = files.place_of(entry) or path
            if path in of:
                raise ManifestError(
                    f"{file}: {entry} is in it twice"
                    if of[path] == file
                    else f"{entry} is in {of[path]} and in {file}; a recording has one split"
                )
            of[path] = file
            columns["path"].append(path)
            columns["split"].append(split)
            columns["label"].append(PurePosixPath(path).parent.name or None)
    paths = path_array(columns["path"])
    notes = [f"split {split}: {file}" for split, file in lists]
    if files.by_stem:
        listed, real = next(iter(files.by_stem.items()))
        notes.append(
            f"{len(files.by_stem):,} names were matched without their extension, such as {listed!r} by {real!r}"
        )
    return Listing(pa.table(columns | {"path": paths}), request.root, notes=notes)


class _Files:
    """Files below a root, listed folder by folder."""

    def __init__(self, root: CorpusPath) -> None:
        self._root = root
        self._folders: dict[str, tuple[set[str], dict[str, list[str]]]] = {}
        self._forms = Folders(str(root))
        self.by_stem: dict[str, str] = {}
        """Name in a list -> the file that has it but for the extension."""
        self._all: dict[str, list[str]] | None = None

    def named(self, path: str) -> str:
        """Return the path of a file: as written, or with another extension if exactly one file has that stem."""
        path = self._forms.real_path(path)
        folder, _, name = path.rpartition("/")
        names, _ = self._listed(folder)
        same = self._with_stem(folder, name)
        if name in names or len(same) != 1:
            return path
        found = f"{folder}/{same[0]}" if folder else same[0]
        self.by_stem[path] = found
        return found

    def exists(self, path: str) -> bool:
        """Whether a file has this name, or is the only one with its stem."""
        folder, _, name = self._forms.real_path(path).rpartition("/")
        names, _ = self._listed(folder)
        return name in names or len(self._with_stem(folder, name)) == 1

    def _with_stem(self, folder: str, name: str) -> list[str]:
        """Return the recordings of a folder whose stem is that of a name, or the name itself if it has no extension."""
        stem = PurePosixPath(name).stem if extension_of(name) in AUDIO_EXTENSIONS else name
        _, stems = self._listed(folder)
        return stems.get(composed(stem), []) or stems.get(composed(PurePosixPath(name).stem), [])

    def place_of(self, name: str) -> str | None:
        """Return the path of the only recording below the root with a name or stem; None if none or several have it."""
        if self._all is None:
            self._all = {}
            for folder in ["", *_folders_below(self._root)]:
                for stem, names in self._listed(folder)[1].items():
                    self._all.setdefault(stem, []).extend(f"{folder}/{each}" if folder else each for each in names)
        stem = PurePosixPath(name).stem if extension_of(name) in AUDIO_EXTENSIONS else name
        same = self._all.get(composed(stem), [])
        exact = [path for path in same if path.rpartition("/")[2] == name] or same
        if len(exact) != 1:
            return None
        if exact[0].rpartition("/")[2] != name:
            self.by_stem[name] = exact[0]
        return exact[0]

    def _listed(self, folder: str) -> tuple[set[str], dict[str, list[str]]]:
        if folder not in self._folders:
            try:
                names = {entry.name for entry in (self._root / folder).iterdir()}
            except OSError:
                names = set()
            stems: dict[str, list[str]] = {}
            for name in names:
                if extension_of(name) in AUDIO_EXTENSIONS:
                    stems.setdefault(composed(PurePosixPath(name).stem), []).append(name)
            self._folders[folder] = (names, stems)
        return self._folders[folder]


def _lists_in(root: CorpusPath) -> list[tuple[str, str]]:
    """Return (split, file) of the lists in the root, or in the only folder below it that has some."""
    found = {folder: lists for folder in ["", *_folders_below(root)] if (lists := _lists_of(root / folder))}
    if "" in found:
        return found[""]
    if len(found) > 1:
        raise ManifestError(
            f"{root}: lists in {first_names(sorted(found))}; name those that count with --split NAME=FILE"
        )
    return next(iter(found.values()), [])


def _lists_of(folder: CorpusPath) -> list[tuple[str, str]]:
    found = []
    for path in matches(folder, "*.txt"):
        if match := _SPLIT.search(path.stem):
            found.append((match[1].lower(), str(path)))
    order = ("train", "training", "valid", "validation", "val", "dev", "test", "testing", "eval")
    return sorted(found, key=lambda item: (order.index(item[0]), item[1]))


def _folders_below(root: CorpusPath) -> list[str]:
    """Return the folders up to three levels down, nearest first."""
    found: list[str] = []
    level = [""]
    for _ in range(_DEPTH):
        below = []
        for folder in level:
            try:
                below += [f"{folder}/{name}" if folder else name for name in folders_in(root / folder)]
            except OSError:  # may not be listed
                continue
            if len(found) + len(below) > _MOST_FOLDERS:
                return found
        found += below
        level = below
    return found


def _base(root: CorpusPath, files: _Files, entries: list[str], file: str) -> str:
    """Return the folder, relative to the root, that the paths start from: the nearest with most of the files."""
    some = entries[:: max(1, len(entries) // _CHECKED)]
    below = _folders_below(root)
    best, most = "", 0
    for folder in ("", *below):
        count = sum(files.exists(f"{folder}/{entry}" if folder else entry) for entry in some)
        if count > most:
            best, most = folder, count
        if most == len(some):
            break
    if most == 0:
        raise EmptyCorpusError(
            f"{file}: none of its files was found below {root}, nor below {first_names(below) or 'any folder there'}; "
            f"it lists {first_names(entries)}"
        )
    return best
