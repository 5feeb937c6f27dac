"""Classes, class numbers and the positive class, determined from label columns of a manifest.

Letters: U utterances, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from voxshard.errors import ConfigError, DataError
from voxshard.learning.model import Target
from voxshard.manifest import COLUMNS

Ints = npt.NDArray[np.int64]
MISSING = -1
"""Number that marks an unknown label."""

YES_NO: tuple[set[str], ...] = ({"0", "1"}, {"false", "true"}, {"no", "yes"})
_YES = {"1", "true", "yes"}


@dataclass(frozen=True)
class Labels:
    """The labels of U utterances."""

    target: Target
    texts: Sequence[Sequence[str | None]]
    """Values (U,) as text of each label column; None if missing."""
    numbers: Ints
    """(U,) class numbers; for several labels, (U, L) of 0 and 1. MISSING marks missing labels and unknown classes."""

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Whether each utterance has at least one known label, (U,)."""
        return np.asarray(self.numbers.reshape(len(self.numbers), -1).max(axis=1) != MISSING)

    @property
    def given(self) -> npt.NDArray[np.bool_]:
        """Whether each utterance has a label text, (U,), even of a class that was not learned."""
        given = [[text is not None for text in column] for column in self.texts]
        return np.asarray(np.array(given, bool).any(axis=0))

    def of(self, rows: Ints) -> Labels:
        """Return the labels of some utterances."""
        return Labels(self.target, [[column[row] for row in rows] for column in self.texts], self.numbers[rows])


def label_texts(table: pa.Table, columns: Sequence[str]) -> list[list[str | None]]:
    """Return the values of label columns as text: integers without a point, false and true, None if missing.

    Raises
    ------
    ConfigError : no such column; lists those there are.
    DataError : a column of values that are no classes.
    """
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        there = [name for name in table.column_names if name not in COLUMNS or name in ("speaker", "fold")]
        raise ConfigError(
            f"--label {', '.join(missing)}: no such column; columns here: {', '.join(there) or 'none'}. Labels come "
            "with the manifest: `voxshard prepare --labels FILE`, or later `voxshard merge DIR --labels MANIFEST`"
        )
    return [_texts(name, table[name]) for name in columns]


def _texts(name: str, column: pa.ChunkedArray) -> list[str | None]:
    values = column.to_pylist()
    kinds = {type(value) for value in values if value is not None}
    if not kinds <= {str, bool, int, float}:
        raise DataError(f"label {name}: values of type {column.type}; a label is text, an integer, or true and false")
    texts = [_text(name, value) for value in values]
    if not any(text is not None for text in texts):
        raise DataError(f"label {name}: no utterance has one; a corpus without labels can be extracted, not trained on")
    return texts


def _text(name: str, value: Any) -> str | None:
    if value is None or value == "" or value != value:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if not value.is_integer():
            raise DataError(f"label {name}: {value} is no class; a label is text, an integer, or true and false")
        return str(int(value))
    return str(value)


def in_order(classes: set[str]) -> list[str]:
    """Return classes in the order of their numbers: integers by value, other texts alphabetically."""
    try:
        return sorted(classes, key=int)
    except ValueError:
        return sorted(classes)


def learn_target(
    columns: Sequence[str], texts: Sequence[Sequence[str | None]], chosen: npt.NDArray[np.bool_], positive: str | None
) -> Target:
    """Determine the target (kind, classes and positive class) from the training utterances.

    Parameters
    ----------
    texts : per column, U values.
    chosen : (U,) the training utterances.
    positive : class a higher score shall speak for; None: found by its name (see `TrainingSettings.positive`).

    Raises
    ------
    DataError : fewer than two classes, or one of several labels that is not a yes or no.
    ConfigError : `positive` is not one of two classes.
    """
    found = [{text for text, use in zip(column, chosen, strict=True) if use and text is not None} for column in texts]
    if len(columns) > 1:
        if positive is not None:
            raise ConfigError(
                f"positive={positive}: of several labels the positive class is 1, true or yes; leave it out"
            )
        for name, values in zip(columns, found, strict=True):
            if not any(values <= pair for pair in YES_NO):
                shown = ", ".join(in_order(values)[:5])
                raise DataError(
                    f"label {name}: values {shown}; of several labels each must be 0 and 1, false and true, or no and "
                    "yes. Train other labels in their own runs"
                )
        return Target(kind="multilabel", labels=list(columns), classes=list(columns))
    classes = in_order(found[0])
    if len(classes) < 2:
        there = f"only {classes[0]!r}" if classes else "none"
        raise DataError(f"label {columns[0]}: the training utterances have {there}; a classifier needs two classes")
    number = _positive(columns[0], classes, positive)
    kind = "classification" if number is None else "detection"
    return Target(kind=kind, labels=list(columns), classes=classes, positive=number)  # type: ignore[arg-type]


def _positive(column: str, classes: Sequence[str], positive: str | None) -> int | None:
    if positive is not None:
        if len(classes) != 2 or positive not in classes:
            raise ConfigError(
                f"positive={positive}: not one of two classes; label {column} has {', '.join(classes[:10])}"
            )
        return classes.index(positive)
    if len(classes) != 2:
        return None
    if column == "y_task":  # asvspoof5 numbers bona fide 0 and spoof 1
        return classes.index("0") if "0" in classes else None
    if "bonafide" in classes:
        return classes.index("bonafide")
    return next((classes.index(name) for name in classes if set(classes) in YES_NO and name in _YES), None)


def number_labels(target: Target, texts: Sequence[Sequence[str | None]]) -> Labels:
    """Number the labels by a target; unknown classes are MISSING."""
    if target.kind == "multilabel":
        yes_no = {text: int(text in _YES) for pair in YES_NO for text in pair}
        columns = [[yes_no.get(text or "", MISSING) for text in column] for column in texts]
        return Labels(target, texts, np.array(columns, np.int64).T)
    numbers = {name: number for number, name in enumerate(target.classes)}
    return Labels(target, texts, np.array([numbers.get(text or "", MISSING) for text in texts[0]], np.int64))
