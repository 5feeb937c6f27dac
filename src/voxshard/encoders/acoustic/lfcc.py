"""The `lfcc` encoder: linear-frequency cepstral coefficients, by torchaudio's formula, without torch.

Suffixes: K frequency bins, M filters, C coefficients, T frames.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from voxshard.encoders.acoustic.base import AcousticEncoder, AcousticPreparer, AcousticSettings, Block
from voxshard.encoders.acoustic.spectra import hann, power_spectrogram
from voxshard.encoders.base import Waveform

_AMIN = 1e-10  # torchaudio.transforms.AmplitudeToDB("power")
_TOP_DB = 80.0  # torchaudio.transforms.LFCC.top_db
_LOG_OFFSET = 1e-6  # torchaudio.transforms.LFCC with log_lf


class LfccSettings(AcousticSettings):
    """Settings of `lfcc`.

    Formula and names are those of `torchaudio.transforms.LFCC`; the defaults are the sizes of the LFCC baseline of
    ASVspoof 2019 (`extract_lfcc.m`: windows of 20 ms, half overlapping, 512 points, 20 filters up to half the sample
    rate, 20 coefficients, deltas over 3 frames and theirs). The LFCC-LCNN baseline of ASVspoof 2021 takes
    `n_fft=1024 f_max=4000`, the LFCC-GMM one for LA `win_length=480 hop_length=240 n_fft=1024 n_filter=70 f_max=4000`.
    """

    hop_length: int = Field(160, ge=1)
    """Number of samples from one frame to the next."""
    win_length: int = Field(320, ge=2)
    """Number of samples in a window (Hann)."""
    n_fft: int = Field(512, ge=16)
    """Number of points of the transform; the window is in the middle of them."""
    n_filter: int = Field(20, ge=1)
    """Number of triangular filters, evenly spaced from `f_min` to `f_max`."""
    n_lfcc: int = Field(20, ge=1)
    """Number of cepstral coefficients."""
    f_min: float = Field(0.0, ge=0)
    """Lowest frequency in Hz."""
    f_max: float | None = None
    """Highest frequency in Hz; null: half the sample rate."""
    log_lf: bool = False
    """Natural logarithm in place of decibels that end 80 below the clip's loudest."""
    deltas: Literal[0, 1, 2] = 2
    """0: the coefficients alone; 1: with their deltas; 2: with the deltas of the deltas too."""
    delta_width: int = Field(3, ge=3)
    """Number of frames of a delta (`torchaudio.functional.compute_deltas`); odd."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> LfccSettings:
        highest = self.sample_rate // 2 if self.f_max is None else self.f_max
        if not self.f_min < highest <= self.sample_rate // 2:
            raise ValueError(
                f"f_min < f_max <= sample_rate / 2 is wanted, found f_min={self.f_min:g}, f_max={highest:g}, "
                f"sample_rate={self.sample_rate}"
            )
        if self.win_length > self.n_fft:
            raise ValueError(f"a window of win_length={self.win_length} does not fit into n_fft={self.n_fft}")
        if self.n_lfcc > self.n_filter:
            raise ValueError(f"n_lfcc={self.n_lfcc} coefficients cannot come from n_filter={self.n_filter} filters")
        if self.delta_width % 2 == 0:
            raise ValueError(f"delta_width={self.delta_width} is even; an odd number of frames is wanted")
        return self


@functools.cache
def linear_filters(
    sample_rate: int, n_fft: int, n_filter: int, f_min: float, f_max: float | None
) -> npt.NDArray[np.float32]:
    """Return triangles of height 1 that overlap by half, float32 (M, K): `linear_fbanks` of torchaudio, transposed."""
    highest = float(sample_rate // 2) if f_max is None else f_max
    bins_K = np.linspace(0, sample_rate // 2, n_fft // 2 + 1)
    corners = np.linspace(f_min, highest, n_filter + 2)
    width = corners[1] - corners[0]
    rising_MK = (bins_K[None, :] - corners[:-2, None]) / width
    falling_MK = (corners[2:, None] - bins_K[None, :]) / width
    return np.asarray(np.maximum(0, np.minimum(rising_MK, falling_MK)), np.float32)


def deltas_of(block: Block, width: int) -> Block:
    """Slope of a line through `width` frames, (C, T), the first and the last frame repeated beyond the ends."""
    reach = width // 2
    weights = np.arange(-reach, reach + 1)
    padded = np.pad(block, ((0, 0), (reach, reach)), mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, width, axis=1)
    return np.asarray(around @ (weights / np.sum(weights**2)).astype(np.float32))


class LfccPreparer(AcousticPreparer):
    """Computes LFCCs and their deltas."""

    settings: LfccSettings

    def blocks(self, waveform: Waveform) -> Sequence[Block]:
        from scipy.fft import dct

        settings = self.settings
        power_KT = power_spectrogram(
            waveform, hann(settings.win_length, settings.n_fft), hop_length=settings.hop_length, padding="reflect"
        )
        filters_MK = linear_filters(
            settings.sample_rate, settings.n_fft, settings.n_filter, settings.f_min, settings.f_max
        )
        bands_MT = filters_MK @ power_KT
        if settings.log_lf:
            levels_MT = np.log(bands_MT + np.float32(_LOG_OFFSET))
        else:
            levels_MT = 10 * np.log10(np.maximum(bands_MT, np.float32(_AMIN)))
            levels_MT = np.maximum(levels_MT, levels_MT.max() - np.float32(_TOP_DB))
        blocks = [dct(levels_MT, type=2, norm="ortho", axis=0)[: settings.n_lfcc]]
        for _ in range(settings.deltas):
            blocks.append(deltas_of(blocks[-1], settings.delta_width))
        return blocks


class LfccEncoder(AcousticEncoder):
    """Linear-frequency cepstral coefficients with deltas."""

    settings_model = LfccSettings
    preparer_class = LfccPreparer
    libraries = ("scipy", "soxr")

    def num_features(self, settings: LfccSettings) -> int:
        return settings.n_lfcc * (1 + settings.deltas)

    def min_samples(self, settings: LfccSettings) -> int:
        return settings.n_fft // 2 + 1  # reflection at the ends needs as much
