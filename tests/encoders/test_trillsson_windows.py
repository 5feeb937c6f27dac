"""TRILLsson's padding and windows, without TensorFlow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxshard.encoders.registry import settings_of
from voxshard.encoders.trillsson import LEAST_SAMPLES, WINDOW_SAMPLES, pad_to_two_seconds, window_starts
from voxshard.errors import ConfigError


@given(num_samples=st.integers(1, 40_000))
def test_short_clips_are_mirrored_at_their_end_until_they_have_two_seconds(num_samples: int) -> None:
    clip = np.arange(1, num_samples + 1, dtype=np.float32)
    padded = pad_to_two_seconds(clip)
    there_and_back = np.concatenate([clip, clip[::-1]])
    expected = np.resize(there_and_back, max(num_samples, LEAST_SAMPLES))
    expected[:num_samples] = clip
    assert padded.dtype == np.float32
    np.testing.assert_array_equal(padded, expected)


def test_clips_of_two_seconds_or_more_are_not_copied() -> None:
    clip = np.ones(LEAST_SAMPLES, np.float32)
    assert pad_to_two_seconds(clip) is clip


@pytest.mark.parametrize("frame_hop", [7, 17, 195])
@pytest.mark.parametrize("num_samples", [32_000, 32_560, 62_479, 62_640, 96_000, 160_001])
def test_windows_are_those_of_195_frames_whose_trailing_part_is_dropped(num_samples: int, frame_hop: int) -> None:
    frame_starts = list(range(0, num_samples - 400 + 1, 160))
    expected = [
        frame_starts[first]
        for first in range(0, len(frame_starts), frame_hop)
        if first + 195 <= len(frame_starts)  # a complete window of frames is left
    ]
    starts = window_starts(num_samples, frame_hop)
    assert starts.tolist() == expected
    assert starts[-1] + WINDOW_SAMPLES <= num_samples


def test_half_precision_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of("trillsson3", {"precision": "bf16"})
    assert str(caught.value) == (
        "settings of trillsson3: 1 problem\n  precision: Input should be 'float32' or 'tf32' (got 'bf16')"
    )
