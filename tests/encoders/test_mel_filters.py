"""Mel filters and decibels are librosa's to the last bit, and what uses them does not load librosa."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import librosa
import numpy as np
import pytest

from voxshard.encoders.mel_filters import decibels, mel_filters


@pytest.mark.parametrize("sizes", [(16000, 2048, 128, 0, None), (8000, 256, 40, 20, 3800), (44100, 1024, 128, 0, None)])
@pytest.mark.parametrize("slaney", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mel_filters_are_librosas(sizes: tuple[Any, ...], slaney: bool, dtype: Any) -> None:
    rate, n_fft, n_mels, fmin, fmax = sizes
    expected = librosa.filters.mel(
        sr=rate, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax, htk=not slaney, norm="slaney" if slaney else None,
        dtype=dtype,
    )  # fmt: skip
    found = mel_filters(*sizes, slaney=slaney, dtype=dtype)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_decibels_are_librosas() -> None:
    rng = np.random.default_rng(0)
    power = (rng.random((40, 30)) * 10 ** rng.uniform(-12, 2, (40, 30))).astype(np.float32)
    np.testing.assert_array_equal(decibels(power), librosa.power_to_db(power))


@pytest.mark.parametrize("encoder", ["mfcc", "logmel", "lfcc"])
def test_encoders_without_weights_start_without_a_compiler(encoder: str) -> None:
    """numba compiles librosa for many seconds in each fresh environment or image."""
    program = (
        "import sys, numpy, voxshard\n"
        f"voxshard.load_encoder('{encoder}').embed(numpy.ones(16000, numpy.float32), sample_rate=16000)\n"
        "print(sorted({'librosa', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
