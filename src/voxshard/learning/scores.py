"""Scores and decisions of a fitted pipeline, per row and combined per recording.

Letters: N rows (utterances, or their frames or windows), U utterances, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import logit
from sklearn.pipeline import Pipeline

from voxshard.learning.classifiers import ScoreKind

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Join = Literal["vote", "mean"]


@dataclass(frozen=True)
class Scored:
    """Scores and decisions for N rows, or for U utterances."""

    classes: Floats
    """(N, C): probability of each class; for support vector machines the signed distance from its border, for gmm the
    log-likelihood."""
    second: Floats | None
    """(N,), for two classes: signed score for the second one: log-odds, signed distance, fraction of votes for it minus
    the fraction against it, or log-likelihood ratio."""
    predicted: Ints
    """(N,) number of the predicted class."""


def score_rows(pipeline: Pipeline, kind: ScoreKind, rows: npt.NDArray[Any], num_classes: int) -> Scored:
    """Score rows (N, D) with a pipeline fitted to class numbers below C = `num_classes`.

    A class that did not occur in its training gets probability 0, or the lowest score of the others.
    """
    *before, (_, estimator) = pipeline.steps
    for _, step in before:
        rows = step.transform(rows)
    predicted = np.asarray(estimator.predict(rows), np.int64)
    if kind == "log-likelihood":
        classes = estimator.log_likelihood(rows)
        second = classes[:, 1] - classes[:, 0]
    elif kind == "margin":
        distances = np.asarray(estimator.decision_function(rows), np.float64)
        second = distances
        classes = np.column_stack([-distances, distances]) if distances.ndim == 1 else distances
    else:
        classes = np.asarray(estimator.predict_proba(rows), np.float64)
        second = 2 * classes[:, 1] - 1 if kind == "share" else _log_odds(estimator, rows, classes)
    if num_classes == 2:
        return Scored(classes, np.asarray(second, np.float64), predicted)
    seen = np.asarray(estimator.classes_)
    if len(seen) < num_classes:
        lowest = (
            classes.min(axis=1, keepdims=True) if kind in ("margin", "log-likelihood") else np.zeros((len(rows), 1))
        )
        known, classes = classes, np.repeat(lowest, num_classes, axis=1)
        classes[:, seen] = known
    return Scored(classes, None, predicted)


def _log_odds(estimator: Any, rows: npt.NDArray[Any], classes: Floats) -> Floats:
    if hasattr(estimator, "decision_function"):
        return np.asarray(estimator.decision_function(rows), np.float64)
    # A network's probabilities reach 0 and 1 in float64; log-odds must stay finite.
    smallest = np.finfo(np.float64).epsneg
    return np.asarray(logit(np.clip(classes[:, 1], smallest, 1 - smallest)), np.float64)


def join_rows(scored: Scored, kind: ScoreKind, starts: Ints, how: Join) -> Scored:
    """Combine the scores of each utterance's rows.

    Parameters
    ----------
    scored : N rows, those of an utterance next to each other.
    starts : (U,) first row of each utterance, rising strictly from 0.
    how : "vote" counts the decisions, ties going to the lowest class; "mean" averages probabilities, log-likelihoods
        or distances.

    Returns
    -------
    U utterances. After a vote, scores are shares of votes.
    """
    counts = np.diff(np.append(starts, len(scored.predicted)))
    if how == "vote":
        decided = np.eye(scored.classes.shape[1])[scored.predicted]
        shares = np.add.reduceat(decided, starts, axis=0) / counts[:, None]
        return Scored(shares, None if scored.second is None else 2 * shares[:, 1] - 1, shares.argmax(axis=1))
    means = np.add.reduceat(scored.classes, starts, axis=0) / counts[:, None]
    second = scored.second
    if second is not None and kind == "log-odds":
        for_first, for_second = (-np.logaddexp(0, sign * second) for sign in (1, -1))  # log-probabilities
        second = np.logaddexp.reduceat(for_second, starts) - np.logaddexp.reduceat(for_first, starts)
    elif second is not None:
        second = np.add.reduceat(second, starts) / counts
    return Scored(means, second, means.argmax(axis=1))
