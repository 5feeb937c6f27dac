"""From the text of a table to values: one rule for what is missing, for blanks and forms of letters, and for types."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

# What pandas.read_csv takes as missing by default, and NAN.
MISSING = (
    "", "nan", "NaN", "NAN", "-nan", "-NaN", "NA", "<NA>", "N/A", "n/a", "#N/A", "#N/A N/A", "#NA", "null", "NULL",
    "None", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN",
)  # fmt: skip
_INTEGER = r"^-?(0|[1-9][0-9]*)$"
_NUMBER = r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$"
_PADDED = r"^[-+]?0[0-9]"
_COMMAS = r"^-?[0-9]+(,[0-9]+)+$"
_INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
_MOST_CLASSES = 200
_INEXACT = r"^[-+]?[0-9]{16,}\.?0*$"
"""Integers that float64 may change: it is exact up to 2^53, which has 16 digits."""


def cleaned(text: pa.ChunkedArray, what: str, notes: list[str], gaps: list[str]) -> pa.ChunkedArray:
    """Strip blanks, compose letters (NFC), and set values that stand for "missing" to null.

    Parameters
    ----------
    what : the file and the column, for `notes`.
    notes : gets a line for every rule that changed values.
    gaps : gets a line for words such as `NaN`, `NA`, `None` that count as missing; in a column of numbers they surprise
        no reader.
    """
    trimmed = pc.utf8_trim_whitespace(pc.utf8_trim(pc.utf8_trim_whitespace(text), _INVISIBLE))
    _note_changes(text, trimmed, f"{what}: blanks around {{}} values are removed", notes)
    composed = pc.utf8_normalize(trimmed, "NFC")
    _note_changes(trimmed, composed, f"{what}: the letters of {{}} values are composed (NFD to NFC)", notes)
    notes += _alike(composed, what)
    is_missing = pc.is_in(composed, pa.array(MISSING))
    words = [word for word in pc.unique(composed.filter(is_missing)).to_pylist() if word]
    if words:
        count = pc.sum(pc.and_(is_missing, pc.not_equal(composed, ""))).as_py()
        shown = ", ".join(words)
        gaps.append(f"{what}: {count:,} {'value counts' if count == 1 else 'values count'} as missing: {shown}")
    return pc.if_else(is_missing, pa.scalar(None, pa.string()), composed)


def typed(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Convert text to int64 or float64 if that changes no value.

    Numbers with leading zeros are codes; integers too long for int64, or too long for float64 next to fractions, and
    numbers beyond float64 stay text with all their digits.
    """
    if values.null_count == len(values) or _any(values, _PADDED):
        return values
    if _all(values, _INTEGER):
        try:
            return values.cast(pa.int64())
        except pa.ArrowInvalid:
            return values
    if not _all(values, _NUMBER) or _any(values, _INEXACT):
        return values
    numbers = values.cast(pa.float64())
    return numbers if pc.all(pc.is_finite(numbers), min_count=0).as_py() else values


def number_note(values: pa.ChunkedArray, name: str) -> list[str]:
    """Return a line on a column that stays text because of its decimal commas, or of commas between thousands."""
    if not pa.types.is_string(values.type) or values.null_count == len(values) or not _all(values, _COMMAS):
        return []
    return [f"column {name}: stays text: write its numbers with a point, not as {values.drop_null()[0].as_py()!r}"]


def _alike(values: pa.ChunkedArray, what: str) -> list[str]:
    """Return a line on values of a column with few of them that differ only in upper and lower case."""
    words = pc.unique(values).drop_null().to_pylist()
    if len(words) > _MOST_CLASSES:
        return []
    spelled: dict[str, list[str]] = {}
    for word in words:
        if word not in MISSING:
            spelled.setdefault(word.casefold(), []).append(word)
    alike = [", ".join(sorted(group)) for group in spelled.values() if len(group) > 1]
    return [f"{what}: values that differ only in upper and lower case stay different: {alike[0]}"] if alike else []


def _note_changes(before: pa.ChunkedArray, after: pa.ChunkedArray, text: str, notes: list[str]) -> None:
    count = pc.sum(pc.not_equal(before, after)).as_py()
    if count:
        notes.append(text.format(f"{count:,}"))


def _all(values: pa.ChunkedArray, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(values, pattern), min_count=0).as_py())


def _any(values: pa.ChunkedArray, pattern: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(values, pattern)).as_py())
