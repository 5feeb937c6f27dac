"""Building networks, fitting them to utterances of a manifest, and scoring utterances with them."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from lightning.pytorch.loggers import Logger

from voxshard import files
from voxshard.config import dump_yaml
from voxshard.encoders._torch.device import resolve_device
from voxshard.errors import ConfigError, DataError, StoppedError
from voxshard.learning import results
from voxshard.learning._torch.augmentation import Augmenter, recordings_in
from voxshard.learning._torch.data import (
    AudioDataset,
    EpisodeOrder,
    Floats,
    Ints,
    Recordings,
    ResumableBatchSampler,
    StoredPatches,
    default_workers,
    loader,
)
from voxshard.learning._torch.loggers import open_loggers
from voxshard.learning._torch.loop import CheckpointCallback, fit
from voxshard.learning._torch.losses import NetworkLoss, balanced_weights
from voxshard.learning._torch.module import TrainedNetwork
from voxshard.learning._torch.prediction import Predictor, failures_of, trials_of
from voxshard.learning._torch.statistics import standardize
from voxshard.learning._torch.validation import Validation
from voxshard.learning.data import source_of
from voxshard.learning.label_groups import float_targets
from voxshard.learning.network_config import NetworkConfig
from voxshard.learning.stored_logmel import StoredLogMel
from voxshard.learning.train_flow import BaseTrainer
from voxshard.locations import as_path, local_copy, origin
from voxshard.manifest import Manifest
from voxshard.networks.heads import PrototypeHead
from voxshard.networks.network import Network
from voxshard.networks.network_files import write_checkpoint
from voxshard.networks.settings import LabelGroup, NetworkSpec, SpectrogramSettings
from voxshard.progress import NotesOnly, counted

_NOT_IN_IDENTITY = {"out", "wandb", "log", "workers", "device", "devices", "replicates"}
"""Fields of the config that do not make it another training."""

_DESCRIBED_OTHERWISE = {"out", "label", "settings", "split", "manifest", "features"}
"""Fields of the config that the config.yaml of a run does not copy."""


@dataclass(frozen=True)
class FittedNetwork:
    """A trained network with the history of its training."""

    network: Network
    history: list[dict[str, float]]
    """Values of each epoch; see `TrainedNetwork`."""
    curve: list[dict[str, float]]
    """Values during the epochs; see `TrainedNetwork`."""
    is_first: bool
    """Whether this process, of those that train together, is the one that writes."""


@dataclass
class NetworkTrainer(BaseTrainer[FittedNetwork]):
    """Fits networks to the utterances of one manifest."""

    config: NetworkConfig
    manifest: Manifest
    groups: Sequence[LabelGroup]
    stop: threading.Event
    check: Callable[[], None]
    stored: StoredLogMel | None = None
    """Stored features to train on instead of the recordings; row i belongs to row i of `manifest`."""
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Error and message of each unusable recording, by utterance_id."""

    PACKAGES = ("torch", "lightning", "transformers", "speechbrain", "numpy")

    @cached_property
    def targets_UC(self) -> Floats:
        return float_targets(self.labels)

    @property
    def num_folds(self) -> int | None:
        return self.config.num_folds

    @property
    def workers(self) -> int:
        return default_workers() if self.config.workers is None else self.config.workers

    @property
    def spec(self) -> NetworkSpec:
        several = self.labels.target.kind == "multilabel"
        return NetworkSpec(
            family=self.config.network,
            settings=self.config.network_settings().model_dump(mode="json"),
            groups=tuple(self.groups),
            loss=self.config.loss or ("bce" if several else "cross_entropy"),
            scale=self.config.training.scale,
            prototypes=self.config.episodes is not None,
        )

    @property
    def folder(self) -> Path:
        """Folder of the training's state until the run is published."""
        out = as_path(self.config.out)
        return out.with_name(f"{out.name}.training")

    @cached_property
    def loggers(self) -> list[Logger]:
        """Loggers for epochs and results; opened at the first access."""
        return open_loggers(self.config.trackers, as_path(self.config.out), self.folder)

    def fit(self, utterances: Ints, seed: int, what: str) -> FittedNetwork:
        """Train a network on some utterances.

        Raises
        ------
        StoppedError : asked to stop; the state is kept, the same command continues.
        """
        self.check()
        torch.manual_seed(seed)
        spec = self.spec
        network = Network(spec, None)
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise ConfigError(
                "nothing is left to be trained: a prototypical network has no heads; fine-tune it, or give shared_dim"
            )
        examples = self._examples(network, utterances, seed)
        order = self._order(examples, utterances, seed)
        loss = self._loss(spec, utterances)
        validation = self._validation(spec, loss, examples, utterances)
        self._open_folder()  # not before: what is refused leaves nothing behind
        folder = self.folder / "".join(char if char.isalnum() else "-" for char in what)
        folder.mkdir(exist_ok=True)
        progress = NotesOnly(self.progress) if self.is_part else self.progress
        keeper = CheckpointCallback(folder, order, self.config, self.stop, progress)
        if not keeper.state.exists():
            standardize(network.backbone, examples, utterances, seed)
        module = TrainedNetwork(network, loss, self.config.training, self.config.episodes, validation)
        network.train()
        device = torch.device(resolve_device(self.config.device)[0])
        batches = loader(examples, order, network.backbone.batch_policy, self.workers, device)
        loggers = [] if self.is_part else self.loggers
        trainer = fit(module, batches, keeper, self.config, loggers, what=what)
        if keeper.stopped and trainer.is_global_zero:
            raise StoppedError(
                f"stopped by a signal; {folder} has all it takes, run the same command again to continue"
            )
        self._take_note_of(module)
        network.eval()
        if isinstance(network.heads, PrototypeHead) and trainer.is_global_zero:
            self._predictor(examples, self.check).place_prototypes(network, utterances)
        return FittedNetwork(network, module.history, module.curve, trainer.is_global_zero and not keeper.stopped)

    def trials(self, fitted: FittedNetwork, utterances: Ints, split: str) -> pa.Table:
        """Score utterances and return rows for trials.parquet. Unreadable recordings are added to `failures`."""
        self.check()
        examples = self._examples(fitted.network, utterances, self.config.seed)
        found = self._predictor(examples, self.check).outputs(fitted.network, utterances)
        self.failures |= failures_of(found, self.manifest)
        return trials_of(found, fitted.network.spec, self.manifest, self.labels, split)

    def is_publisher(self, model: FittedNetwork) -> bool:
        return model.is_first

    def training_tables(self, model: FittedNetwork) -> dict[str, pa.Table]:
        """Return loss and learning rate over the training and by epoch, and the unusable recordings."""
        tables = {
            "training-curve": results.table_of(model.curve),
            "training": results.table_of([dict(row) for row in model.history]),
        }
        if self.failures:
            self.note(
                f"left out, because they cannot be used: {counted(len(self.failures), 'recording')}; "
                "see tables/failures.csv"
            )
            tables["failures"] = results.table_of(
                [{"utterance_id": name, "error": error, "message": message}
                 for name, (error, message) in sorted(self.failures.items())]
            )  # fmt: skip
        return tables

    def write(self, model: FittedNetwork, folder: Path) -> dict[str, Any]:
        config, target = self.config, self.labels.target
        clip = config.clip.model_dump(mode="json")
        about = write_checkpoint(folder, model.network, target=asdict(target), clip=clip)
        return {
            "features": [vars(source_of(self.stored.features))] if self.stored else [],
            "manifest": str(origin(local_copy(config.manifest).resolve())) if config.manifest else None,
            "classifier": config.network,
            "settings": self.spec.settings,
            **json.loads(config.model_dump_json(exclude=_DESCRIBED_OTHERWISE)),
            "fingerprint": about.fingerprint,
        }

    def training_counts(self, utterances: Ints) -> dict[str, Any]:
        totals = np.nansum(self.targets_UC[utterances], axis=0)
        return {"classes": dict(zip(self.labels.target.classes, totals.astype(int).tolist(), strict=True))}

    def _open_folder(self) -> None:
        """Continue in the folder of an earlier attempt at the same training, or empty it if the training differs."""
        content = {**self.config.model_dump(mode="json", exclude=_NOT_IN_IDENTITY)}
        content["content"] = self.manifest.content_digest()
        content["groups"] = [group.model_dump(mode="json") for group in self.groups]
        if self.stored is not None:
            content["fingerprint"] = self.stored.features.fingerprint
        text, path = dump_yaml(content), self.folder / "config.yaml"
        if path.exists() and files.read_text(path) != text:
            self.progress.note(f"{self.folder} is of another config or manifest: starting again")
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        files.publish_bytes(path, text.encode())

    def _examples(self, network: Network, utterances: Ints, seed: int) -> AudioDataset:
        settings: dict[str, Any] = {
            "clip": self.config.clip,
            "seed": seed,
            "augmenter": Augmenter(
                self.config.augment,
                network.backbone.sample_rate,
                getattr(network.spec.network_settings(), "std", None) or 1.0,
            ),
            "partners": utterances,
        }
        if self.config.augment.background.is_on:
            recordings_in(
                local_copy(self.config.augment.background.folder or Path())
            )  # a wrong folder is reported before training
        return examples_of(self.manifest, self.stored, self.targets_UC, network, **settings)

    def _order(self, examples: AudioDataset, utterances: Ints, seed: int) -> ResumableBatchSampler | EpisodeOrder:
        training, episodes = self.config.training, self.config.episodes
        if episodes is None:
            durations = None
            if training.order == "sorted":
                known = [examples.utterances[row].duration_s for row in utterances]
                if any(value is None for value in known):
                    raise ConfigError("training.order=sorted needs durations; prepare the manifest without --no-probe")
                durations = np.array(known, np.float64)
            return ResumableBatchSampler(utterances, training.batch_size, seed, durations)
        numbers, size = self.labels.numbers[utterances], episodes.support + episodes.query
        counts = {self.labels.target.classes[number]: int((numbers == number).sum()) for number in np.unique(numbers)}
        rarest = min(counts, key=lambda name: counts[name])
        if counts[rarest] <= episodes.support:
            raise DataError(
                f"episodes: class {rarest} has {counts[rarest]} training recordings, none of them left to ask about"
                f" next to support={episodes.support}; give a smaller support"
            )
        ways = min(episodes.ways or 20, len(counts))
        return EpisodeOrder(utterances, numbers, ways, size, episodes.per_epoch, seed)

    def _loss(self, spec: NetworkSpec, utterances: Ints) -> NetworkLoss:
        training = self.config.training
        sizes = [len(group.labels) for group in spec.groups]
        weights = None
        if training.class_weights == "balanced":
            weights = balanced_weights(self.targets_UC[utterances], spec.loss, sizes)
        return NetworkLoss(spec.loss, sizes, weights, training.margin, spec.scale)

    def _predictor(self, examples: AudioDataset, check: Callable[[], None]) -> Predictor:
        return Predictor(examples, self.config.precision, self.workers, check)

    def _validation(
        self, spec: NetworkSpec, loss: NetworkLoss, examples: AudioDataset, utterances: Ints
    ) -> Validation | None:
        split = self.config.validate_on
        if split is None:
            return None
        rows = np.flatnonzero(self.data.in_split(split) & self.labels.known)
        if not len(rows):
            raise ConfigError(
                f"validate_on={split}: no labelled utterance has that split; splits here: {self.data.splits_text}"
            )
        predictor = self._predictor(examples, lambda: None)  # a stop waits for the state of the epoch
        early = self.config.training.early_stopping
        return Validation(predictor, loss, spec, self.manifest, self.labels, split, rows, utterances, early)

    def _take_note_of(self, module: TrainedNetwork) -> None:
        for row, reason in module.unusable.items():
            self.failures[self.manifest.table["utterance_id"][row].as_py()] = reason


def examples_of(
    manifest: Manifest, stored: StoredLogMel | None, targets_UC: Floats, network: Network, **settings: Any
) -> AudioDataset:
    """Return the dataset for a network: from a stored set if there is one, otherwise from the recordings."""
    if stored is None:
        return Recordings.of(manifest, targets_UC, network.backbone, **settings)
    patches = network.spec.network_settings()
    assert isinstance(patches, SpectrogramSettings)
    return StoredPatches(
        utterances=list(manifest.utterances()), targets_UC=targets_UC, stored=stored,
        patch_frames=patches.patch_frames, **settings,
    )  # fmt: skip
