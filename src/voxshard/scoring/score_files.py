"""Strict reading of score files and key files, and matching of their trials.

Scores: the official ASVspoof 5 file (tab separated, header `filename cm-score`), or a run's scores.tsv (utterance_id,
one column per score, prediction). Keys: the official file (`filename cm-label`), or an ASVspoof 5 protocol (no header,
ten columns).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from voxshard import files
from voxshard.errors import ScoreError
from voxshard.no_table import NO_TABLE
from voxshard.scoring.ranking import Bools, Floats, Ints

BONAFIDE, SPOOF = "bonafide", "spoof"
_BONAFIDE_COLUMN = "score_bonafide"
# speaker, file, gender, codec, codec quality, codec seed, attack tag, attack label, key, unused
_PROTOCOL_WIDTH, _PROTOCOL_SPEAKER, _PROTOCOL_FILE, _PROTOCOL_KEY = 10, 0, 1, 8
_SHOWN = 5


@dataclass(frozen=True)
class Scores:
    """Content of a score file, in its order."""

    path: Path
    names: pa.Array
    scores: Floats


@dataclass(frozen=True)
class Keys:
    """Content of a key file, in its order."""

    path: Path
    names: pa.Array
    is_bonafide: Bools
    speakers: Ints | None
    """Number of each trial's speaker, if the file contains speakers."""


def read_scores(path: Path) -> Scores:
    """Read a score file in which higher scores mean bona fide.

    Raises
    ------
    ScoreError : not one of the formats, a name twice, or a score that is not a finite number; with the count and the
        first names.
    """
    content = _content(path)
    header = _header(content)
    if "filename" in header and "cm-score" in header:
        name, score = "filename", "cm-score"
    elif "utterance_id" in header:
        name, score = "utterance_id", _run_column(path, header)
    else:
        raise ScoreError(
            f"{path}: found the columns {', '.join(header)}; wanted a tab-separated header with filename and cm-score "
            "(ASVspoof 5), or the scores.tsv of a run (utterance_id, score, prediction)"
        )
    table = _table(path, content, "\t")
    names = _unique(path, table[name])
    return Scores(path, names, _numbers(path, names, table[score]))


def read_keys(path: Path) -> Keys:
    """Read a key file.

    Raises
    ------
    ScoreError : not one of the formats, a name twice, a key other than bonafide and spoof, or only one of them.
    """
    content = _content(path)
    header = _header(content)
    if "filename" in header and "cm-label" in header:
        table = _table(path, content, "\t")
        names, keys, speakers = table["filename"], table["cm-label"], None
    elif len(content.partition(b"\n")[0].split()) == _PROTOCOL_WIDTH:
        table = _table(path, re.sub(rb"[ \t]+", b" ", content), " ", num_columns=_PROTOCOL_WIDTH)
        names, keys = table[str(_PROTOCOL_FILE)], table[str(_PROTOCOL_KEY)]
        speakers = table[str(_PROTOCOL_SPEAKER)]
    else:
        raise ScoreError(
            f"{path}: neither keys nor a protocol; wanted a tab-separated header with filename and cm-label, or the "
            f"{_PROTOCOL_WIDTH} columns of an ASVspoof 5 protocol without header"
        )
    names = _unique(path, names)
    is_bonafide = pc.equal(keys, BONAFIDE).to_numpy()
    wrong = np.flatnonzero(~(is_bonafide | pc.equal(keys, SPOOF).to_numpy()))
    if len(wrong):
        shown = [f"{names[row]} ({keys[int(row)]})" for row in wrong[:_SHOWN].tolist()]
        raise ScoreError(f"{path}: {len(wrong)} keys are neither {BONAFIDE} nor {SPOOF}: {_some(shown, len(wrong))}")
    num_bonafide = int(is_bonafide.sum())
    if num_bonafide in (0, len(names)):
        raise ScoreError(
            f"{path}: {num_bonafide} {BONAFIDE} and {len(names) - num_bonafide} {SPOOF} trials; "
            "error rates need at least one of each"
        )
    return Keys(path, names, is_bonafide, None if speakers is None else _codes(speakers))


