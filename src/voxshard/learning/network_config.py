"""Config of a network training; it can be validated anywhere, because no framework is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from voxshard.config import Settings, as_list, validated
from voxshard.encoders.device_request import DeviceRequest
from voxshard.learning.augment_config import AugmentSettings
from voxshard.learning.tracking import Tracker
from voxshard.learning.train_config import CommonTrainOptions, as_class, as_names
from voxshard.locations import Location
from voxshard.networks.settings import FAMILIES, NAMES, ON_LOGMEL, Family, Loss, NetworkSettings, settings_of


class TrainingClipSettings(Settings):
    """How recordings are cropped and padded; the crop is random in training."""

    max_seconds: float | None = Field(None, gt=0)
    """Maximum duration of a clip, in seconds; null: complete recordings."""
    pad: Literal["none", "zero", "repeat"] = "none"
    """How shorter recordings are padded to `max_seconds`, in training and in evaluation."""
    trim: bool = False
    """Remove silence at both ends first."""
    crop: Literal["centre", "head"] = "centre"
    """Part of a longer recording that is scored in evaluation."""


class EarlyStopping(Settings):
    """Stop the training when the validation split no longer improves, and keep the best weights."""

    metric: str = "loss"
    """`loss`, or a metric of the validation split such as accuracy, uar, macro_f1, mean_auc or eer."""
    patience: int = Field(5, ge=1)
    """Number of epochs without improvement after which the training stops."""


class OptimizationSettings(Settings):
    """Batches, optimiser, schedule and loss options of a training."""

    epochs: int = Field(1, ge=1)
    batch_size: int = Field(8, ge=1)
    """Number of recordings per step, over all devices."""
    accumulate: int = Field(1, ge=1)
    """Number of steps whose gradients are accumulated before each weight update."""
    order: Literal["random", "sorted"] = "random"
    """`sorted` groups recordings of similar length into batches, which come in random order: less padding."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    lr: float = Field(3e-4, gt=0)
    """Learning rate."""
    backbone_lr: float | None = Field(None, gt=0)
    """Learning rate of the layers below the shared layer and the heads; null: `lr`."""
    weight_decay: float = Field(1e-4, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of the optimiser sgd."""
    clip_norm: float | None = Field(None, gt=0)
    """Maximum norm of the gradient; null: gradients are not clipped."""
    schedule: Literal["constant", "onecycle", "cosine"] = "constant"
    max_lr: float = Field(0.01, gt=0)
    """Maximum learning rate of the schedule onecycle."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Fraction of all steps during which the schedule cosine rises to `lr`."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` gives rare classes the same influence as frequent ones."""
    margin: float = Field(0.2, ge=0)
    """Angular margin of the loss aam, in radians."""
    scale: float = Field(30.0, gt=0)
    """Scale of the loss aam."""
    early_stopping: EarlyStopping | None = None
    checkpoint_steps: int = Field(500, ge=1)
    """Number of steps between checkpoints, in addition to the checkpoint after every epoch."""


class EpisodeSettings(Settings):
    """Prototypical training: each step is an episode with support and query recordings of every drawn class."""

    ways: int | None = Field(None, ge=2)
    """Number of classes per episode; null: all classes, at most 20."""
    support: int = Field(1, ge=1)
    """Number of recordings per class whose mean is the prototype."""
    query: int = Field(1, ge=1)
    """Number of recordings per class that are classified by their distance to the prototypes."""
    per_epoch: int = Field(50, ge=1)
    """Number of episodes per epoch."""


class NetworkOptions(CommonTrainOptions):
    """Options that a single network training and a grid of them have in common."""

    label: Annotated[tuple[str, ...], BeforeValidator(as_names)] = ()
    """Columns to predict. Of several columns, all yes-or-no columns share one head, and each other one has its own."""
    labels_file: Location | None = None
    """File with label groups, instead of `label`: one group and head per line, labels separated by commas."""
    loss: Loss | None = None
    """Loss function. Null: cross_entropy, or bce for several labels. aam (additive angular margin) takes one label,
    such as the speaker."""
    validate_on: str | None = None
    """Split whose loss and metrics are measured after every epoch; required for early stopping."""
    num_folds: int | None = Field(None, ge=2)
    """Number of folds over which the values of `folds` are distributed; null: each value is one fold."""
    episodes: EpisodeSettings | None = None
    """Settings of prototypical training; null: supervised training with heads."""
    positive: Annotated[str | None, BeforeValidator(as_class)] = None
    """Class for which scores are high; makes two classes a detection task. Null: `bonafide`, else 1 or true."""
    log: Annotated[tuple[Tracker, ...], BeforeValidator(as_list)] = ()
    """Services to which every epoch and the results are also logged: `wandb` (Weights & Biases, offline if it cannot be
    reached), `tensorboard`, `mlflow`, `csv`. `wandb: true` adds `wandb`."""
    device: DeviceRequest = "auto"
    """Device: auto, cpu, cuda or, for example, cuda:1."""
    devices: int = Field(1, ge=1)
    """Number of processes that train together, one per GPU, or on the CPU."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    workers: int | None = Field(None, ge=0)
    """Number of processes that read and augment; null: all available CPUs but one; 0: the training process itself
    reads."""
    clip: TrainingClipSettings = TrainingClipSettings.model_validate({})
    augment: AugmentSettings = Field(default_factory=AugmentSettings)
    training: OptimizationSettings = OptimizationSettings.model_validate({})
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the network."""

    @property
    def trackers(self) -> tuple[str, ...]:
        """Services in `log`, and `wandb` if requested."""
        return tuple(dict.fromkeys([*self.log, *super().trackers]))


SET_KEYS = (
    "training", "augment", "clip", "episodes", "validate_on", "num_folds", "labels_file", "loss", "positive", "device",
    "devices", "precision", "workers", "replicates",
)  # fmt: skip
"""Options of a training that `--set` reaches, in addition to the network's own settings."""


class NetworkConfig(NetworkOptions):
    """Settings of one network training, from audio or from a stored spectrogram."""

    manifest: Location | None = None
    """Manifest that `voxshard prepare` wrote."""
    features: Location | None = None
    """Merged feature set of the encoder `logmel`, instead of `manifest`, for networks on spectrograms."""
    network: Family
    out: Location
    """Run directory to write."""
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.manifest is None) == (self.features is None):
            raise ValueError("give manifest, or features, and not both")
        if self.features is not None:
            self._check_stored()
        if bool(self.label) == bool(self.labels_file):
            raise ValueError("give label, or labels_file, and not both")
        several = len(self.label) > 1 or self.labels_file is not None
        if several and (self.n_shot or self.episodes or self.loss == "aam"):
            raise ValueError("n_shot, episodes and aam take one label")
        if self.devices > 1 and (self.folds or self.n_shot):
            raise ValueError("folds and n_shot train many networks; train each on one device")
        if self.training.batch_size % self.devices:
            raise ValueError(f"training.batch_size is not a multiple of devices ({self.devices})")
        least = FAMILIES[self.network].min_batch * self.devices
        if self.training.batch_size < least:
            raise ValueError(f"training.batch_size: {self.network} normalises over the batch, give at least {least}")
        if self.training.early_stopping and self.validate_on is None:
            raise ValueError("training.early_stopping needs validate_on: the split to judge by")
        if self.episodes and (self.augment.mixup.is_on or self.loss):
            raise ValueError("episodes have their own loss and take no mixup: an example is of one class")
        if self.augment.on_spectrogram and self.network == "wav2vec2":
            raise ValueError(f"augment.{self.augment.on_spectrogram[0]}: wav2vec2 is given waveforms, no spectrogram")
        if self.augment.uniform_noise.is_on and self.settings.get("std") is None:
            raise ValueError("augment.uniform_noise is added after (x - mean) / std: give the settings mean and std")
        return self

    def _check_stored(self) -> None:
        if self.network not in ON_LOGMEL:
            raise ValueError(f"network {self.network} is trained from audio; {', '.join(ON_LOGMEL)} take stored logmel")
        if self.augment.on_waveform:
            raise ValueError(
                f"augment.{self.augment.on_waveform[0]} changes waveforms, and stored features have none; leave it "
                "out, use frequency_mask, time_mask or spectrogram_noise, or train from audio"
            )
        if self.clip.trim:
            raise ValueError("clip.trim needs a waveform; extract with trim=true, or train from audio")

    def network_settings(self) -> NetworkSettings:
        """Return `settings`, validated for the network.

        Raises
        ------
        ConfigError : everything that is wrong with them.
        """
        return settings_of(self.network, self.settings)


class NetworkGrid(NetworkOptions):
    """One training for every combination of network and seed."""

    network: Annotated[tuple[Family, ...], BeforeValidator(as_list)] = Field(min_length=1)
    seed: Annotated[tuple[int, ...], BeforeValidator(as_list)] = (0,)
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings for every network; a key that is a network's name contains settings for that network only."""

    def expand(self, name: str, runs: Path, *, manifest: Path | None, features: Path | None) -> list[NetworkConfig]:
        """Return the configs of the trainings in a fixed order, each with `out` RUNS/<name>-<network>-<seed>.

        Raises
        ------
        ConfigError : what is wrong with one of them.
        """
        options = {key: getattr(self, key) for key in NetworkOptions.model_fields if key != "settings"}
        shared = {key: value for key, value in self.settings.items() if key not in NAMES}
        trainings = [
            validated(
                NetworkConfig,
                {
                    **options,
                    "manifest": manifest,
                    "features": features,
                    "network": network,
                    "seed": seed,
                    "out": runs / f"{name}-{network}-{seed}",
                    "settings": {**shared, **self.settings.get(network, {})},
                },
                where=f"networks.{name} ({network})",
            )
            for network in self.network
            for seed in self.seed
        ]
        for training in trainings:
            training.network_settings()
        return trainings
