"""The `cqt` encoder: magnitudes of librosa's constant-Q transform."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from voxshard.encoders.acoustic.base import AcousticEncoder, AcousticPreparer, AcousticSettings, Block
from voxshard.encoders.base import KnownHashes, Waveform
from voxshard.encoders.pooling import Pooling
from voxshard.errors import ConfigError

_C1_HZ = 32.70319566257483  # librosa.note_to_hz("C1"), its default
_QUIETLY = threading.Lock()  # the list of warning filters belongs to the complete process


class CqtSettings(AcousticSettings):
    """Settings of `cqt`; names and defaults are librosa's."""

    pooling: Pooling = "none"
    """`none` keeps the frames; `mean`, `sum`, `max` and `mean+std` give one vector per utterance."""
    fmin: float = Field(_C1_HZ, gt=0)
    """Frequency of the lowest bin in Hz; the default is the note C1."""
    n_bins: int = Field(84, ge=1)
    """Number of bins."""
    bins_per_octave: int = Field(12, ge=1)
    """Number of bins per octave."""
    decibels: bool = False
    """Decibels below the clip's loudest, at most 80 (`librosa.amplitude_to_db` with ref=np.max), in place of
    magnitudes."""


class CqtPreparer(AcousticPreparer):
    """Computes constant-Q spectrograms."""

    settings: CqtSettings

    def blocks(self, waveform: Waveform) -> Sequence[Block]:
        import librosa

        settings = self.settings
        with _QUIETLY, warnings.catch_warnings():
            # A clip shorter than the longest filter is padded with zeros, which is right.
            warnings.filterwarnings("ignore", message="n_fft=.* is too large for input signal")
            transform = librosa.cqt(
                waveform,
                sr=settings.sample_rate,
                hop_length=settings.hop_length,
                fmin=settings.fmin,
                n_bins=settings.n_bins,
                bins_per_octave=settings.bins_per_octave,
            )
        magnitude = np.abs(transform)
        return [librosa.amplitude_to_db(magnitude, ref=np.max) if settings.decibels else magnitude]


class CqtEncoder(AcousticEncoder):
    """librosa's constant-Q transform."""

    settings_model = CqtSettings
    preparer_class = CqtPreparer

    def __init__(self, name: str, settings: CqtSettings, known_hashes: KnownHashes) -> None:
        from librosa import cqt_frequencies
        from librosa.filters import wavelet_lengths

        frequencies = cqt_frequencies(settings.n_bins, fmin=settings.fmin, bins_per_octave=settings.bins_per_octave)
        step = 2.0 ** (2 / settings.bins_per_octave)
        bandwidth = (step - 1) / (step + 1)  # relative to a bin's frequency, as librosa has it for equal steps
        _, highest = wavelet_lengths(freqs=frequencies, sr=settings.sample_rate, alpha=bandwidth)
        if highest > settings.sample_rate / 2:
            raise ConfigError(
                f"cqt: its highest bin reaches up to {highest:.0f} Hz, beyond half of sample_rate="
                f"{settings.sample_rate}; lower fmin or n_bins, or raise sample_rate"
            )
        super().__init__(name, settings, known_hashes)

    def num_features(self, settings: CqtSettings) -> int:
        return settings.n_bins
