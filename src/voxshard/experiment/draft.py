"""Draft a commented config for a corpus, as `voxshard init` writes it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from voxshard.corpora import formats
from voxshard.corpora.base import Request
from voxshard.corpora.headers import probe, probe_many
from voxshard.errors import EmptyCorpusError
from voxshard.manifest import COLUMNS

_MARKS = {
    "asvspoof5": ("ASVspoof5.*.tsv",),
    "urbansound8k": ("metadata/UrbanSound8K.csv", "UrbanSound8K.csv"),
    "esc50": ("meta/esc50.csv",),
    "tut-asc": ("TUT-acoustic-scenes-*", "evaluation_setup/fold1_train.txt"),
    "kaldi": ("wav.scp", "*/wav.scp"),
    "lhotse": ("*recordings*.jsonl", "*recordings*.jsonl.gz"),
    "uid-folders": ("*/metadata.json", "*/*/metadata.json"),
    "file-lists": ("train*.txt", "*/train*.txt"),
    "tar": ("*.tar", "*/*.tar"),
}
"""Corpus format -> what is in the root of such a corpus; the first that fits is taken."""
_SPLITS = {
    "train": "train", "training": "train", "dev": "dev", "valid": "dev", "validation": "dev", "val": "dev",
    "test": "test", "testing": "test", "eval": "test",
}  # fmt: skip
_MOST_CLASSES = 200
_SAMPLE = 5_000  # paths whose names are compared
_PROBED = 20
_MOST_FOLDS = 20
_NUM_FOLDS = 5
"""Number of folds over which the values of a column are distributed if it has more than `_MOST_FOLDS`."""
_PREFERRED = ("label", "class", "genre", "emotion", "scene", "key", "digit")


@dataclass
class Draft:
    """Properties of a corpus that a config needs."""

    root: Path
    format: str
    num_utterances: int
    sample_rate: int | None
    """Sample rate of most of the inspected recordings; None if none can be read."""
    label: str | None = None
    """Column to predict."""
    classes: int = 0
    splits: Sequence[str] = ()
    folds: tuple[str, int] | None = None
    """Column to cross-validate over, if there are no splits, and its number of values."""
    label_from: str | None = None
    split_from: list[str] = field(default_factory=list)


def inspected(root: Path) -> Draft:
    """Inspect a corpus: its format, splits and labels, and the sample rate of a few recordings.

    Raises
    ------
    EmptyCorpusError : there are no recordings.
    """
    name = format_of(root)
    listing = formats.adapter(name)(Request(root=str(root.resolve())))
    table = listing.table
    if not len(table):
        raise EmptyCorpusError(f"{root}: no recordings")
    paths = [str(path) for path in table["path"].slice(0, _SAMPLE).to_pylist()]
    rows = probe_many(listing.root, paths[:: max(1, len(paths) // _PROBED)][:_PROBED], headers=True, probe_one=probe)
    rates = Counter(row[1] for row in rows if row[1])
    draft = Draft(root, name, len(table), rates.most_common(1)[0][0] if rates else None)
    draft.splits = _values(table, "split")
    columns = {key: _values(table, key) for key in table.column_names if key == "speaker" or key not in COLUMNS}
    candidates = {key: values for key, values in columns.items() if 2 <= len(values) <= _MOST_CLASSES}
    if candidates:
        others = [key for key in candidates if key != "speaker"]  # it is a label only if there is no other column
        draft.label = next((key for key in _PREFERRED if key in candidates), [*others, "speaker"][0])
        draft.classes = len(candidates[draft.label])
    elif name == "folder":
        _guess_from_paths(draft, paths)
    for key in ("fold", "speaker"):
        if draft.folds is None and key != draft.label and len(values := _values(table, key)) > 1:
            draft.folds = key, len(values)
    return draft


def format_of(root: Path) -> str:
    """Return the corpus format that a folder's content suggests; `table` for a file."""
    if root.is_file():
        return "table"
    return next((name for name, marks in _MARKS.items() if any(any(root.glob(mark)) for mark in marks)), "folder")


def _values(table: pa.Table, column: str) -> list[str]:
    if column not in table.column_names:
        return []
    return [str(value) for value in pc.unique(table[column]).drop_null().to_pylist()]


