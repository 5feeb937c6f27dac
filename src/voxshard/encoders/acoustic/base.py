"""What the encoders without weights share: settings, statistics over frames, and handing on what `prepare` made.

Suffixes: T frames, D features per frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field

from voxshard.encoders.base import Encoder, EncoderSettings, Features, KnownHashes, Output, Waveform, describe
from voxshard.encoders.pooling import Pooling, pooled_size

Block: TypeAlias = npt.NDArray[np.float32]
"""(D, T): features of one kind, as librosa lays them out."""

_STATISTICS: dict[str, Callable[..., Any]] = {"mean": np.mean, "std": np.std, "sum": np.sum, "max": np.max}


class AcousticSettings(EncoderSettings):
    """Settings of every encoder without weights."""

    sample_rate: int = Field(16000, ge=1000)
    """Sample rate in Hz to which recordings are resampled."""
    hop_length: int = Field(512, ge=1)
    """Number of samples from one frame to the next."""
    pooling: Pooling = "mean+std"
    """What becomes of the frames: `none` keeps them; else statistics over them, one vector per utterance, for each
    kind of feature (static, delta, delta-delta) its means, then its standard deviations."""
    precision: Literal["float32"] = "float32"
    """There is no model that could compute in another one."""


@dataclass(frozen=True)
class AcousticPreparer:
    """Preparer that computes features of one clip in the decode workers. Subclasses define `blocks`."""

    settings: Any

    def __call__(self, waveform: Waveform) -> Features:
        """Return float32 (D,) statistics, or (T, D) frames."""
        blocks = self.blocks(waveform)
        if self.settings.pooling == "none":
            return np.ascontiguousarray(np.concatenate(blocks).T, dtype=np.float32)
        return np.concatenate([_statistics(block, self.settings.pooling) for block in blocks])

    def blocks(self, waveform: Waveform) -> Sequence[Block]:
        """Return the features of a clip, one block per kind."""
        raise NotImplementedError


def _statistics(block: Block, pooling: Pooling) -> npt.NDArray[np.float32]:
    """Return float32 (D,), or (2 D,): means, then standard deviations."""
    parts = [_STATISTICS[name](block, axis=1) for name in pooling.split("+")]
    return np.concatenate(parts, dtype=np.float32)


class AcousticEncoder(Encoder):
    """All the work is in `prepare`. Subclasses define how many features a frame has and how short a clip may be."""

    preparer_class: ClassVar[type[AcousticPreparer]]
    code_version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("librosa", "soxr")

    def __init__(self, name: str, settings: AcousticSettings, known_hashes: KnownHashes) -> None:
        self.preparer = self.preparer_class(settings)
        keeps_frames = settings.pooling == "none"
        self._output = "frames" if keeps_frames else "embedding"
        self.info = describe(
            name=name,
            settings=settings,
            code_version=self.code_version,
            libraries=self.libraries,
            sample_rate=settings.sample_rate,
            dim=pooled_size(self.num_features(settings), settings.pooling),
            granularity="frames" if keeps_frames else "utterance",
            batch_policy="single",
            encodes_in_prepare=True,
            min_samples=self.min_samples(settings),
            frame_rate_hz=settings.sample_rate / settings.hop_length if keeps_frames else None,
        )

    def num_features(self, settings: Any) -> int:
        """Return the number of features per frame, all kinds together."""
        raise NotImplementedError

    def min_samples(self, settings: Any) -> int:
        """Return the minimum number of samples of a clip."""
        return 1

    def encode(self, features: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> list[Output]:
        """Return what `prepare` computed."""
        return [{self._output: row[:length]} for row, length in zip(features, lengths, strict=True)]
