"""Training of a network from manifest to run directory: once, on few examples, or by cross-validation."""

from __future__ import annotations

import shutil
import threading

from voxshard.errors import ConfigError
from voxshard.learning import train_flow
from voxshard.learning._torch.faults import reading_faults
from voxshard.learning._torch.loggers import log_results
from voxshard.learning._torch.trainer import NetworkTrainer
from voxshard.learning.data import ManifestColumns
from voxshard.learning.label_groups import learn_groups, number_groups, read_groups
from voxshard.learning.network_config import NetworkConfig
from voxshard.learning.stored_logmel import StoredLogMel
from voxshard.learning.training import Check
from voxshard.learning.training_inputs import inputs_of
from voxshard.locations import as_path, local_copy
from voxshard.manifest import Manifest
from voxshard.progress import Progress
from voxshard.store.runs import Run, check_is_run


@reading_faults()
def train(config: NetworkConfig, progress: Progress, check: Check, stop: threading.Event) -> bool:
    """Train and test a network as `config` specifies, and publish the run.

    Returns
    -------
    Whether this process published it: of several that train together the first one does.

    Raises
    ------
    ConfigError, DataError : what is wrong with the config or the manifest; nothing is published.
    StoppedError : asked to stop; the same command continues from there.
    TransientFaultError : the storage fails, or a process that reads recordings dies; the same.
    """
    check_is_run(as_path(config.out))
    inputs = inputs_of(config)
    trainer, split, in_split = _prepare(config, progress, check, stop)
    is_published = train_flow.run(trainer, split, in_split, inputs)
    if is_published:
        log_results(trainer.loggers, Run(as_path(config.out)), progress)
        shutil.rmtree(trainer.folder, ignore_errors=True)
    return is_published


def _prepare(
    config: NetworkConfig, progress: Progress, check: Check, stop: threading.Event
) -> tuple[NetworkTrainer, str | None, train_flow.Mask]:
    """Return the trainer, the split to train on, and which utterances have it, (U,)."""
    stored = None
    if config.features is not None:
        stored = StoredLogMel.open(local_copy(config.features))
        config = config.model_copy(update={"settings": stored.network_settings(config.settings)})
        manifest = stored.manifest
    else:
        assert config.manifest is not None
        manifest = Manifest.read(local_copy(config.manifest))
    config.network_settings()
    groups = read_groups(local_copy(config.labels_file)) if config.labels_file else None
    columns = [name for group in groups for name in group] if groups else config.label
    data = ManifestColumns(manifest.table)
    split, in_split = train_flow.split_to_train_on(config, data)
    target, learned = learn_groups(manifest.table, columns, groups, in_split, config.positive)
    alone = [group.labels[0] for group in learned if len(group.labels) == 1]
    if alone and config.loss == "cross_entropy":
        raise ConfigError(
            f"loss=cross_entropy: label {alone[0]} is alone in its group, nothing to choose from; give bce"
        )
    labels = number_groups(manifest.table, target, learned)
    trainer = NetworkTrainer(config, data, labels, progress, manifest, learned, stop, check, stored)
    return trainer, split, in_split
