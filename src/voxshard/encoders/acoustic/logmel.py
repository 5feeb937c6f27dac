"""The `logmel` encoder: librosa's mel spectrogram in decibels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from voxshard.encoders.acoustic.base import AcousticEncoder, AcousticPreparer, AcousticSettings, Block
from voxshard.encoders.acoustic.spectra import hann, mel_basis, power_spectrogram
from voxshard.encoders.base import Waveform
from voxshard.encoders.mel_filters import decibels
from voxshard.encoders.pooling import Pooling


class MelSettings(AcousticSettings):
    """The mel spectrogram under `logmel` and `mfcc`; names and defaults are librosa's."""

    n_fft: int = Field(2048, ge=16)
    """Number of samples in a window."""
    n_mels: int = Field(128, ge=1)
    """Number of mel bands."""
    fmin: float = Field(0.0, ge=0)
    """Lowest frequency in Hz."""
    fmax: float | None = None
    """Highest frequency in Hz; null: half the sample rate."""

    @model_validator(mode="after")
    def _frequencies_fit(self) -> MelSettings:
        highest = self.sample_rate / 2 if self.fmax is None else self.fmax
        if not self.fmin < highest <= self.sample_rate / 2:
            raise ValueError(
                f"fmin < fmax <= sample_rate / 2 is wanted, found fmin={self.fmin:g}, fmax={highest:g}, "
                f"sample_rate={self.sample_rate}"
            )
        return self


class LogMelSettings(MelSettings):
    """Settings of `logmel`."""

    pooling: Pooling = "none"
    """`none` keeps the frames; `mean`, `sum`, `max` and `mean+std` give one vector per utterance."""


def mel_power_spectrogram(waveform: Waveform, settings: MelSettings) -> npt.NDArray[np.float32]:
    """Return (n_mels, T), as ``librosa.feature.melspectrogram(...)`` with librosa's other defaults."""
    power = power_spectrogram(
        waveform, hann(settings.n_fft, settings.n_fft), hop_length=settings.hop_length, padding="constant"
    )
    return mel_basis(settings.sample_rate, settings.n_fft, settings.n_mels, settings.fmin, settings.fmax) @ power


def log_mel(waveform: Waveform, settings: MelSettings) -> npt.NDArray[np.float32]:
    """(n_mels, T), as ``librosa.power_to_db(librosa.feature.melspectrogram(...))`` with librosa's other defaults:
    decibels relative to 1, at most 80 below the clip's loudest."""
    return decibels(mel_power_spectrogram(waveform, settings))


class LogMelPreparer(AcousticPreparer):
    """Computes log-mel spectrograms."""

    settings: LogMelSettings

    def blocks(self, waveform: Waveform) -> Sequence[Block]:
        return [log_mel(waveform, self.settings)]


class LogMelEncoder(AcousticEncoder):
    """librosa's log-mel spectrogram."""

    settings_model = LogMelSettings
    preparer_class = LogMelPreparer

    def num_features(self, settings: LogMelSettings) -> int:
        return settings.n_mels
