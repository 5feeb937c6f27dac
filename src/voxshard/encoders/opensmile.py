"""The `egemaps` encoder: the extended Geneva Minimalistic Acoustic Parameter Set, computed by openSMILE.

openSMILE is audEERING's, free for research and education, not for commercial use
(https://github.com/audeering/opensmile-python, LICENSE). The parameter set: Eyben et al., IEEE Transactions on
Affective Computing 7(2), 2016.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import opensmile
from pydantic import Field

from voxshard.encoders.base import Encoder, EncoderSettings, Features, KnownHashes, Output, Waveform, describe

_CODE_VERSION = 2
_NOMINAL_RATE = 16000
_NUM_FUNCTIONALS = 88
_NUM_DESCRIPTORS = 25
_FRAME_RATE_HZ = 100.0
_LONGEST_FRAME_S = 0.06  # the pitch's; openSMILE gives NaN for anything shorter
_LARGEST = np.float32(1 - 2**-15)


class EgemapsSettings(EncoderSettings):
    """Settings of `egemaps` (openSMILE's eGeMAPSv02; licence: research and non-commercial use only)."""

    sample_rate: int | None = Field(None, ge=8000)
    """Sample rate in Hz to which recordings are resampled. Null: each keeps its own rate, as openSMILE does it."""
    pooling: Literal["functionals", "none"] = "functionals"
    """`functionals`: 88 statistics per utterance; `none`: 25 low-level descriptors per frame, 100 frames a second."""
    precision: Literal["float32"] = "float32"
    """There is no model that could compute in another one."""


@functools.cache
def _smile(pooling: str) -> Any:
    levels = opensmile.FeatureLevel
    level = levels.Functionals if pooling == "functionals" else levels.LowLevelDescriptors
    return opensmile.Smile(feature_set=opensmile.FeatureSet.eGeMAPSv02, feature_level=level)


@dataclass(frozen=True)
class EgemapsPreparer:
    """Runs openSMILE on one clip; travels to the decode workers."""

    settings: EgemapsSettings

    def __call__(self, waveform: Waveform, sample_rate: int | None = None) -> Features:
        """float32 (88,) functionals, or (T, 25) descriptors; `sample_rate` is the waveform's, if it keeps its own."""
        # openSMILE takes 16 bits, and a sample of 1.0 or more would wrap round to -1.
        clipped = np.clip(waveform, -1, _LARGEST)
        rate = self.settings.sample_rate or sample_rate or _NOMINAL_RATE
        found = _smile(self.settings.pooling).process_signal(clipped, rate).to_numpy(np.float32)
        return np.asarray(found[0] if self.settings.pooling == "functionals" else found)


class EgemapsEncoder(Encoder):
    """openSMILE's eGeMAPSv02; all the work is in `prepare`."""

    settings_model = EgemapsSettings

    def __init__(self, name: str, settings: EgemapsSettings, known_hashes: KnownHashes) -> None:
        self.preparer = EgemapsPreparer(settings)
        keeps_frames = settings.pooling == "none"
        self._output = "frames" if keeps_frames else "embedding"
        self.info = describe(
            name=name,
            settings=settings,
            code_version=_CODE_VERSION,
            libraries=("opensmile", "soxr"),
            requires=("opensmile",),
            sample_rate=settings.sample_rate or _NOMINAL_RATE,
            keeps_rate=settings.sample_rate is None,
            dim=_NUM_DESCRIPTORS if keeps_frames else _NUM_FUNCTIONALS,
            granularity="frames" if keeps_frames else "utterance",
            batch_policy="single",
            encodes_in_prepare=True,
            min_samples=int(np.ceil(_LONGEST_FRAME_S * (settings.sample_rate or _NOMINAL_RATE))),
            frame_rate_hz=_FRAME_RATE_HZ if keeps_frames else None,
        )

    def load(self, device: str) -> None:
        """Report what the licence allows; there is nothing to load."""
        logging.getLogger(__name__).warning(
            "egemaps: openSMILE's licence allows research and education, not commercial use"
        )

    def encode(self, features: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> list[Output]:
        """Return what `prepare` computed."""
        return [{self._output: row[:length]} for row, length in zip(features, lengths, strict=True)]
