"""Cross-validation by a column of the manifest: by a corpus's own folds, or by speakers that are never in both
parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import GroupKFold

from voxshard.errors import ConfigError, DataError
from voxshard.learning.labels import in_order

Ints = npt.NDArray[np.int64]


def assign(values: Sequence[str | None], num_folds: int | None, *, column: str) -> tuple[Ints, list[str]]:
    """Assign every utterance to a fold.

    Parameters
    ----------
    values : U values of the column; None: the utterance is in no fold and is left out.
    num_folds : number of folds of about equal size into which the values are joined, each value in one fold; None: a
        fold per value.

    Returns
    -------
    (U,) number of the fold, -1 for none; and the folds' names.

    Raises
    ------
    DataError : fewer than two folds.
    ConfigError : more folds than values.
    """
    names = in_order({value for value in values if value is not None})
    if len(names) < 2:
        there = f"only {names[0]!r}" if names else "no value"
        raise DataError(f"--folds {column}: {there} on the labelled utterances; cross-validation needs two folds")
    numbers = {name: number for number, name in enumerate(names)}
    folds = np.array([-1 if value is None else numbers[value] for value in values], np.int64)
    if num_folds is None:
        return folds, names
    if num_folds > len(names):
        raise ConfigError(f"num_folds={num_folds}: column {column} has only {len(names)} values; give fewer")
    rows = np.flatnonzero(folds >= 0)
    joined = np.full(len(folds), -1, np.int64)
    for number, (_, tested) in enumerate(GroupKFold(num_folds).split(rows, groups=folds[rows])):
        joined[rows[tested]] = number
    return joined, [str(number) for number in range(num_folds)]
