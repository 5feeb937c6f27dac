"""A preparer whose package is missing, has a bug, or runs out of memory, for recordings of one length."""

from __future__ import annotations

from dataclasses import dataclass

from voxshard.encoders.base import Features, Waveform


@dataclass(frozen=True)
class RaisingPreparer:
    """Travels by pickle to the decode workers."""

    error: Exception
    num_samples: int

    def __call__(self, waveform: Waveform) -> Features:
        if len(waveform) == self.num_samples:
            raise self.error
        return waveform
