"""Reproducible augmentation of single recordings: all random numbers come from one seed per recording and epoch.

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
from voxshard.learning.augment_config import AugmentSettings, Effect, MaskEffect, MixupEffect
from voxshard.locations import local_copy

Array: TypeAlias = npt.NDArray[np.float32]
Partner: TypeAlias = Callable[[np.random.Generator], tuple[Waveform, Array] | None]
"""Draws another recording for mixup: its waveform and its targets (C,)."""

_SPREAD_DB = 20.0
"""White noise is drawn from its strength down to so much below it."""


@dataclass(frozen=True)
class Augmenter:
    """Applies the effects that are switched on, in the order of `AugmentSettings`."""

    settings: AugmentSettings
    sample_rate: int
    spectrogram_std: float = 1.0
    """Value by which the network divides spectrograms; `uniform_noise` is relative to it."""

    def waveform(
        self, waveform: Waveform, target_C: Array, partner: Partner, generator: np.random.Generator
    ) -> tuple[Waveform, Array]:
        """Apply the waveform effects to a recording and its labels.

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
                waveform, target_C = _mixed(waveform, target_C, partner, effect, generator)
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
            "noise": lambda: (
                audiomentations.AddGaussianSNR(loudest_db, loudest_db + _SPREAD_DB, p=1.0)
                if self.settings.noise.relative
                else audiomentations.AddGaussianNoise(strength, strength, p=1.0)
            ),
            "cut_out": lambda: audiomentations.TimeMask(0.0, strength, fade_duration=0.0, p=1.0),
        }
        return make[name]()

    def _with_background(self, waveform: Waveform, strength: float, generator: np.random.Generator) -> Waveform:
        """Add a random piece of a random recording from the folder, with a random rms up to the strength."""
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
        """Apply the spectrogram effects to (F, M), or to patches (P, F, M), whose frames count as one sequence."""
        settings = self.settings
        if not settings.on_spectrogram:
            return features
        frames_FM = features.reshape(-1, features.shape[-1]).copy()
        mean, deviation = frames_FM.mean(), frames_FM.std()
        for name in settings.on_spectrogram:
            effect = getattr(settings, name)
            if generator.random() >= effect.probability:
                continue
            if name == "frequency_mask":
                frames_FM[:, _masked(frames_FM.shape[1], effect, generator)] = mean if effect.fill == "mean" else 0.0
            elif name == "time_mask":
                frames_FM[_masked(frames_FM.shape[0], effect, generator)] = mean if effect.fill == "mean" else 0.0
            elif name == "spectrogram_noise":
                noise = generator.standard_normal(frames_FM.shape, np.float32)
                frames_FM += np.float32(effect.strength) * deviation * noise
            elif name == "uniform_noise":
                size = np.float32(effect.strength * generator.random() * self.spectrogram_std)
                frames_FM += size * generator.random(frames_FM.shape, np.float32)
            else:
                reach = int(effect.strength)
                frames_FM = np.roll(frames_FM, int(generator.integers(-reach, reach)), axis=0)
        return frames_FM.reshape(features.shape)


@functools.cache
def recordings_in(folder: Path) -> list[Path]:
    """Return the audio files below a folder, sorted.

    Raises
    ------
    ConfigError : there is none.
    """
    found = sorted(path for path in folder.rglob("*") if extension_of(path.name) in AUDIO_EXTENSIONS)
    if not found:
        raise ConfigError(f"augment.background.folder {folder}: no audio files in it")
    return found


def play(waveform: Waveform, factor: float) -> Waveform:
    """Return a waveform played `factor` times as fast, with 1 / factor of its length and `factor` times its pitch."""
    return np.asarray(soxr.resample(waveform, factor, 1.0, quality="HQ"), np.float32)


def _mixed(
    waveform: Waveform, target_C: Array, partner: Partner, effect: MixupEffect, generator: np.random.Generator
) -> tuple[Waveform, Array]:
    """Mix a waveform and its labels with another recording by mixup (Zhang et al., arXiv 1710.09412)."""
    share = np.float32(generator.beta(effect.strength, effect.strength))
    found = partner(generator)
    if found is None:  # the other recording cannot be read
        return waveform, target_C
    other, other_target_C = found
    if effect.pad == "repeat":
        other = np.resize(other, len(waveform))
    else:
        length = max(len(waveform), len(other))
        waveform, other = (np.pad(wave, (0, length - len(wave))) for wave in (waveform, other))
    return share * waveform + (1 - share) * other, share * target_C + (1 - share) * other_target_C


def _masked(length: int, effect: MaskEffect, generator: np.random.Generator) -> slice:
    """Return a random range: 1 to strength * `length` long, or 0 to `max_width` - 1 if that is set."""
    if effect.max_width is None:
        size = int(generator.integers(1, max(1, round(effect.strength * length)) + 1))
    else:
        size = min(int(generator.integers(effect.max_width)), length)
    start = int(generator.integers(length - size + 1))
    return slice(start, start + size)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global random generators that audiomentations uses, and restore their states afterwards."""
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
