"""Augmentation of single recordings, reproducible: all chance comes from one seed per recording and epoch.

Most effects are audiomentations' own; what they draw, and what strengths mean, is decided here. Suffixes: S samples,
F frames, M features per frame, C outputs.
"""

from __future__ import annotations

import functools
import math
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import audiomentations
import numpy as np
import numpy.typing as npt
import soxr

from voxshard import audio
from voxshard.corpora.base import AUDIO_EXTENSIONS, extension_of
from voxshard.encoders.base import Waveform
from voxshard.errors import ConfigError, UtteranceError
from voxshard.learning.network_config import AugmentSettings, Effect
from voxshard.locations import local_copy

Array: TypeAlias = npt.NDArray[np.float32]
Partner: TypeAlias = Callable[[np.random.Generator], tuple[Waveform, Array] | None]
"""Draws another recording for mixup: its waveform and its targets (C,)."""

_SPREAD_DB = 20.0
"""White noise is drawn from its strength down to so much below it."""


@dataclass(frozen=True)
class Augmenter:
    """The effects that are switched on, in the order of `AugmentSettings`."""

    settings: AugmentSettings
    sample_rate: int

    def waveform(
        self, waveform: Waveform, target_C: Array, partner: Partner, generator: np.random.Generator
    ) -> tuple[Waveform, Array]:
        """Apply the effects on waveforms.

        Parameters
        ----------
        waveform : float32 (S,).
        target_C : its labels; mixup mixes them too.
        generator : the source of all chance.

        Returns
        -------
        A waveform, of another length where speed, stretch or trim are on, and its labels.
        """
        settings = self.settings
        for name in settings.on_waveform:
            effect = getattr(settings, name)
            if generator.random() >= effect.probability:
                continue
            if name == "mixup":
                waveform, target_C = _mixed(waveform, target_C, partner, effect.strength, generator)
            elif name == "background":
                waveform = self._with_background(waveform, effect.strength, generator)
            elif name == "speed":
                waveform = play(waveform, 1 + generator.uniform(-effect.strength, effect.strength))
            else:
                transform = self._transform(name, effect)
                with seeded(int(generator.integers(2**32))):
                    waveform = np.asarray(transform(waveform, self.sample_rate), np.float32)
        return waveform, target_C

    def _transform(self, name: str, effect: Effect) -> Callable[[Waveform, int], Waveform]:
        strength = effect.strength
        loudest_db = -20 * math.log10(strength) if strength else 0.0  # SNR of noise of this relative rms
        make: dict[str, Callable[[], Callable[[Waveform, int], Waveform]]] = {
            "trim": lambda: audiomentations.Trim(top_db=loudest_db, p=1.0),
            "time_shift": lambda: audiomentations.Shift(-strength, strength, "seconds", fade_duration=0.0, p=1.0),
            "pitch": lambda: audiomentations.PitchShift(-strength, strength, "librosa_phase_vocoder", p=1.0),
            "stretch": lambda: audiomentations.TimeStretch(
                1 / (1 + strength), 1 / (1 - strength), False, "librosa_phase_vocoder", p=1.0
            ),
            "gain": lambda: audiomentations.Gain(-strength, strength, p=1.0),
            "noise": lambda: audiomentations.AddGaussianSNR(loudest_db, loudest_db + _SPREAD_DB, p=1.0),
            "cut_out": lambda: audiomentations.TimeMask(0.0, strength, fade_duration=0.0, p=1.0),
        }
        return make[name]()

    def _with_background(self, waveform: Waveform, strength: float, generator: np.random.Generator) -> Waveform:
        """Add a random piece of a random recording of the folder, of a random rms up to the strength."""
        assert self.settings.background.folder is not None
        paths = recordings_in(local_copy(self.settings.background.folder))
        path = paths[int(generator.integers(len(paths)))]
        try:
            noise = audio.read(path, sample_rate=self.sample_rate)
        except UtteranceError as exc:
            raise ConfigError(f"augment.background.folder: {path}: {exc}; take it out of the folder") from exc
        first = int(generator.integers(max(1, len(noise) - len(waveform) + 1)))
        piece = np.resize(noise[first : first + len(waveform)], len(waveform))
        level = np.sqrt(np.mean(np.square(piece))) + np.float32(1e-12)
        wanted = np.float32(strength * generator.random()) * np.sqrt(np.mean(np.square(waveform)))
        return np.asarray(waveform + piece * (wanted / level), np.float32)

    def spectrogram(self, features: Array, generator: np.random.Generator) -> Array:
        """Apply the effects on spectrograms: (F, M) or patches (P, F, M), of which all frames count as one sequence."""
        settings = self.settings
        if not settings.on_spectrogram:
            return features
        frames_FM = features.reshape(-1, features.shape[-1]).copy()
        mean, deviation = frames_FM.mean(), frames_FM.std()
        for effect, axis in ((settings.frequency_mask, 1), (settings.time_mask, 0)):
            if effect.is_on and generator.random() < effect.probability:
                start, stop = _span(frames_FM.shape[axis], effect.strength, generator)
                frames_FM[(slice(None), slice(start, stop)) if axis else slice(start, stop)] = mean
        effect = settings.spectrogram_noise
        if effect.is_on and generator.random() < effect.probability:
            noise = generator.standard_normal(frames_FM.shape, np.float32)
            frames_FM += np.float32(effect.strength) * deviation * noise
        return frames_FM.reshape(features.shape)


@functools.cache
def recordings_in(folder: Path) -> list[Path]:
    """Audio files below a folder, in order.

    Raises
    ------
    ConfigError : there is none.
    """
    found = sorted(path for path in folder.rglob("*") if extension_of(path.name) in AUDIO_EXTENSIONS)
    if not found:
        raise ConfigError(f"augment.background.folder {folder}: no audio files in it")
    return found


def play(waveform: Waveform, factor: float) -> Waveform:
    """A waveform played `factor` times as fast: 1 / factor of its length, its pitch `factor` times as high."""
    return np.asarray(soxr.resample(waveform, factor, 1.0, quality="HQ"), np.float32)


def _mixed(
    waveform: Waveform, target_C: Array, partner: Partner, alpha: float, generator: np.random.Generator
) -> tuple[Waveform, Array]:
    """mixup (Zhang et al., arXiv 1710.09412): the larger share stays with the recording itself."""
    drawn = generator.beta(alpha, alpha)
    share = np.float32(max(drawn, 1 - drawn))
    other = partner(generator)
    if other is None:  # the other recording cannot be read
        return waveform, target_C
    fitted = np.resize(other[0], len(waveform))  # repeated or cut to the same length
    return share * waveform + (1 - share) * fitted, share * target_C + (1 - share) * other[1]


def _span(length: int, part: float, generator: np.random.Generator) -> tuple[int, int]:
    """A random stretch of at most `part` of `length`, at least 1."""
    size = int(generator.integers(1, max(1, round(part * length)) + 1))
    start = int(generator.integers(0, length - size + 1))
    return start, start + size


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators that audiomentations draws from, and put them back as they were."""
    before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "n_fft=", UserWarning)  # of short recordings: librosa fills them up
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
