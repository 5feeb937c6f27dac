"""Metrics for each cell of a breakdown: per codec, attack or fold, or per combination of such columns.

Array suffix: N trials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from voxshard.errors import ScoreError
from voxshard.scoring.classification import ClassificationTrials
from voxshard.scoring.detection import METRICS, DetectionTrials
from voxshard.scoring.intervals import Interval, bootstrap
from voxshard.scoring.ranking import Ints, finite_scores

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Cell:
    """One cell of a breakdown."""

    group: dict[str, str | None]
    """Value of each column; None if the manifest has no value."""
    counts: dict[str, int]
    """`num_bonafide` and `num_spoof`, or `num_trials`."""
    metrics: dict[str, Interval]
    """Metrics by name: all None if a class is missing, and without bounds if there are no replicates."""


def detection_by_group(
    scores: npt.ArrayLike,
    is_bonafide: npt.ArrayLike,
    columns: Mapping[str, Sequence[Any]],
    *,
    num_replicates: int = 0,
    seed: int = 0,
) -> list[Cell]:
    """Compute detection metrics for every combination of the columns' values, sorted by them.

    A column of which no value occurs in both classes, such as the attack, distinguishes spoofs and states nothing of
    bona fide speech: it does not divide bona fide trials, and each cell holds all those that its other columns allow.
    So does the ASVspoof 5 evaluation package.

    Parameters
    ----------
    scores, is_bonafide : (N,), as for `DetectionTrials`, but a class may be missing.
    columns : name -> (N,) values.
    num_replicates, seed : as for `bootstrap`; 0 replicates give values without bounds.

    Raises
    ------
    ScoreError : scores that are not finite, or lengths that differ.
    """
    bonafide_N = np.asarray(is_bonafide, dtype=bool)
    scores_N = finite_scores(scores, labels_shape=bonafide_N.shape)
    codes, values = _coded(columns, len(bonafide_N))
    one_class = bonafide_N.all() or not bonafide_N.any()
    shared = [
        number
        for number, code_N in enumerate(codes)
        if one_class or np.intersect1d(code_N[bonafide_N], code_N[~bonafide_N]).size
    ]
    bonafide_rows = _rows_by_key([codes[number] for number in shared], np.flatnonzero(bonafide_N))
    spoof_rows = _rows_by_key(codes, np.flatnonzero(~bonafide_N))
    none = np.empty(0, dtype=np.intp)
    members = {
        key: (bonafide_rows.get(tuple(key[number] for number in shared), none), rows)
        for key, rows in spoof_rows.items()
    }
    if len(shared) == len(codes):
        members |= {key: (rows, none) for key, rows in bonafide_rows.items() if key not in members}

    cells = []
    for key, (bonafide, spoof) in sorted(members.items(), key=lambda item: item[0]):
        metrics = dict.fromkeys(METRICS, Interval(None, None, None))
        if len(bonafide) and len(spoof):
            rows = np.concatenate((bonafide, spoof))
            metrics = bootstrap(
                DetectionTrials(scores_N[rows], bonafide_N[rows]), num_replicates=num_replicates, seed=seed
            )
        counts = {"num_bonafide": len(bonafide), "num_spoof": len(spoof)}
        cells.append(Cell(_named(key, values), counts, metrics))
    return cells


def classification_by_group(
    truth: npt.ArrayLike,
    predicted: npt.ArrayLike,
    num_classes: int,
    columns: Mapping[str, Sequence[Any]],
    *,
    num_replicates: int = 0,
    seed: int = 0,
) -> list[Cell]:
    """Compute classification metrics for every combination of the columns' values that occurs, sorted by them.

    Parameters
    ----------
    truth, predicted, num_classes : as for `ClassificationTrials`.
    columns, num_replicates, seed : as for `detection_by_group`.

    Raises
    ------
    ScoreError : as for `ClassificationTrials`, or lengths that differ.
    """
    truth_N, predicted_N = np.asarray(truth), np.asarray(predicted)
    codes, values = _coded(columns, len(truth_N))
    cells = []
    for key, rows in sorted(_rows_by_key(codes, np.arange(len(truth_N))).items(), key=lambda item: item[0]):
        trials = ClassificationTrials(truth_N[rows], predicted_N[rows], num_classes)
        metrics = bootstrap(trials, num_replicates=num_replicates, seed=seed)
        cells.append(Cell(_named(key, values), {"num_trials": len(rows)}, metrics))
    return cells


def _coded(columns: Mapping[str, Sequence[Any]], num_trials: int) -> tuple[list[Ints], dict[str, list[str | None]]]:
    """Encode each column's values as numbers in sorted order, missing ones last; return the numbers and the values."""
    codes, values = [], {}
    for name, column in columns.items():
        texts = [None if value is None or value != value else str(value) for value in column]
        if len(texts) != num_trials:
            raise ScoreError(f"column {name}: {len(texts)} values for {num_trials} trials; one per trial wanted")
        values[name] = sorted(set(texts), key=lambda text: (text is None, text or ""))
        number = {text: code for code, text in enumerate(values[name])}
        codes.append(np.array([number[text] for text in texts], dtype=np.int64))
    return codes, values


def _rows_by_key(codes: Sequence[Ints], rows: Rows) -> dict[tuple[int, ...], Rows]:
    """Group rows by the tuple of their codes; the order of rows is kept."""
    if len(rows) == 0 or not codes:
        return {(): rows} if len(rows) else {}
    keys, member = np.unique(np.column_stack([code_N[rows] for code_N in codes]), axis=0, return_inverse=True)
    by_member = rows[np.argsort(member, kind="stable")]
    parts = np.split(by_member, np.cumsum(np.bincount(member, minlength=len(keys)))[:-1])
    return {tuple(key): part for key, part in zip(keys.tolist(), parts, strict=True)}


def _named(key: tuple[int, ...], values: Mapping[str, list[str | None]]) -> dict[str, str | None]:
    return {name: values[name][code] for name, code in zip(values, key, strict=True)}
