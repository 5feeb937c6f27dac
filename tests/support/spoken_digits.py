"""Recordings with the names and the rate of the Free Spoken Digit Dataset."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import librosa
import numpy as np
import soundfile

from voxshard.demo.corpus import RATE, speak


def spoken_digits(folder: Path, digits: Iterable[int] = range(10), takes: Iterable[int] = range(3, 8)) -> None:
    """Write `DIGIT_SPEAKER_TAKE.wav` of three speakers; takes 0 to 4 are the published test split."""
    folder.mkdir(parents=True)
    takes = list(takes)
    for voice, speaker in enumerate(("george", "lucas", "theo")):
        for digit in digits:
            for take in takes:
                spoken = speak(digit, voice, np.random.default_rng([voice, digit, take]), natural=True)
                samples = librosa.resample(spoken, orig_sr=RATE, target_sr=8000)
                soundfile.write(folder / f"{digit}_{speaker}_{take}.wav", samples, 8000)
