"""The `mfcc` encoder: librosa's MFCC with deltas; by default the statistics of the k-NN baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from voxshard.encoders.acoustic.base import AcousticEncoder, AcousticPreparer, Block
from voxshard.encoders.acoustic.logmel import MelSettings, log_mel
from voxshard.encoders.base import Waveform


class MfccSettings(MelSettings):
    """Settings of `mfcc`.

    The defaults give the 120 numbers of the k-NN baseline in Pons et al., "Training neural audio classifiers with few
    data" (ICASSP 2019), https://github.com/jordipons/neural-classifiers-with-few-audio, `src/knn_mfcc.py`: mean and
    standard deviation of 20 MFCCs, of their differences from frame to frame, and of the differences of those, in its
    order. It works at 12 kHz; set `sample_rate=12000` for its very numbers.
    """

    n_mfcc: int = Field(20, ge=1)
    """Number of cepstral coefficients."""
    deltas: Literal[0, 1, 2] = 2
    """0: the coefficients alone; 1: with their deltas; 2: with the deltas of the deltas too."""
    delta: Literal["difference", "librosa"] = "difference"
    """`difference`: one frame minus the one before it (where frames are kept, 0 in the first); `librosa`:
    `librosa.feature.delta`, a Savitzky-Golay filter over `delta_width` frames, which a clip must have."""
    delta_width: int = Field(9, ge=3)
    """Number of frames of a delta of `delta=librosa`; odd."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> MfccSettings:
        if self.n_mfcc > self.n_mels:
            raise ValueError(f"n_mfcc={self.n_mfcc} coefficients cannot come from n_mels={self.n_mels} bands")
        if self.delta_width % 2 == 0:
            raise ValueError(f"delta_width={self.delta_width} is even; an odd number of frames is wanted")
        return self


class MfccPreparer(AcousticPreparer):
    """Computes MFCCs and their deltas."""

    settings: MfccSettings

    def blocks(self, waveform: Waveform) -> Sequence[Block]:
        from scipy.fft import dct  # not where only an encoder's settings are read

        settings = self.settings
        mfcc = dct(log_mel(waveform, settings), axis=0, norm="ortho")[: settings.n_mfcc]
        blocks = [mfcc]
        for order in range(1, settings.deltas + 1):
            if settings.delta == "librosa":
                from scipy.signal import savgol_filter

                width = settings.delta_width
                blocks.append(savgol_filter(mfcc, width, deriv=order, axis=-1, polyorder=order))
            elif settings.pooling == "none":
                blocks.append(np.diff(blocks[-1], prepend=blocks[-1][:, :1]))
            else:
                blocks.append(np.diff(blocks[-1]))
        return blocks


class MfccEncoder(AcousticEncoder):
    """librosa's MFCC with deltas."""

    settings_model = MfccSettings
    preparer_class = MfccPreparer

    def num_features(self, settings: MfccSettings) -> int:
        return settings.n_mfcc * (1 + settings.deltas)

    def min_samples(self, settings: MfccSettings) -> int:
        if settings.deltas and settings.delta == "librosa":
            return (settings.delta_width - 1) * settings.hop_length
        if settings.deltas and settings.pooling != "none":
            return settings.deltas * settings.hop_length
        return 1
