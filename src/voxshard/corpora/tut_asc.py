"""`tut-asc`: TUT Acoustic Scenes 2016 or 2017; the development set becomes `train`, the evaluation set `test`.

    ROOT/TUT-acoustic-scenes-2017-development/meta.txt            audio/b020_90_100.wav <tab> beach <tab> b020
    ROOT/TUT-acoustic-scenes-2017-development/evaluation_setup/fold1_train.txt  fold1_test.txt  fold1_evaluate.txt
    ROOT/TUT-acoustic-scenes-2017-development/audio/b020_90_100.wav
    ROOT/TUT-acoustic-scenes-2017-evaluation/ likewise, with evaluation_setup/test.txt and evaluate.txt

Layout: the README.md in each set, https://zenodo.org/records/45739 (2016 development), 165995 (2016 evaluation),
400515 (2017 development), 1040168 (2017 evaluation). Lines are tab separated: file, scene, and from 2017 on the
identifier of the original recording, which in 2016 is the first part of the file's name. Where meta.txt is missing
the lists of evaluation_setup replace it; test.txt has no scenes, so files named only there have no label.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from voxshard.corpora.base import Listing, Request
from voxshard.corpora.remote_folder import CorpusPath, matches, relative
from voxshard.corpora.tables import read_lines
from voxshard.corpora.walk import contents
from voxshard.errors import EmptyCorpusError, ManifestError

_SETS = (("development", "train"), ("evaluation", "test"))
_FOLD = re.compile(r"fold(\d+)_(?:test|evaluate)\.txt")


def list_corpus(request: Request) -> Listing:
    """List one row per file of both sets.

    `label` is the scene, `location` the original recording (keep one location on one side of any split of your
    own), `fold` the fold of the official cross-validation in which a development file is tested.
    """
    request.allow()
    root = request.folder
    rows: list[dict[str, Any]] = []
    for kind, split in _SETS:
        name = f"*acoustic-scenes-*-{kind}"
        for folder in [root] if root.match(name) else matches(root, name):
            rows += _rows(root, folder, split)
    if not rows:
        raise EmptyCorpusError(
            f"{root}: no folder TUT-acoustic-scenes-2016-development or the like with a meta.txt or an "
            f"evaluation_setup; found {contents(request.root)}; give the folder that holds both sets"
        )
    return Listing(pa.Table.from_pylist(rows), request.root)


def _rows(root: CorpusPath, folder: CorpusPath, split: str) -> Iterator[dict[str, Any]]:
    folds: dict[str, str] = {}
    for path in matches(folder / "evaluation_setup", "fold*.txt"):
        if match := _FOLD.fullmatch(path.name):
            folds |= dict.fromkeys((line[0] for line in _lines(path)), match[1])
    for file, (scene, location) in _scenes(folder).items():
        yield {
            "path": relative(folder / file, root),
            "split": split,
            "fold": folds.get(file),
            "label": scene,
            "location": location,
        }


def _scenes(folder: CorpusPath) -> dict[str, tuple[str | None, str]]:
    """Return (scene, location) of each file, in the order of meta.txt, else of the lists in evaluation_setup."""
    setup = folder / "evaluation_setup"
    lists = [folder / "meta.txt"]
    if not lists[0].is_file():
        lists = [path for end in ("train", "evaluate", "test") for path in matches(setup, f"*{end}.txt")]
    scenes: dict[str, tuple[str | None, str]] = {}
    for path in lists:
        for file, *rest in _lines(path):
            location = rest[1] if len(rest) > 1 else PurePosixPath(file).name.partition("_")[0]
            if file not in scenes or scenes[file][0] is None:
                scenes[file] = (rest[0] if rest else None, location)
            elif rest and rest[0] != scenes[file][0]:
                raise ManifestError(f"{path}: {file} is {rest[0]!r} here and {scenes[file][0]!r} in another list")
    return scenes


def _lines(path: CorpusPath) -> Iterator[list[str]]:
    for line in read_lines(path):
        yield line.strip().split("\t")
