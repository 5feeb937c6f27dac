"""Every encoder without weights, as utterance statistics and as frames, holds to the interface."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from voxshard.encoders import registry
from voxshard.encoders.base import Encoder
from voxshard.testing import EncoderConformance


@pytest.mark.parametrize(
    ("name", "values", "dim"),
    [
        pytest.param("mfcc", {}, 120, id="mfcc"),
        pytest.param("mfcc", {"pooling": "none"}, 60, id="mfcc-frames"),
        pytest.param("mfcc", {"delta": "librosa", "pooling": "max"}, 60, id="mfcc-librosa-max"),
        pytest.param("logmel", {}, 128, id="logmel-frames"),
        pytest.param("logmel", {"pooling": "mean+std"}, 256, id="logmel"),
        pytest.param("cqt", {}, 84, id="cqt-frames"),
        pytest.param("cqt", {"pooling": "mean+std", "decibels": True}, 168, id="cqt"),
        pytest.param("lfcc", {}, 120, id="lfcc"),
        pytest.param("lfcc", {"pooling": "none", "log_lf": True}, 60, id="lfcc-frames"),
    ],
)
class TestAcoustic(EncoderConformance):
    @pytest.fixture
    def encoder(self, name: str, values: dict[str, Any]) -> Encoder:
        encoder = registry.create(name, values)
        encoder.load("cpu")
        return encoder

    @pytest.fixture(autouse=True)
    def _uses(self, dim: int) -> None:
        """Every inherited test runs for every row of the table."""

    def test_the_dimension_is_the_one_expected(self, encoder: Encoder, dim: int) -> None:
        assert encoder.info.dim == dim

    def test_loud_and_quiet_clips_do_not_meet(self, encoder: Encoder) -> None:
        """The floor of 80 dB below the loudest is that of each clip."""
        rng = np.random.default_rng(0)
        quiet = (1e-6 * rng.standard_normal(8000)).astype(np.float32)
        loud = rng.standard_normal(8000).astype(np.float32)
        alone = encoder.prepare(quiet)
        encoder.prepare(loud)
        np.testing.assert_array_equal(encoder.prepare(quiet), alone)
