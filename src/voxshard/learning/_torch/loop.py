"""Running Lightning: devices, precision, where a training continues, and how it is stopped.

RUN.training/ has:

    state.safetensors    everything that a training needs to continue, written after every epoch and every few steps
    best.safetensors     the weights that early stopping would keep
    config.yaml          what is being trained; another config starts again
    training.csv         the epochs so far
"""

from __future__ import annotations

import csv
import io
import logging
import math
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from safetensors.torch import load_file, save
from torch.utils.data import DataLoader

from voxshard import files
from voxshard.encoders._torch.device import memory_errors
from voxshard.encoders._torch.precision import stable_attention, tensor_cores
from voxshard.errors import DeviceMemoryError
from voxshard.learning._torch.data import EpisodeOrder, ResumableBatchSampler
from voxshard.learning._torch.module import TrainedNetwork
from voxshard.learning._torch.processes import accelerator_of, environment_of
from voxshard.learning._torch.states import SafetensorsIO
from voxshard.learning.network_config import EarlyStopping, NetworkConfig
from voxshard.networks.network_files import contiguous
from voxshard.progress import Progress, Silent

_PRECISIONS = {"float32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
_LOWER_IS_BETTER = ("loss", "eer", "eer_tie_aware", "min_dcf", "act_dcf", "cllr")
_STOPPING = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)


