"""Encoders people know by name whose packages no supported environment can install: why, and what to do instead."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from voxshard.encoders.base import Encoder, EncoderSettings, KnownHashes, Output
from voxshard.errors import BackendUnavailableError


class UnsupportedSettings(EncoderSettings):
    """Whatever was set: the answer is the same."""

    model_config = EncoderSettings.model_config | {"extra": "allow"}


class _Unsupported(Encoder):
    settings_model = UnsupportedSettings
    reason: ClassVar[str]

    def __init__(self, name: str, settings: EncoderSettings, known_hashes: KnownHashes) -> None:
        raise BackendUnavailableError(
            f"{name} cannot run here: {self.reason}. Make its vectors with its own tools, one npz per split (X, Y, IDS:"
            " a row per window; or ids, X, offsets), and bring them in with `voxshard ingest train=FILE.npz --out DIR`;"
            " see docs/encoders/tensorflow.md"
        )

    def encode(self, features: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]) -> list[Output]:
        raise AssertionError("never built")


class OpenL3Encoder(_Unsupported):
    """Audio embeddings of 512 or 6144 (openl3 0.4.2, setup.py)."""

    reason = (
        "its package (openl3 0.4.2) asks for h5py below 3, of which Python 3.11 has no build, and downloads its"
        " weights while it is being installed"
    )
