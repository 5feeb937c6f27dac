"""Fitting of a classifier to rows that fit in memory, or piece by piece to rows that do not.

Letters: U utterances, N rows, C classes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import joblib  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA, IncrementalPCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline
from sklearn.utils.class_weight import compute_class_weight

from voxshard.errors import ConfigError, DataError
from voxshard.learning import memory
from voxshard.learning.classifiers import build
from voxshard.learning.data import Dataset
from voxshard.learning.train_config import (
    ForestSettings,
    KnnSettings,
    MlpSettings,
    PrototypesSettings,
    StreamingSettings,
    TrainingSettings,
)
from voxshard.progress import counted

Ints = npt.NDArray[np.int64]

_INTERRUPTED = "Training interrupted by user"
"""How scikit-learn's MLP warns that it took Ctrl-C for an early end; we publish no such model."""
_CHUNK_ROWS = 64
"""Rows read together when a training set is shuffled on disk: few seeks, yet every block holds rows from all over."""


@dataclass(frozen=True)
class Fitted:
    """A fitted pipeline, with facts about its training."""

    pipeline: Pipeline
    num_utterances: int
    num_rows: int
    streamed: bool
    notes: tuple[str, ...]
    """Messages for the user, such as which training did not converge."""


def fit(
    name: str,
    settings: TrainingSettings,
    seed: int,
    data: Dataset,
    utterances: Ints,
    numbers: Ints,
    *,
    what: str,
    on_start: Callable[[str], None] = lambda message: None,
) -> Fitted:
    """Fit a classifier with its preprocessing.

    Parameters
    ----------
    utterances : (U,) positions in `data` to train on.
    numbers : (U,) their class numbers; every row of an utterance has its class.
    what : names the training in errors ("label cough", "fold 3").
    on_start : receives the memory that the training takes, before it starts.

    Raises
    ------
    DataError : one class only, rows too few for the settings, or more rows than memory holds for a classifier that
        needs them all at once.
    """
    if len(np.unique(numbers)) < 2:
        raise DataError(f"{what}: its {len(numbers)} training utterances are of one class; a classifier needs two")
    num_rows = data.num_rows(utterances)
    _check_below_num_rows(settings, num_rows, data.dim, what)
    pipeline = build(name, settings, seed)
    limit_gb = settings.memory_limit_gb or memory.free_gb()
    how, needed_gb = memory.strategy(name, num_rows, data.dim, limit_gb, has_preprocessing=len(pipeline.steps) > 1)
    trees = ""
    if isinstance(settings, ForestSettings):
        most_gb = memory.most_gb_of_trees(settings, num_rows, len(np.unique(numbers)))
        trees = f" and up to {max(most_gb, 0.1):.1f} GB for its trees"
    on_start(
        f"{what}: {name} on {counted(num_rows, 'row')} of {counted(data.dim, 'value')}, {how}: "
        f"about {max(needed_gb, 0.1):.1f} GB of memory{trees}, {limit_gb:.1f} GB can be used"
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        warnings.filterwarnings("always", _INTERRUPTED)
        if how == "streaming":
            pipeline = _fit_piecewise(pipeline, settings, seed, _Pieces(data, utterances, numbers, limit_gb))
        else:
            with joblib.parallel_config("threading", n_jobs=-1):
                try:
                    if how == "in blocks":
                        pipeline = _fit_in_blocks(
                            pipeline, _Pieces(data, utterances, numbers, limit_gb, most_gb=min(0.5, limit_gb / 16))
                        )
                    else:
                        rows, _ = data.rows_of(utterances)
                        pipeline.fit(data.take(rows), np.repeat(numbers, data.counts[utterances]))
                except ValueError as exc:  # such as early_stopping with too few rows to put some aside
                    raise DataError(f"{what}: {name} cannot be fitted to {num_rows:,} training rows: {exc}") from exc
    notes = []
    for warning in caught:
        if str(warning.message).startswith(_INTERRUPTED):
            raise KeyboardInterrupt
        if issubclass(warning.category, ConvergenceWarning):
            notes.append(_not_converged(what, str(warning.message)))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return Fitted(pipeline, len(utterances), num_rows, how == "streaming", tuple(dict.fromkeys(notes)))


def _check_below_num_rows(settings: TrainingSettings, num_rows: int, dim: int, what: str) -> None:
    most = min(num_rows, dim)
    if settings.pca is not None and settings.pca > most:
        raise DataError(
            f"{what}: pca={settings.pca}, but {num_rows:,} training rows of {dim:,} values have {most:,} principal "
            f"components at most; give --set pca={most} or fewer"
        )
    if isinstance(settings, KnnSettings) and settings.n_neighbors > num_rows:
        raise DataError(
            f"{what}: n_neighbors={settings.n_neighbors}, but there are {num_rows:,} training rows; "
            f"give --set n_neighbors={num_rows} or fewer"
        )


def _not_converged(what: str, message: str) -> str:
    """Return the first sentence of scikit-learn's long convergence warning, with advice."""
    first = " ".join(message.split()).partition(". ")[0].partition(": STOP")[0].rstrip(".")
    return f"{what}: {first}; standardize=true or a larger max_iter may help"


class _Pieces:
    """The training rows in blocks that fit in half of the available memory, and in `most_gb`."""

    def __init__(
        self, data: Dataset, utterances: Ints, numbers: Ints, limit_gb: float, most_gb: float = math.inf
    ) -> None:
        self._data = data
        self._rows, _ = data.rows_of(utterances)
        self.numbers = np.repeat(numbers, data.counts[utterances])
        self.num_rows = len(self.numbers)
        self.classes = np.unique(numbers)
        self.block_rows = max(1, int(min(limit_gb / 2, most_gb) / memory.needed_gb(1, data.dim)))

    def in_order(self) -> Iterator[npt.NDArray[Any]]:
        """Yield all rows once, in blocks."""
        for start in range(0, self.num_rows, self.block_rows):
            yield self._data.take([rows[start : start + self.block_rows] for rows in self._rows])

    def shuffled(self, generator: np.random.Generator) -> Iterator[tuple[npt.NDArray[Any], Ints]]:
        """Yield all rows with their class numbers once, in blocks and in a new random order.

        Corpora are sorted by class or speaker, so a block is made of small pieces from everywhere, and mixed.
        """
        size = min(_CHUNK_ROWS, max(1, self.block_rows // 16))
        starts = generator.permutation(np.arange(0, self.num_rows, size))
        per_block = max(1, self.block_rows // size)
        for first in range(0, len(starts), per_block):
            chosen = np.concatenate(
                [
                    np.arange(start, min(start + size, self.num_rows))
                    for start in np.sort(starts[first : first + per_block])
                ]
            )
            mixed = generator.permutation(len(chosen))
            yield self._data.take([rows[chosen] for rows in self._rows])[mixed], self.numbers[chosen][mixed]


def _fit_in_blocks(pipeline: Pipeline, pieces: _Pieces) -> Pipeline:
    """Fit the preprocessing block by block, and the classifier to one array of all preprocessed rows.

    Memory holds the preprocessed rows once, in float32, and what the classifier itself takes.
    """
    fitted: list[tuple[str, Any]] = []
    *before, (name, estimator) = pipeline.steps
    for step_name, step in before:
        fitted.append((step_name, _fit_step(step, fitted, pieces)))
    complete: npt.NDArray[np.float32] | None = None
    start = 0
    for rows in pieces.in_order():
        block = _through(fitted, rows)
        if complete is None:
            complete = np.empty((pieces.num_rows, block.shape[1]), np.float32)
        complete[start : start + len(block)] = block
        start += len(block)
    estimator.fit(complete, pieces.numbers)
    return Pipeline([*fitted, (name, estimator)])


def _fit_piecewise(pipeline: Pipeline, settings: TrainingSettings, seed: int, pieces: _Pieces) -> Pipeline:
    """Fit every step block by block; principal components are computed incrementally."""
    assert isinstance(settings, StreamingSettings)
    if isinstance(settings, MlpSettings) and (settings.solver == "lbfgs" or settings.early_stopping):
        raise ConfigError("mlp on rows that do not fit in memory: needs solver=adam or sgd, and early_stopping=false")
    fitted: list[tuple[str, Any]] = []
    *before, (name, estimator) = pipeline.steps
    for step_name, step in before:
        fitted.append((step_name, _fit_step(step, fitted, pieces)))
    weight = getattr(settings, "class_weight", None)
    if weight is not None:
        balanced = compute_class_weight(weight, classes=pieces.classes, y=pieces.numbers)
        estimator.set_params(class_weight=dict(zip(pieces.classes.tolist(), balanced.tolist(), strict=True)))
    generator = np.random.default_rng(seed)
    for _ in range(1 if isinstance(settings, PrototypesSettings) else settings.epochs):
        for rows, numbers in pieces.shuffled(generator):
            estimator.partial_fit(_through(fitted, rows), numbers, classes=pieces.classes)
    return Pipeline([*fitted, (name, estimator)])


def _fit_step(step: Any, before: list[tuple[str, Any]], pieces: _Pieces) -> Any:
    if isinstance(step, PCA):
        step = IncrementalPCA(n_components=step.n_components, whiten=step.whiten)
        pending: list[npt.NDArray[Any]] = []
        for rows in pieces.in_order():  # every update, the last one too, needs as many rows as there are components
            pending.append(_through(before, rows))
            if sum(map(len, pending)) >= 2 * step.n_components:
                joined = np.concatenate(pending)
                step.partial_fit(joined[: -step.n_components])
                pending = [joined[-step.n_components :]]
        return step.partial_fit(np.concatenate(pending))
    if hasattr(step, "partial_fit"):
        for rows in pieces.in_order():
            step.partial_fit(_through(before, rows))
        return step
    return step.fit(_through(before, next(pieces.in_order())))


def _through(steps: list[tuple[str, Any]], rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    for _, step in steps:
        rows = step.transform(rows)
    return rows