class CheckpointCallback(Checkpoint):  # type: ignore[misc]  # lightning is Any where it is not installed
    """Saves the state and the best weights, and stops the training early or on request.

    It runs after everything else that happens at the end of a step or of an epoch.
    """

    def __init__(
        self,
        folder: Path,
        order: ResumableBatchSampler | EpisodeOrder,
        config: NetworkConfig,
        stop: threading.Event,
        progress: Progress,
    ) -> None:
        self.folder, self.order, self.stop, self.progress = folder, order, stop, progress
        self.seed, self.every_steps = config.seed, config.training.checkpoint_steps
        self.early = config.training.early_stopping
        self.done = (0, 0)
        """Epoch, and how many of its batches are done."""
        self.best: float | None = None
        self.epochs_without = 0
        self.stopped = False
        """A stop was requested; the state is saved."""
        self._handlers: dict[signal.Signals, Any] = {}

    @property
    def state(self) -> Path:
        return self.folder / "state.safetensors"

    def state_dict(self) -> dict[str, Any]:
        """Return the counters that are part of the saved state."""
        return {"done": self.done, "best": self.best, "epochs_without": self.epochs_without}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counters."""
        self.done, self.best = tuple(state_dict["done"]), state_dict["best"]
        self.epochs_without = state_dict["epochs_without"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: TrainedNetwork) -> None:
        """Set the sampler's start position, and this process's share of every batch."""
        self.order.rank, self.order.world = trainer.global_rank, trainer.world_size
        self.order.position = lambda: self._position(trainer.current_epoch)
        if (
            trainer.global_rank
        ):  # dropout of its own; the first process keeps its state in checkpoints, and reports progress
            torch.manual_seed(self.seed + trainer.global_rank)
            self.progress = Silent()

    def on_train_start(self, trainer: pl.Trainer, pl_module: TrainedNetwork) -> None:
        """Restore our signal handlers, which set a flag, in place of Lightning's, which exit with code 0 on SIGTERM.
        Also count the batches of an earlier attempt as done."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        trainer.should_stop = self._patience_exhausted()  # and was killed before the run was published
        self.progress.advance(self.done[0] * trainer.num_training_batches + self.done[1])

    def _position(self, epoch: int) -> tuple[int, int]:
        """Return the epoch and the batch at which to continue."""
        return epoch, self.done[1] if self.done[0] == epoch else 0

    def save_signal_handlers(self) -> None:
        """Save the current signal handlers; only the main thread has any."""
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.getsignal(number) for number in _STOPPING}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: TrainedNetwork, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save every `checkpoint_steps` steps and on a stop request, but never between accumulated steps."""
        self.progress.advance()
        self.done = (trainer.current_epoch, batch_idx + 1)
        is_last = batch_idx + 1 >= trainer.num_training_batches
        if is_last or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # the end of the epoch saves in a moment
        asked = self._is_asked_to_stop(trainer)
        if asked or trainer.global_step % self.every_steps == 0:
            self._save(trainer)
        if asked:
            self.stopped = trainer.should_stop = pl_module.interrupted = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: TrainedNetwork) -> None:
        """Check for early stopping and save the state."""
        if pl_module.interrupted:
            return
        self.done = (trainer.current_epoch + 1, 0)
        if self.early is not None:
            self._judge(trainer, pl_module, self.early)
        self._save(trainer)
        if trainer.is_global_zero:
            files.publish_bytes(self.folder / "training.csv", _csv(pl_module.history))
        self.progress.note(_sentence(pl_module.history[-1]))
        if self._is_asked_to_stop(trainer):
            self.stopped = trainer.should_stop = True

    def _judge(self, trainer: pl.Trainer, pl_module: TrainedNetwork, early: EarlyStopping) -> None:
        value = pl_module.history[-1].get(f"validation_{early.metric}", math.nan)
        value = trainer.strategy.broadcast(value)  # statistics of batches, and so metrics, may differ between processes
        sign = -1.0 if early.metric in _LOWER_IS_BETTER else 1.0
        if math.isfinite(value) and (self.best is None or sign * value > sign * self.best):
            self.best, self.epochs_without = value, 0
            if trainer.is_global_zero:
                weights = save(contiguous(pl_module.network.state_dict()))
                files.publish_bytes(self.folder / "best.safetensors", weights)
        else:
            self.epochs_without += 1
        trainer.should_stop = trainer.should_stop or self._patience_exhausted()

    def _patience_exhausted(self) -> bool:
        return self.early is not None and self.epochs_without >= self.early.patience

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.state)

    def _is_asked_to_stop(self, trainer: pl.Trainer) -> bool:
        """Whether any of the processes received a stop request."""
        return bool(trainer.strategy.reduce_boolean_decision(self.stop.is_set(), all=False))


def fit(
    module: TrainedNetwork,
    batches: DataLoader[Any],
    keeper: CheckpointCallback,
    config: NetworkConfig,
    loggers: Sequence[Logger],
    *,
    what: str,
) -> pl.Trainer:
    """Train a network; continues from a saved state if there is one.

    Parameters
    ----------
    batches : over `keeper.order`, which learns here where to start.
    what : names the training for whoever watches.

    Returns
    -------
    The trainer; `keeper.stopped` is true if it was stopped before its end.
    """
    training = config.training
    keeper.save_signal_handlers()
    keeper.progress.begin(what, items=len(batches) * training.epochs)
    place = accelerator_of(config)
    with _quiet():
        trainer = pl.Trainer(
            **place,
            strategy=_strategy(config),
            precision=_PRECISIONS[config.precision],
            max_epochs=training.epochs,
            accumulate_grad_batches=training.accumulate,
            gradient_clip_val=training.clip_norm,
            callbacks=[keeper],
            plugins=[SafetensorsIO(), *environment_of(config.devices)],
            logger=loggers or False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            benchmark=False,  # else cuDNN times its algorithms for every new shape, and takes now one, now the other
            sync_batchnorm=config.devices > 1 and place["accelerator"] == "gpu",
        )
        device = trainer.strategy.root_device
        resumed = keeper.state.exists()
        if resumed:
            keeper.progress.note(f"continuing the training in {keeper.folder}")
        try:
            with memory_errors(device), tensor_cores("float32"), stable_attention():
                trainer.fit(module, batches, ckpt_path=keeper.state if resumed else None)
        except DeviceMemoryError as exc:
            raise DeviceMemoryError(
                f"{exc}; give a smaller training.batch_size, with training.accumulate to make up for it, or a smaller "
                "clip.max_seconds"
            ) from exc
        except SIGTERMException:  # TERM came in the moment before our handlers were back; they have seen it too
            keeper.stopped = True
    module.network.to(device)  # Lightning's teardown moves it to the CPU; it is scored next
    best = keeper.folder / "best.safetensors"
    if keeper.early is not None and not keeper.stopped and best.exists():
        files.check_readable(best)
        module.network.load_state_dict(load_file(best), strict=True)
    return trainer


def _strategy(config: NetworkConfig) -> str:
    if config.devices == 1:
        return "auto"
    # A model of transformers has parameters that what is pooled does not depend on: its mask, a norm above the layer.
    return "ddp_find_unused_parameters_true" if config.network == "wav2vec2" else "ddp"


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Lightning's greetings and advice, but not its errors."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _csv(history: list[dict[str, float]]) -> bytes:
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in history for name in row))
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([row.get(name, "") for name in names] for row in history)
    return text.getvalue().encode()


def _sentence(row: dict[str, float]) -> str:
    found = ", ".join(
        f"{name.removeprefix('validation_')} {value:.4f}" for name, value in row.items() if name.startswith("valid")
    )
    return f"epoch {row['epoch']:.0f}: loss {row['train_loss']:.4f}" + (f"; validation: {found}" if found else "")
