"""The config of a network's training; no framework is imported here, so that it can be checked anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from voxshard.config import Settings, as_list, validated
from voxshard.learning.augment_config import AugmentSettings
from voxshard.learning.tracking import Tracker
from voxshard.learning.train_config import CommonTrainOptions, as_class, as_names
from voxshard.locations import Location
from voxshard.networks.settings import FAMILIES, NAMES, ON_LOGMEL, Family, Loss, NetworkSettings, settings_of


class TrainingClipSettings(Settings):
    """How recordings are cut; the crop is random in training."""

    max_seconds: float | None = Field(None, gt=0)
    """Longest clip; null: complete recordings."""
    pad: Literal["none", "zero", "repeat"] = "none"
    """How shorter ones are filled up to `max_seconds`, in training and in evaluation."""
    trim: bool = False
    """Cut silence at both ends first."""
    crop: Literal["centre", "head"] = "centre"
    """The part of a longer recording that evaluation scores."""


class EarlyStopping(Settings):
    """Stop when the validation split gets no better, and keep the best weights."""

    metric: str = "loss"
    """`loss`, or a metric of the validation split: accuracy, uar, macro_f1, mean_auc, eer ..."""
    patience: int = Field(5, ge=1)
    """Epochs without an improvement."""


class OptimizationSettings(Settings):
    """The loop."""

    epochs: int = Field(1, ge=1)
    batch_size: int = Field(8, ge=1)
    """Recordings per step, over all devices."""
    accumulate: int = Field(1, ge=1)
    """Steps whose gradients are added up before the weights change."""
    order: Literal["random", "sorted"] = "random"
    """`sorted` puts recordings of like length into a batch, in random order of batches: less padding."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    lr: float = Field(3e-4, gt=0)
    """Learning rate."""
    backbone_lr: float | None = Field(None, gt=0)
    """Learning rate of what is below shared layer and heads; null: `lr`."""
    weight_decay: float = Field(1e-4, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of sgd."""
    clip_norm: float | None = Field(None, gt=0)
    """Largest norm of the gradient."""
    schedule: Literal["constant", "onecycle", "cosine"] = "constant"
    max_lr: float = Field(0.01, gt=0)
    """Peak of onecycle."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Part of all steps over which cosine rises to `lr`."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced`: rare classes count as much as frequent ones."""
    margin: float = Field(0.2, ge=0)
    """Margin of aam, in radians."""
    scale: float = Field(30.0, gt=0)
    """Scale of aam."""
    early_stopping: EarlyStopping | None = None
    checkpoint_steps: int = Field(500, ge=1)
    """Steps between checkpoints, in addition to the one after every epoch."""


class EpisodeSettings(Settings):
    """Prototypical training: each step an episode with a support and a query set of every class drawn."""

    ways: int | None = Field(None, ge=2)
    """Classes per episode; null: all, at most 20."""
    support: int = Field(1, ge=1)
    """Recordings per class that make its prototype."""
    query: int = Field(1, ge=1)
    """Recordings per class that are distinguished by the distance to the prototypes."""
    per_epoch: int = Field(50, ge=1)
    """Episodes in an epoch."""


class NetworkOptions(CommonTrainOptions):
    """What a training of a network and a grid of them have in common."""

    label: Annotated[tuple[str, ...], BeforeValidator(as_names)] = ()
    """Column to predict. Several: yes-or-no columns share a head; of other columns each has its own head."""
    labels_file: Location | None = None
    """Instead: label groups, one a line, labels separated by commas; a head each, outputs in the file's order."""
    loss: Loss | None = None
    """Null: cross_entropy; for several labels bce. aam: additive angular margin, for one label such as the speaker."""
    validate_on: str | None = None
    """Split whose loss and metrics are followed, epoch by epoch; needed for early stopping."""
    num_folds: int | None = Field(None, ge=2)
    """Number of folds to distribute the values of `folds` over; null: each value is one fold."""
    episodes: EpisodeSettings | None = None
    """Train a prototypical network; null: supervised, with heads."""
    positive: Annotated[str | None, BeforeValidator(as_class)] = None
    """Class that a higher score speaks for; makes two classes a detection task. Null: `bonafide`, else 1 or true."""
    log: Annotated[tuple[Tracker, ...], BeforeValidator(as_list)] = ()
    """Services that every epoch and the results are logged to, too: `wandb` (Weights & Biases, offline where it cannot
    be reached), `tensorboard`, `mlflow`, `csv`. `wandb: true` adds `wandb`."""
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """auto, cpu, cuda or cuda:1."""
    devices: int = Field(1, ge=1)
    """Processes that train together, one per GPU, or on the CPU."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    workers: int | None = Field(None, ge=0)
    """Processes that read and augment; null: the CPUs there are, but one. 0: none in addition to the training
    itself."""
    clip: TrainingClipSettings = TrainingClipSettings.model_validate({})
    augment: AugmentSettings = Field(default_factory=AugmentSettings)
    training: OptimizationSettings = OptimizationSettings.model_validate({})
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the network."""

    @property
    def trackers(self) -> tuple[str, ...]:
        """`log`, and `wandb` if it is asked for."""
        return tuple(dict.fromkeys([*self.log, *super().trackers]))


SET_KEYS = (
    "training", "augment", "clip", "episodes", "validate_on", "num_folds", "labels_file", "loss", "positive", "device",
    "devices", "precision", "workers", "replicates",
)  # fmt: skip
"""Options of a training that `--set` reaches, in addition to the network's own settings."""


class NetworkConfig(NetworkOptions):
    """One training of a network from audio, or from a stored spectrogram."""

    manifest: Location | None = None
    """What `voxshard prepare` wrote."""
    features: Location | None = None
    """Instead: a merged feature set of the encoder `logmel`, for networks on spectrograms."""
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
        """`settings`, validated for the network.

        Raises
        ------
        ConfigError : everything that is wrong with them.
        """
        return settings_of(self.network, self.settings)


class NetworkGrid(NetworkOptions):
    """Every combination of network and seed, as one training each."""

    network: Annotated[tuple[Family, ...], BeforeValidator(as_list)] = Field(min_length=1)
    seed: Annotated[tuple[int, ...], BeforeValidator(as_list)] = (0,)
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings for every network; a key that is a network's name holds settings for it alone."""

    def expand(self, name: str, runs: Path, *, manifest: Path | None, features: Path | None) -> list[NetworkConfig]:
        """The trainings, in a fixed order, each with `out` RUNS/<name>-<network>-<seed>.

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
