"""What an adapter defines: the input of a kind of model, how its utterances share a batch, and what one batch gives.

Suffixes: B rows of a batch (utterances; for windows, those of all utterances), T frames, D hidden size, K codebooks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from voxshard.encoders import hf
from voxshard.encoders.base import BatchPolicy, Features, Waveform
from voxshard.encoders.hf import HfSettings
from voxshard.encoders.pooling import Pooling
from voxshard.errors import ConfigError


@dataclass
class Hidden:
    """Output of one batch."""

    layers: list[torch.Tensor]
    """Output of every requested layer, float (B, T, D), in the requested order."""
    valid_BT: torch.Tensor
    """bool: which frames belong to their utterance and are pooled."""
    codes_BTK: torch.Tensor | None = None


class Family(ABC):
    """One kind of model. Constructing it reads configuration only."""

    batch_policy: ClassVar[BatchPolicy]
    default_pooling: ClassVar[Pooling] = "mean"
    gives_codes: ClassVar[bool] = False
    counts_valid_frames: ClassVar[bool] = True
    """The frames of an utterance are those that are valid; False: `num_frames` of them."""
    note: str | None = None
    """Information on this model for the user, for the log."""

    sample_rate: int
    dim: int
    layers: tuple[int, ...] = (0,)
    """Numbers of the layers asked for; (0,) for a model with one output."""
    preparer: Callable[[Waveform], Features] | None = None
    min_samples: int = 1
    chunk_samples: int | None = None
    frame_rate_hz: float | None = None
    window_s: float | None = None
    """Length of the windows where each gives one row; None where the rows are frames."""

    def __init__(self, folder: Path, config: Any, preprocessor: Mapping[str, Any], settings: HfSettings) -> None:
        self.folder, self.config, self.settings = folder, config, settings
        self.sample_rate = int(preprocessor.get("sampling_rate", 16000))

    @abstractmethod
    def build(self) -> torch.nn.Module:
        """Load the model, on the CPU."""

    @abstractmethod
    def run(
        self, features: torch.Tensor, lengths_B: npt.NDArray[np.int64], lengths_on_device_B: torch.Tensor
    ) -> Hidden:
        """Compute one batch on the device; `lengths_B` as `Encoder.encode` takes them."""

    def num_frames(self, length: int) -> int:
        """Return the number of frames of an utterance whose features have this length."""
        return length

    def cost(self, length: int) -> float:
        """Seconds of audio, as `Encoder.cost`."""
        return length / self.sample_rate

    def only_last_layer(self) -> None:
        """Check that the settings request no hidden layer of a model whose only output is its last.

        Raises
        ------
        ConfigError : another layer, or a list.
        """
        if self.settings.layer != "last":
            raise ConfigError(
                f"layer={self.settings.layer}: a {self.config.model_type} model ({self.folder}) gives one output; omit"
                " `layer`"
            )

    def check_extractor(self, preprocessor: Mapping[str, Any], expected: str) -> None:
        """Check the kind of features that the model's preprocessor_config.json names.

        Raises
        ------
        ConfigError : another kind.
        """
        kind = preprocessor.get("feature_extractor_type", expected)
        if kind != expected:
            raise ConfigError(
                f"{self.folder / hf.PREPROCESSOR}: feature_extractor_type {kind}; models of type"
                f" {self.config.model_type} take {expected}"
            )
