"""The `mfcc` encoder with a sleep and a log, for tests that disturb an extraction and count what was done twice.

They come from the environment, so that they change neither settings nor fingerprint: SLOW_MFCC_S seconds per
utterance, until a file SLOW_MFCC_UNTIL is there.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from voxshard.encoders.acoustic.mfcc import MfccEncoder, MfccPreparer
from voxshard.encoders.base import Features, Waveform

WARM_UP_SAMPLES = 16000
"""A worker prepares a second of noise before the first recording; no recording of the test corpus is that long."""
_BALLAST: list[bytes] = []
"""Memory that a hungry worker holds on to."""


class SlowMfccPreparer(MfccPreparer):
    """Tells every utterance it prepares: its number of samples and a few of them, which name it."""

    def __call__(self, waveform: Waveform) -> Features:
        if not Path(os.environ.get("SLOW_MFCC_UNTIL", "/nowhere")).exists():
            time.sleep(float(os.environ.get("SLOW_MFCC_S", "0")))
        hungry = os.environ.get("SLOW_MFCC_EATS_MB")
        if hungry and not _BALLAST:
            _BALLAST.append(b"x" * (int(hungry) << 20))
        log = os.environ.get("SLOW_MFCC_LOG")
        if log and len(waveform) != WARM_UP_SAMPLES:
            line = f"{len(waveform)}:{waveform[:64].sum():.6f} {os.environ.get('SLURM_ARRAY_TASK_ID')}\n"
            with open(log, "a") as stream:
                stream.write(line)
        return super().__call__(waveform)


class SlowMfccEncoder(MfccEncoder):
    """MFCCs, slowly."""

    preparer_class = SlowMfccPreparer
