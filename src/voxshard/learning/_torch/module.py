"""The Lightning module of a training: its step, its optimiser and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from voxshard.encoders._torch.device import on_device
from voxshard.errors import ConfigError, DataError
from voxshard.learning._torch.data import AudioBatch
from voxshard.learning._torch.losses import NetworkLoss
from voxshard.learning.network_config import EpisodeSettings, OptimizationSettings
from voxshard.networks.heads import squared_distances
from voxshard.networks.network import Network

_CURVE_ROWS = 200
"""About as many as can be distinguished in a plot."""
Validate = Callable[[Network], dict[str, float]]
"""Loss and metrics of the validation split, by name."""


class TrainedNetwork(pl.LightningModule):  # type: ignore[misc]  # lightning is Any where it is not installed
    """Lightning module that trains a network.

    After every epoch `history` has a row more: `epoch`, `train_loss`, `learning_rate`, and for a validation
    split `validation_<name>`; `curve` has rows all along, about `_CURVE_ROWS`: `epoch` and its part that is done,
    `train_loss` since the row before, `learning_rate`. What is below the heads may have a `backbone_learning_rate`.
    """

    def __init__(
        self,
        network: Network,
        loss: NetworkLoss,
        settings: OptimizationSettings,
        episodes: EpisodeSettings | None,
        validate: Validate | None,
    ) -> None:
        super().__init__()
        self.network, self.loss, self.settings, self.episodes = network, loss, settings, episodes
        self._validate = validate
        self._random: tuple[torch.Tensor, torch.Tensor | None] | None = None
        """States of the generators of the CPU and of the GPU, to be set before the next step."""
        self.history: list[dict[str, float]] = []
        self.curve: list[dict[str, float]] = []
        self.epoch_loss: list[torch.Tensor] = []
        """Losses of the batches of this epoch so far, on the device: reading one makes the host wait for the GPU."""
        self.recent_loss: list[torch.Tensor] = []
        """Losses of the batches since the last row of the curve."""
        self.learning_rates: dict[str, float] = {}
        """Learning rates of the last step."""
        self.interrupted = False
        """Stopped in the middle of an epoch."""
        self.unusable: dict[int, tuple[str, str]] = {}
        """Row of a recording that could not be read -> error and message."""

    def training_step(self, batch: AudioBatch, number: int) -> torch.Tensor:
        """Compute the loss of one batch."""
        for item in batch.unusable:
            self.unusable[item.row] = (item.error, item.message)
        if len(batch.rows) >= self.network.min_batch:
            loss = self._loss_of(batch)
            self.epoch_loss.append(loss.detach())
            self.recent_loss.append(self.epoch_loss[-1])
        else:
            loss = sum(parameter.sum() for parameter in self.network.parameters() if parameter.requires_grad) * 0.0
        self.learning_rates = self._learning_rates()
        batches = self.trainer.num_training_batches
        every = max(1, batches * self.settings.epochs // _CURVE_ROWS)
        if (self.current_epoch * batches + number + 1) % every == 0:
            epoch = self.current_epoch + (number + 1) / batches
            self.curve.append({"epoch": epoch, "train_loss": self._mean(self.recent_loss), **self.learning_rates})
            self.recent_loss = []
        return loss

    def _loss_of(self, batch: AudioBatch) -> torch.Tensor:
        if self.episodes is not None:
            return self._episode_loss(batch, self.episodes)
        return self.loss(self.network(batch.features, batch.lengths_B), batch.targets_BC)

    def _learning_rates(self) -> dict[str, float]:
        *below, heads = (float(group["lr"]) for group in self.trainer.optimizers[0].param_groups)
        rates = {"learning_rate": heads}
        return {**rates, "backbone_learning_rate": below[0]} if below and self.settings.backbone_lr else rates

    def _episode_loss(self, batch: AudioBatch, episodes: EpisodeSettings) -> torch.Tensor:
        """Return the cross-entropy of the query recordings' distances to the support means (Snell et al.)."""
        x_BD = self.network.joined_rows(batch.features, batch.lengths_B).float()
        # The recordings of a class follow each other; their numbers are known on the host, which need not wait.
        _, counts = batch.targets_BC.argmax(dim=1).unique_consecutive(return_counts=True)
        points, queries, answers = [], [], []
        for mine in x_BD.split(counts.tolist()):
            if len(mine) <= episodes.support:  # one of its recordings could not be read
                continue
            points.append(mine[: episodes.support].mean(dim=0))
            queries.append(mine[episodes.support :])
            answers += [len(points) - 1] * (len(mine) - episodes.support)
        if len(points) < 2:
            return x_BD.sum() * 0.0
        distances = squared_distances(torch.cat(queries), torch.stack(points))
        return nn.functional.cross_entropy(-distances, on_device(np.array(answers), distances.device))

    def transfer_batch_to_device(self, batch: AudioBatch, device: torch.device, _index: int) -> AudioBatch:
        """Move features and targets to the device. Lengths, and the classes of an episode, stay on the host, which
        needs them to determine shapes."""
        targets_BC = batch.targets_BC
        if self.episodes is None:
            targets_BC = targets_BC.to(device, non_blocking=True)
        return replace(batch, features=batch.features.to(device, non_blocking=True), targets_BC=targets_BC)

    def on_train_epoch_end(self) -> None:
        """Add a row to the history, with the validation split's loss and metrics.

        Raises
        ------
        DataError : no recording could be used.
        ConfigError : the loss is not finite any more.
        """
        if self.interrupted:
            return
        if self.unusable and not self.epoch_loss:
            error, message = next(iter(self.unusable.values()))
            raise DataError(f"not one of the training recordings can be used; the first: {error}: {message}")
        last = float(self.epoch_loss[-1]) if self.epoch_loss else 0.0
        if not math.isfinite(last):
            raise ConfigError(
                f"the training diverges: its loss is {last:g} after epoch {self.current_epoch + 1}; give"
                f" a smaller training.lr (now {self.settings.lr:g}), or training.clip_norm"
            )
        row = {
            "epoch": float(self.current_epoch + 1),
            "train_loss": self._mean(self.epoch_loss),
            **self.learning_rates,
        }
        if self._validate is not None:
            row |= {f"validation_{name}": value for name, value in self._validate(self.network).items()}
        self.history.append(row)
        for logger in self.trainer.loggers:
            logger.log_metrics(row, step=int(row["epoch"]))
            logger.save()
        self.epoch_loss = []

    def _mean(self, losses: list[torch.Tensor]) -> float:
        """Return the mean over batches and devices."""
        values = _floats(losses)
        mean = sum(values) / len(values) if values else math.nan
        reduced = self.trainer.strategy.reduce(torch.tensor(mean, device=self.device), reduce_op="mean")
        return float(reduced)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add everything to the checkpoint that an exact continuation needs."""
        checkpoint["voxshard"] = {
            "history": self.history,
            "curve": self.curve,
            "processes": _of_all_processes(self._own_state()),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` added."""
        state = checkpoint["voxshard"]
        self.history, self.curve = state["history"], state["curve"]
        own = state["processes"][self.global_rank % len(state["processes"])]
        self.unusable = own["unusable"]
        self.epoch_loss = [torch.tensor(value) for value in own["epoch_loss"]]
        self.recent_loss = [torch.tensor(value) for value in own["recent_loss"]]
        self._random = own["cpu"], own["cuda"]

    def on_train_start(self) -> None:
        """Log the epochs of an earlier attempt again if Lightning's logger starts a new file."""
        for logger in self.trainer.loggers:
            if isinstance(logger, CSVLogger):
                for row in self.history:
                    logger.log_metrics(row, step=int(row["epoch"]))

    def on_train_batch_start(self, _batch: AudioBatch, _number: int) -> None:
        """Restore the random state of a resumed training, so that dropout continues as before."""
        if self._random is None:
            return
        on_cpu, on_gpu = self._random
        torch.set_rng_state(on_cpu)
        if on_gpu is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(on_gpu, self.device)
        self._random = None

    def _own_state(self) -> dict[str, Any]:
        """Return the state of this process alone: losses, unreadable recordings and random states."""
        on_gpu = self.device.type == "cuda"
        return {
            "epoch_loss": _floats(self.epoch_loss),
            "recent_loss": _floats(self.recent_loss),
            "unusable": self.unusable,
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.device) if on_gpu else None,
        }

    def configure_optimizers(self) -> Any:
        """Return the optimiser and its learning-rate schedule, which advances with every step."""
        settings = self.settings
        groups = [group for group in self._parameter_groups() if group["params"]]
        decay = {"weight_decay": settings.weight_decay}
        if settings.optimizer == "sgd":
            optimizer: Any = torch.optim.SGD(groups, momentum=settings.momentum, **decay)
        else:
            optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer](groups, **decay)
        num_steps = int(self.trainer.estimated_stepping_batches)
        if settings.schedule == "constant":
            return optimizer
        if settings.schedule == "onecycle":
            peaks = [settings.max_lr * group["lr"] / settings.lr for group in groups]
            schedule: Any = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=num_steps)
        else:
            rise = int(settings.warmup * num_steps)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cosine(step, rise, num_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _parameter_groups(self) -> list[dict[str, Any]]:
        settings, network = self.settings, self.network
        below = {id(parameter) for parameter in network.backbone.parameters()}
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        return [
            {"params": [item for item in trained if id(item) in below], "lr": settings.backbone_lr or settings.lr},
            {"params": [item for item in trained if id(item) not in below], "lr": settings.lr},
        ]


def _of_all_processes(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the states of all processes by rank; with several processes this is a collective operation."""
    if not torch.distributed.is_initialized():
        return [state]
    states: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(states, state)
    return states


def _floats(losses: list[torch.Tensor]) -> list[float]:
    return [float(loss) for loss in losses]


def _cosine(step: int, rise: int, num_steps: int) -> float:
    """Return the learning-rate factor: a linear rise from 0 to 1, then half a cosine back to 0."""
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, num_steps - rise))))
