"""Every kind of odd recording has all the samples of the plain ones that it is made of, or its fault is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from support.odd_recordings import NAMED, RECORDINGS, RIGHT
from support.recordings import put
from voxshard import audio
from voxshard.errors import UtteranceError

COMPLETE = [name for name in RIGHT if not (RECORDINGS / name).exists()]


@pytest.mark.parametrize("name", COMPLETE)
def test_a_recording_has_all_samples_of_those_it_is_made_of(tmp_path: Path, name: str) -> None:
    content, *parts = (maker() for maker in RIGHT[name])
    path = put(tmp_path / "x", content)
    header = audio.probe(path)
    rate = header.sample_rate
    expected = [audio.read(put(tmp_path / "part", part), sample_rate=rate) for part in parts]
    found = audio.read(path, sample_rate=rate)
    assert header.num_frames == len(found)
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=0, atol=2e-7)


@pytest.mark.parametrize("name", NAMED)
def test_a_recording_that_cannot_be_trusted_is_named(tmp_path: Path, name: str) -> None:
    maker, reason = NAMED[name]
    found: list[str] = []
    try:
        audio.read(put(tmp_path / "x", maker()), sample_rate=16000, on_warning=found.append)
    except UtteranceError as exc:
        found = [str(exc)]
    assert reason in "; ".join(found)
