"""Fitting a model to labelled utterances, with its calibration, and scoring utterances with it.

Letters: U utterances, K score columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from voxshard.errors import ConfigError, ScoreError
from voxshard.learning import results
from voxshard.learning.data import ArrayRows, Dataset
from voxshard.learning.fitting import fit
from voxshard.learning.labels import MISSING, Labels
from voxshard.learning.model import Model
from voxshard.learning.scores import Join, Scored, join_rows, score_rows
from voxshard.learning.train_config import TrainConfig, TrainingSettings
from voxshard.progress import Progress
from voxshard.scoring.calibration import fit_affine, fit_logistic

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Check = Callable[[], None]
"""Called between steps; raises if a stop was requested."""


def predict(model: Model, data: Dataset | ArrayRows, utterances: Ints) -> tuple[Floats, Ints]:
    """Score utterances.

    Returns
    -------
    scores (U, K), one column per `model.target.score_names`, calibrated if the model is; decisions (U,) as class
    numbers, for several labels (U, L) as 0 and 1.
    """
    target = model.target
    scores = np.empty((len(utterances), len(target.score_names)))
    multilabel = target.kind == "multilabel"
    predicted = np.empty((len(utterances), len(target.classes)) if multilabel else len(utterances), np.int64)
    num_classes = 2 if multilabel else len(target.classes)
    for rows, positions, starts in data.blocks(utterances):
        for column, pipeline in enumerate(model.pipelines):
            scored = score_rows(pipeline, model.score_kind, rows, num_classes)
            if data.is_joined:
                scored = join_rows(scored, model.score_kind, starts, model.join)
            if multilabel:
                scores[positions, column], predicted[positions, column] = scored.second, scored.predicted
            else:
                scores[positions], predicted[positions] = _columns(scored, model), scored.predicted
    return scores, predicted


def _columns(scored: Scored, model: Model) -> Floats:
    if model.target.kind == "classification":
        return scored.classes
    assert scored.second is not None
    scores = scored.second if model.target.positive == 1 else -scored.second
    return (model.calibration(scores) if model.calibration else scores)[:, None]


@dataclass
class Trainer:
    """Fits models to the utterances of one data set, as a config specifies."""

    config: TrainConfig
    settings: TrainingSettings
    data: Dataset
    labels: Labels
    progress: Progress
    check: Check
    notes: list[str] = field(default_factory=list)
    streamed: bool = False
    was_started: bool = False

    def fit(self, utterances: Ints, seed: int, what: str) -> Model:
        """Fit a model to some utterances, and its calibration if one is asked for."""
        target = self.labels.target
        columns = self.labels.numbers if target.kind == "multilabel" else self.labels.numbers[:, None]
        pipelines = []
        for column, name in enumerate(target.labels):
            self.check()
            chosen = utterances[columns[utterances, column] != MISSING]
            which = f"{what}, label {name}" if len(target.labels) > 1 else what
            fitted = fit(
                self.config.classifier,
                self.settings,
                seed,
                self.data,
                chosen,
                columns[chosen, column],
                what=which,
                on_start=self._note_first,
            )
            pipelines.append(fitted.pipeline)
            self.streamed |= fitted.streamed
            self.note(*fitted.notes)
        model = Model(
            classifier=self.config.classifier,
            target=target,
            features=self.data.sources,
            layer=self.settings.layer,
            join=self._join(),
            pipelines=pipelines,
        )
        return self._calibrated(model, utterances) if self.settings.calibrate else model

    def _note_first(self, message: str) -> None:
        """Print how the first training of several is fitted; folds and draws are alike."""
        if not self.was_started:
            self.progress.note(message)
        self.was_started = True

    def _join(self) -> Join:
        graded = self.labels.target.kind != "classification" or self.config.classifier == "gmm"
        return self.settings.join or ("mean" if graded else "vote")

    def _calibrated(self, model: Model, trained_on: Ints) -> Model:
        split = self.settings.calibrate
        if model.target.kind != "detection":
            raise ConfigError(f"calibrate={split}: only the score of a detection task is calibrated")
        chosen = np.flatnonzero(self.data.in_split(split) & self.labels.known)
        if not len(chosen):
            raise ConfigError(
                f"calibrate={split}: no labelled utterance has that split; splits here: {self.data.splits_text}"
            )
        if len(np.intersect1d(chosen, trained_on)):
            raise ConfigError(f"calibrate={split}: the model is trained on that split; calibrate on another one")
        scores, _ = predict(model, self.data, chosen)
        fit_map = fit_logistic if self.settings.calibration == "logistic" else fit_affine
        try:
            found = fit_map(scores[:, 0], self.labels.numbers[chosen] == model.target.positive)
        except ScoreError as exc:
            raise ScoreError(f"calibrate={split}: {exc} (--set calibration=affine)") from exc
        return dataclasses.replace(model, calibration=found)

    def trials(self, model: Model, utterances: Ints, split: str) -> pa.Table:
        """Score utterances: rows for trials.parquet."""
        self.check()
        scores, predicted = predict(model, self.data, utterances)
        return trials_of(self.data, self.labels, utterances, split, scores, predicted)

    def note(self, *messages: str) -> None:
        """Report progress, and keep it in the results."""
        for message in messages:
            if message not in self.notes:
                self.notes.append(message)
                self.progress.note(message)


def trials_of(data: Dataset, labels: Labels, utterances: Ints, split: str, scores: Floats, predicted: Ints) -> pa.Table:
    """Rows for trials.parquet of some utterances, given their scores."""
    return results.trials_table(data.table.take(utterances), labels.of(utterances), split, scores, predicted)
