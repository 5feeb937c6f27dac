"""Projection of a sample of a feature set's embeddings to a plane.

Letters: N utterances of the set, P of the sample, D size of an embedding, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from voxshard.manifest import COLUMNS
from voxshard.reporting.report_data import EmbeddingMap
from voxshard.store.features import FeatureSet

MAX_POINTS = 1000
"""Utterances of a map; more would hide each other."""
MIN_POINTS = 10
_MAX_VALUES = 60
"""A column with more values than that shows nothing as colours."""
_GROUPS = ("codec", "attack_label", "speaker", "gender", "fold")
"""Columns worth colouring by in addition to a label; the first that varies is taken."""

Floats = npt.NDArray[np.float64]


def embedding_map(features: FeatureSet, labels: Sequence[str], *, seed: int = 0) -> EmbeddingMap | str:
    """Project a random sample to its first two principal components.

    Frames and windows are averaged per utterance, layers too; every dimension is scaled to unit variance first, so that
    those with large values do not decide alone.

    Parameters
    ----------
    labels : columns to colour by, as far as the set has them.

    Returns
    -------
    The map, or a sentence that gives the reason why there is none.
    """
    if len(features) < MIN_POINTS:
        return f"a map needs at least {MIN_POINTS} embeddings, here are {len(features)}."
    rows = np.sort(np.random.default_rng(seed).permutation(len(features))[:MAX_POINTS])
    if not (features.has("embeddings") or features.has("frames")):
        return "there are neither embeddings nor frames to draw a map of."
    sample = features.table.take(rows)
    columns = _columns(sample, labels)
    if not columns:
        return "no column of its utterances has a few different values to colour a map by."
    points, explained = project(_per_utterance(features, rows))
    return EmbeddingMap(points=points, explained=explained, columns=columns, num_total=len(features))


def _per_utterance(features: FeatureSet, rows: npt.NDArray[np.int64]) -> Floats:
    """Return one vector per utterance, (P, D)."""
    means = []
    for batch in features.iter_batches(64, rows=rows):
        if batch.embeddings is not None:
            means.append(batch.embeddings.astype(np.float64).reshape(len(batch.ids), -1, features.dim).mean(axis=1))
        elif batch.frames is not None and batch.offsets is not None:
            frames = batch.frames.astype(np.float64).reshape(len(batch.frames), -1, features.dim).mean(axis=1)
            counts = np.diff(batch.offsets)
            sums = np.zeros((len(batch.ids), features.dim))
            np.add.at(sums, np.repeat(np.arange(len(counts)), counts), frames)
            means.append(sums / np.maximum(counts, 1)[:, None])
    return np.concatenate(means)


def project(vectors_PD: Floats) -> tuple[Floats, tuple[float, float]]:
    """Project standardized vectors to their first two principal components, (P, 2); also return the fraction of
    variance on each.

    A component's sign is arbitrary; it is chosen so that the point farthest from the middle is positive.
    """
    centred = vectors_PD - vectors_PD.mean(axis=0)
    deviation = centred.std(axis=0)
    scaled = centred[:, deviation > 1e-12 * max(float(deviation.max(initial=0.0)), 1.0)]
    scaled = scaled / scaled.std(axis=0)
    left, singular, _ = np.linalg.svd(scaled, full_matrices=False)
    points = np.zeros((len(vectors_PD), 2))
    count = min(2, len(singular))
    points[:, :count] = left[:, :count] * singular[:count]
    farthest = np.take_along_axis(points, np.abs(points).argmax(axis=0)[None], axis=0)
    points *= np.where(farthest < 0, -1.0, 1.0)
    shares = np.zeros(2)
    shares[:count] = singular[:count] ** 2 / max(float((singular**2).sum()), 1e-300)
    return points, (float(shares[0]), float(shares[1]))


def _columns(sample: pa.Table, labels: Sequence[str]) -> dict[str, list[str]]:
    """Choose at most two columns for colouring: a label, and a group or, if there is none, another column with few
    values."""
    own = [name for name in sample.column_names if name not in COLUMNS and name not in _GROUPS]
    found: dict[str, list[str]] = {}
    for candidates in (labels or own, [*_GROUPS, *labels, *own, "split"]):
        for name in candidates:
            if name in found or name not in sample.column_names or pa.types.is_nested(sample.schema.field(name).type):
                continue
            values = ["(none)" if value is None else str(value) for value in sample[name].to_pylist()]
            if 2 <= len(set(values)) <= _MAX_VALUES:
                found[name] = values
                break
    return found
