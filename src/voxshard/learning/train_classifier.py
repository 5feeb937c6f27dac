"""Training of a classifier from features to a run directory."""

from __future__ import annotations

from voxshard.learning import train_flow
from voxshard.learning.data import Dataset
from voxshard.learning.labels import label_texts, learn_target, number_labels
from voxshard.learning.train_config import TrainConfig
from voxshard.learning.training import Check, Trainer
from voxshard.learning.training_inputs import inputs_of
from voxshard.locations import as_path, local_copy
from voxshard.progress import Progress, counted
from voxshard.store.runs import check_is_run


def train(config: TrainConfig, progress: Progress, check: Check) -> None:
    """Train and test a classifier as `config` specifies, and publish the run.

    Raises
    ------
    ConfigError, DataError : what is wrong with the config or the features; nothing is published.
    """
    settings = config.classifier_settings()
    check_is_run(as_path(config.out))
    inputs = inputs_of(config)
    data = Dataset.open([local_copy(path) for path in config.features], layer=settings.layer)
    texts = label_texts(data.table, config.label)
    split, in_split = train_flow.split_to_train_on(config, data)
    labels = number_labels(learn_target(config.label, texts, in_split, settings.positive), texts)
    trainer = Trainer(config, data, labels, progress, settings, check)
    if data.num_missing:
        trainer.note(f"left out, because they are not in every feature set: {counted(data.num_missing, 'utterance')}")
    if data.num_without_rows:
        trainer.note(f"too short for a single frame or window: {counted(data.num_without_rows, 'utterance')}")
    train_flow.run(trainer, split, in_split, inputs)
