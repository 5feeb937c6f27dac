"""Fitting of a model with its calibration to labelled utterances, and scoring of utterances with it.

Letters: U utterances, K score columns.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import sklearn

from voxshard.errors import ConfigError, ScoreError
from voxshard.learning import results
from voxshard.learning.data import ArrayRows, Dataset
from voxshard.learning.fitting import fit
from voxshard.learning.labels import MISSING, Labels
from voxshard.learning.model import Model
from voxshard.learning.scores import Join, Scored, join_rows, score_rows
from voxshard.learning.train_config import TrainConfig, TrainingSettings
from voxshard.learning.train_flow import BaseTrainer, Ints
from voxshard.scoring.calibration import fit_affine, fit_logistic

Floats = npt.NDArray[np.float64]
_DISTANCES_MB = 32
"""Memory for distances to training rows at a time; scikit-learn's own limit, 1024, takes 1.7 GB in all."""
_BY_SCALE = ("logistic", "mlp", "svm", "linear-svm", "perceptron", "knn", "prototypes")
"""Classifiers in which a dimension counts by its scale."""
_OUTWEIGHS = 10.0
"""Largest standard deviation over the median one from which on standardizing is advised."""
_ROWS_LOOKED_AT = 1000
Check = Callable[[], None]
"""Called between steps; raises if a stop was requested."""


def predict(model: Model, data: Dataset | ArrayRows, utterances: Ints) -> tuple[Floats, Ints]:
    """Score utterances with a model.

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
            with sklearn.config_context(working_memory=_DISTANCES_MB):
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
class Trainer(BaseTrainer[Model]):
    """Fits classifiers to the utterances of one dataset."""

    config: TrainConfig
    data: Dataset
    settings: TrainingSettings
    check: Check
    streamed: bool = False
    was_started: bool = False

    PACKAGES = ("scikit-learn", "numpy", "scipy")

    @property
    def num_folds(self) -> int | None:
        return self.settings.num_folds

    def fit(self, utterances: Ints, seed: int, what: str) -> Model:
        """Fit a model to some utterances, and its calibration if requested."""
        if not self.was_started:
            self._advise_on_scale(utterances)
        if not self.is_part:
            self.progress.begin(f"train {self.config.classifier}", items=1)
        model = self._fitted(utterances, seed, what)
        if not self.is_part:
            self.progress.advance()
        return model

    def _fitted(self, utterances: Ints, seed: int, what: str) -> Model:
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

    def _advise_on_scale(self, utterances: Ints) -> None:
        """Advise to standardize if a few dimensions would outweigh all others in a classifier that does not do it."""
        name = self.config.classifier
        if self.settings.standardize or name not in _BY_SCALE:
            return
        rows, _ = self.data.rows_of(utterances)
        deviations = self.data.take([found[:: -(-len(found) // _ROWS_LOOKED_AT)] for found in rows]).std(axis=0)
        if deviations.max() > _OUTWEIGHS * np.median(deviations):
            self.progress.note(
                f"the values of these features differ much in scale, and the largest dominate {name}; try "
                "`--set standardize=true`"
            )

    def _note_first(self, message: str) -> None:
        """Report how the first of several trainings is fitted; the other folds and draws are similar."""
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
        """Score utterances and return rows for trials.parquet."""
        self.check()
        scores, predicted = predict(model, self.data, utterances)
        return trials_of(self.data, self.labels, utterances, split, scores, predicted)

    def write(self, model: Model, folder: Path) -> dict[str, Any]:
        config = self.config
        model.write(folder)
        return {
            "features": [vars(source) for source in model.features],
            "classifier": config.classifier,
            "settings": json.loads(self.settings.model_dump_json()),
            "join": model.join if self.data.is_joined else None,
            "seed": config.seed,
            "folds": config.folds,
            "n_shot": list(config.n_shot),
            "runs": config.runs if config.n_shot else None,
            "replicates": config.replicates,
            "streamed": self.streamed,
        }

    def training_counts(self, utterances: Ints) -> dict[str, Any]:
        numbers, target = self.labels.numbers[utterances], self.labels.target
        if target.kind == "multilabel":
            classes = {name: int((numbers[:, column] == 1).sum()) for column, name in enumerate(target.classes)}
        else:
            classes = {name: int((numbers == number).sum()) for number, name in enumerate(target.classes)}
        return {"rows": self.data.num_rows(utterances), "classes": classes}


def trials_of(data: Dataset, labels: Labels, utterances: Ints, split: str, scores: Floats, predicted: Ints) -> pa.Table:
    """Return rows for trials.parquet of some utterances, given their scores."""
    return results.trials_table(data.table.take(utterances), labels.of(utterances), split, scores, predicted)
