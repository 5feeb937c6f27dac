"""`file-lists`: one text file of relative paths per split, labels from the folders.

    ROOT/train_filtered.txt  valid_filtered.txt  test_filtered.txt      blues/blues.00029.wav
    ROOT/genres/blues/blues.00029.wav                                   or ROOT/blues/..., ROOT/<any folder>/blues/...

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
from voxshard.corpora.base import Listing, Request, first_names, path_array
from voxshard.corpora.remote_folder import CorpusPath, matches
from voxshard.corpora.walk import contents, folders_in
from voxshard.errors import EmptyCorpusError, ManifestError

# A list's split is the word its name begins with or has in it: train_filtered.txt, filtered_test.txt, val.txt.
_SPLIT = re.compile(r"(?:^|[._-])(train|training|valid|validation|val|dev|test|testing|eval)(?:[._-]|$)", re.IGNORECASE)
_CHECKED = 50  # entries of a list looked for to find the folder its paths start from


def list_corpus(request: Request) -> Listing:
    """One row per line of the lists: those of `--split NAME=FILE`, else the text files of the root that name a split.

    `label` is the name of the folder a file lies in. Takes no settings of its own.
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
    for split, file in lists:
        entries = [entry.removeprefix("./") for entry in list_entries(file)]
        if not entries:
            raise ManifestError(f"{file}: no entries in it")
        base = _base(root, entries, file) if base is None else base
        for entry in entries:
            path = f"{base}/{entry}" if base else entry
            if path in of:
                raise ManifestError(
                    f"{file}: {entry} stands in it twice"
                    if of[path] == file
                    else f"{entry} stands in {of[path]} and in {file}; a recording has one split"
                )
            of[path] = file
            columns["path"].append(path)
            columns["split"].append(split)
            columns["label"].append(PurePosixPath(path).parent.name or None)
    paths = path_array(columns["path"])
    notes = [f"split {split}: {file}" for split, file in lists]
    return Listing(pa.table(columns | {"path": paths}), request.root, notes=notes)


def _lists_in(root: CorpusPath) -> list[tuple[str, str]]:
    found = []
    for path in matches(root, "*.txt"):
        if match := _SPLIT.search(path.stem):
            found.append((match[1].lower(), str(path)))
    order = ("train", "training", "valid", "validation", "val", "dev", "test", "testing", "eval")
    return sorted(found, key=lambda item: (order.index(item[0]), item[1]))


def _base(root: CorpusPath, entries: list[str], file: str) -> str:
    """The folder, relative to the root, that the lists' paths start from: the root or one directly below it."""
    some = entries[:: max(1, len(entries) // _CHECKED)]
    below = folders_in(root)
    counts = {name: sum((root / name / entry).exists() for entry in some) for name in ("", *below)}
    best = max(counts, key=lambda name: counts[name])
    if counts[best] == 0:
        raise EmptyCorpusError(
            f"{file}: none of its files was found below {root}, nor below {first_names(below) or 'any folder there'}; "
            f"it lists {first_names(entries)}"
        )
    return best