def scores_for(keys: Keys, scores: Scores) -> Floats:
    """Return the score of every trial of the keys, in the order of the keys.

    Raises
    ------
    ScoreError : trials without a score or scores without a trial; reports how many and the first names of both.
    """
    rows = pc.index_in(keys.names, value_set=scores.names)
    missing = keys.names.filter(rows.is_null())
    extra = scores.names.filter(pc.invert(pc.is_in(scores.names, value_set=keys.names)))
    problems = [
        f"{len(names)} of {total} {what}: {_some(names[:_SHOWN].to_pylist(), len(names))}"
        for names, total, what in (
            (missing, len(keys.names), "trials have no score"),
            (extra, len(scores.names), "scores have no key"),
        )
        if len(names)
    ]
    if problems:
        raise ScoreError(f"{scores.path} and {keys.path}: {'; '.join(problems)}; score exactly the trials of the keys")
    aligned: Floats = scores.scores[rows.to_numpy()]
    return aligned


def _content(path: Path) -> bytes:
    try:
        content = files.read_bytes(path)
    except OSError as exc:
        raise ScoreError(f"{path}: cannot be read: {exc.strerror}") from exc
    if not content.strip():
        raise ScoreError(f"{path}: empty; wanted one line per trial")
    return content.removeprefix(b"\xef\xbb\xbf")


def _header(content: bytes) -> list[str]:
    return content.partition(b"\n")[0].decode(errors="replace").rstrip("\r").split("\t")


def _run_column(path: Path, header: list[str]) -> str:
    columns = [name for name in header if name not in ("utterance_id", "prediction")]
    if _BONAFIDE_COLUMN in columns:
        return _BONAFIDE_COLUMN
    if len(columns) == 1:
        return columns[0]
    raise ScoreError(
        f"{path}: which column scores bona fide? Found {', '.join(columns) or 'none'}; "
        f"wanted a single one, or one named {_BONAFIDE_COLUMN}"
    )


def _table(path: Path, content: bytes, delimiter: str, *, num_columns: int | None = None) -> pa.Table:
    """Read columns of text; without a header, they are named by their numbers."""
    names = [str(number) for number in range(num_columns)] if num_columns else _header(content)
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(content),
            read_options=pa.csv.ReadOptions(column_names=names, skip_rows=0 if num_columns else 1),
            parse_options=pa.csv.ParseOptions(
                delimiter=delimiter, quote_char=False if num_columns else '"', newlines_in_values=not num_columns
            ),
            convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        )
    except NO_TABLE as exc:
        raise ScoreError(f"{path}: {exc}") from exc
    if len(table) == 0:
        raise ScoreError(f"{path}: a header and no trials; wanted one line per trial")
    return table


def _unique(path: Path, names: pa.ChunkedArray) -> pa.Array:
    counts = pc.value_counts(names)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        shown = [f"{entry['values']} ({entry['counts']} times)" for entry in repeated[:_SHOWN].to_pylist()]
        raise ScoreError(
            f"{path}: {len(repeated)} names occur more than once: {_some(shown, len(repeated))}; "
            "wanted one line per trial"
        )
    return names.combine_chunks()


def _numbers(path: Path, names: pa.Array, texts: pa.ChunkedArray) -> Floats:
    try:
        numbers: Floats = pc.cast(texts, pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        numbers = np.array([_number(text) for text in texts.to_pylist()])
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if len(wrong):
        shown = [f"{names[row]} ({texts[row]})" for row in wrong[:_SHOWN].tolist()]
        raise ScoreError(
            f"{path}: {len(wrong)} of {len(numbers)} scores are not finite numbers: {_some(shown, len(wrong))}; "
            "score these trials again"
        )
    return numbers


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _codes(texts: pa.ChunkedArray) -> Ints:
    codes: Ints = texts.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    return codes


def _some(names: Sequence[str], count: int) -> str:
    return ", ".join(names) + (", ..." if count > len(names) else "")
