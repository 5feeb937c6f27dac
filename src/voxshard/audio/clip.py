"""From a recording to the clip an encoder sees: silence trimmed, then cropped, then filled up."""

from __future__ import annotations

import hashlib
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt


class ClipPolicy(Protocol):
    """Settings that select and pad the clip of a recording; every encoder has them."""

    @property
    def max_seconds(self) -> float | None:
        """Maximum length of a clip in seconds; longer recordings are cropped. None: no limit."""

    @property
    def crop(self) -> Literal["head", "centre", "random"]:
        """Which part of a longer recording is kept."""

    @property
    def pad(self) -> Literal["none", "zero", "repeat"]:
        """How a shorter clip is padded to `min_seconds`, or to `max_seconds` if `min_seconds` is not set."""

    @property
    def trim(self) -> bool:
        """Whether silence at both ends is removed first."""

    @property
    def min_seconds(self) -> float | None:
        """Minimum length of a clip in seconds; shorter clips are padded to it. None: no minimum."""

    @property
    def accept_truncated(self) -> bool:
        """Whether what a truncated recording still contains is decoded."""

    @property
    def seed(self) -> int:
        """Seed of random crops."""


def fit(
    waveform: npt.NDArray[np.float32], *, sample_rate: int, clip: ClipPolicy, utterance_id: str
) -> npt.NDArray[np.float32]:
    """Trim, crop and pad a recording, in this order.

    Parameters
    ----------
    waveform : float32 (S,).
    utterance_id : with `clip.seed`, decides where a random crop begins: the same in every process and on every machine.

    Returns
    -------
    float32 (S',): S' = max_seconds * sample_rate where it was cropped, min_seconds (else max_seconds) * sample_rate
    where it was padded. Trimming is `librosa.effects.trim` with its defaults: what is 60 dB below the loudest frame is
    silence.
    """
    if clip.trim:
        from librosa.effects import trim

        waveform = trim(waveform)[0]
    if clip.max_seconds is not None:
        wanted = max(1, round(clip.max_seconds * sample_rate))
        spare = len(waveform) - wanted
        if spare > 0:
            first = first_of_crop(spare, clip, utterance_id)
            return waveform[first : first + wanted]
    shortest_s = clip.min_seconds if clip.min_seconds is not None else clip.max_seconds
    missing = 0 if shortest_s is None else max(1, round(shortest_s * sample_rate)) - len(waveform)
    if missing <= 0 or clip.pad == "none":
        return waveform
    if clip.pad == "repeat":
        return np.resize(waveform, len(waveform) + missing)
    return np.pad(waveform, (0, missing))


def first_of_crop(spare: int, clip: ClipPolicy, utterance_id: str) -> int:
    """Return the first sample of a crop that leaves out `spare` samples."""
    return {"head": 0, "centre": spare // 2, "random": _draw(clip.seed, utterance_id, spare + 1)}[clip.crop]


def _draw(seed: int, utterance_id: str, num_choices: int) -> int:
    digest = hashlib.sha256(f"{seed}:{utterance_id}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % num_choices