def _guess_from_paths(draft: Draft, paths: list[str]) -> None:
    """Guess splits from top-level folders, and labels from the folders or the words of the file names."""
    tops = sorted({path.split("/")[0] for path in paths if "/" in path})
    found = {top: _SPLITS[top.lower()] for top in tops if top.lower() in _SPLITS}
    draft.split_from = [f"^{re.escape(top)}/={split}" for top, split in found.items()]
    draft.splits = sorted(set(found.values()))
    parents = Counter(path.split("/")[-2] for path in paths if "/" in path)
    if 2 <= len(parents) <= min(_MOST_CLASSES, len(paths) // 2) and not set(parents) <= set(found):
        draft.label, draft.label_from, draft.classes = "label", r"(?P<label>[^/]+)/[^/]+$", len(parents)
        return
    words = [re.split(r"[_-]", Path(path).stem) for path in paths]
    if len(words[0]) < 2 or any(len(row) != len(words[0]) for row in words):
        return
    counts = [len(set(column)) for column in zip(*words, strict=True)]
    useful = [number for number, count in enumerate(counts) if 2 <= count <= min(_MOST_CLASSES, len(paths) // 4)]
    if not useful:
        return
    groups = [f"(?P<part{n + 1}>[^/_-]+)" if n in useful else "[^/_-]+" for n in range(len(counts))]
    draft.label_from = "[_-]".join(groups) + r"\.\w+$"
    draft.label, draft.classes = f"part{useful[0] + 1}", counts[useful[0]]
    others = [number for number in useful[1:] if 3 <= counts[number] <= 20]
    if not draft.splits and others:
        draft.folds = f"part{others[0] + 1}", counts[others[0]]


def as_yaml(draft: Draft, out: str) -> str:
    """Return the config of an experiment on the corpus, with comments on the alternatives."""
    lines = [
        f"# An experiment on {draft.root}: {draft.num_utterances:,} recordings or parts of them. Run it with",
        "# `voxshard run FILE`; every key is explained in docs/configs.md.",
        f"out: {_quoted(out)}",
        "",
        "prepare:",
        f"  format: {draft.format}",
        f"  root: {_quoted(str(draft.root.resolve()))}",
    ]
    if draft.label_from:
        lines += ["  # Each named group becomes a column; rename them.", f"  label_from: {_quoted(draft.label_from)}"]
    if draft.split_from:
        lines += ["  split_from:", *(f"    - {_quoted(rule)}" for rule in draft.split_from)]
    elif not draft.splits:
        lines.append(
            "  # No splits were found. Give them as split_from: ['REGEX=test', '.*=train'], or split: [NAME=FILE]."
        )
    rate = "" if draft.sample_rate in (None, 16_000) else f", sample_rate: {draft.sample_rate}"
    lines += [
        "",
        "extract:",
        "  mfcc:                     # needs no framework, no weights and no GPU",
        f"    encoder: {{name: mfcc{rate}}}",
        "  # wav2vec2:               # a pretrained model: `voxshard encoders` lists all of them",
        "  #   encoder: {name: hf, weights: facebook/wav2vec2-base, layer: 9, pooling: mean}",
        "  #   runtime: venv:.venv-torch",
        "",
    ]
    return "\n".join([*lines, *_training(draft)]) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _training(draft: Draft) -> list[str]:
    label = draft.label or "COLUMN"
    lines = ["train:", f"  label: {label}", "  classifier: [logistic, knn]", "  settings: {standardize: true}"]
    if draft.label:
        lines[1] += f"  # {draft.classes} classes"
    if not (len(set(draft.splits) - {"train"}) > 0 and "train" in draft.splits):
        column, count = draft.folds or ("utterance_id", draft.num_utterances)
        if count > _MOST_FOLDS:
            lines[3] = f"  settings: {{standardize: true, num_folds: {_NUM_FOLDS}}}"
        if draft.folds is None:
            lines += [
                "  # There is no test split: each recording is tested once, by a model trained on the other folds.",
                "  # If a column states the speakers or sessions, give it here: none is then in training and test.",
            ]
        lines.append(f"  folds: {column}" + ("  # each value is tested once" if draft.folds else ""))
    if not draft.label:
        return ["# Training needs a label (prepare.labels or label_from):", *(f"# {line}" for line in lines)]
    return lines
