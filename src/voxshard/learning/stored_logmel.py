"""Access to the recordings of a stored `logmel` set, for networks on spectrograms.

Letters: U utterances, F frames, M mel bands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxshard.audio import first_of_crop
from voxshard.config import validated
from voxshard.encoders.acoustic.logmel import LogMelSettings
from voxshard.encoders.base import ClipSettings
from voxshard.errors import FeatureMismatchError
from voxshard.manifest import Manifest, Utterance
from voxshard.store.features import FeatureSet
from voxshard.store.layout import FeatureDir, Identity

_DECIBEL_RANGE, _LOWEST_DECIBEL = 80.0, -100.0
"""How far below a clip's loudest value, and how low at all, `librosa.power_to_db` goes (its defaults)."""


@dataclass(frozen=True)
class StoredLogMel:
    """A merged `logmel` set whose row i is row i of `manifest`."""

    features: FeatureSet
    settings: LogMelSettings
    """Settings of the extraction."""

    @classmethod
    def open(cls, path: Path) -> StoredLogMel:
        """Open a merged `logmel` set.

        Raises
        ------
        FeatureMismatchError : of another encoder, or pooled.
        """
        features = FeatureSet(path)
        if features.encoder != "logmel" or features.granularity != "frames":
            raise FeatureMismatchError(
                f"{path}: {features.encoder}, {features.granularity}; networks are trained on the frames of logmel "
                "(`voxshard extract --encoder logmel`), or from audio: give the MANIFEST"
            )
        identity = FeatureDir(path).identity
        content = Identity.read(identity).provenance["settings"]
        return cls(features, validated(LogMelSettings, content, where=str(identity)))

    @property
    def manifest(self) -> Manifest:
        """Manifest of the utterances that have features."""
        return Manifest.from_table(self.features.table, root="", corpus="features")

    def network_settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Complete the given network settings by those that the stored features determine.

        Raises
        ------
        FeatureMismatchError : some state otherwise; names them all.
        """
        mine = self.settings
        facts = {
            "features": "logmel",
            "sample_rate": mine.sample_rate,
            "num_mels": mine.n_mels,
            "n_fft": mine.n_fft,
            "hop_length": mine.hop_length,
            "fmin": mine.fmin,
            "fmax": mine.fmax,
        }
        wrong = [f"{name} ({value} there, {given[name]} here)" for name, value in facts.items()
                 if name in given and given[name] != value]  # fmt: skip
        if wrong:
            raise FeatureMismatchError(
                f"{self.features.path} was extracted otherwise than this network wants its input: {'; '.join(wrong)}. "
                "Leave these settings out, or extract again with others"
            )
        return {**facts, **given}

    def frames(self, row: int, utterance: Utterance, clip: ClipSettings) -> npt.NDArray[np.float32]:
        """Return one utterance's frames (F, M), cropped or padded as its waveform would be.

        At a crop's ends the frames still show a little of what was cut off, up to half a window.
        """
        assert self.features.offsets is not None
        start, stop = (int(place) for place in self.features.offsets[row : row + 2])
        frames_FM = np.asarray(self.features.complete("frames").read(start, stop), np.float32)
        if clip.max_seconds is None:
            return frames_FM
        rate, hop = self.settings.sample_rate, self.settings.hop_length
        wanted = max(1, round(clip.max_seconds * rate))
        count = 1 + wanted // hop
        spare = self._num_samples(len(frames_FM), utterance) - wanted
        if spare > 0:
            first = round(first_of_crop(spare, clip, utterance.utterance_id) / hop)
            first = max(0, min(first, len(frames_FM) - count))
            return frames_FM[first : first + count]
        if clip.pad == "none" or len(frames_FM) >= count:
            return frames_FM
        if clip.pad == "repeat":
            return np.resize(frames_FM, (count, frames_FM.shape[1]))
        silence = max(_LOWEST_DECIBEL, float(frames_FM.max()) - _DECIBEL_RANGE)
        return np.pad(frames_FM, ((0, count - len(frames_FM)), (0, 0)), constant_values=silence)

    def _num_samples(self, num_frames: int, utterance: Utterance) -> int:
        """Return the number of samples: exact if the recording was probed, otherwise rounded to a hop."""
        hop = self.settings.hop_length
        if utterance.duration_s is not None:
            found = round(utterance.duration_s * self.settings.sample_rate)
            if 1 + found // hop == num_frames:
                return found
        return (num_frames - 1) * hop
