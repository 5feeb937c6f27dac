"""Settings of the augmentation of training recordings; no framework is imported here."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from voxshard.config import Settings
from voxshard.locations import Location


class Effect(Settings):
    """One augmentation. A number alone is its strength, with probability 1."""

    strength: float = Field(0.0, ge=0)
    """Strength of the effect; 0 is off."""
    probability: float = Field(1.0, ge=0, le=1)
    """Share of the recordings it is applied to, drawn again in every epoch."""

    @model_validator(mode="after")
    def _check_strength(self) -> Self:
        if "probability" in self.model_fields_set and not self._has_strength:
            raise ValueError("a probability without a strength changes nothing; give {strength: ..., probability: ...}")
        return self

    @property
    def _has_strength(self) -> bool:
        return "strength" in self.model_fields_set

    @property
    def is_on(self) -> bool:
        return self.strength > 0 and self.probability > 0


class MixupEffect(Effect):
    pad: Literal["repeat", "zero"] = "repeat"
    """`repeat`: the other recording is repeated or cut to the same length; `zero`: silence is appended to the shorter
    of the two."""


class NoiseEffect(Effect):
    relative: bool = True
    """The strength is relative to the recording's rms, and drawn from a tenth of it on; false: the standard deviation
    of the noise in every recording, where full scale is 1."""


class BackgroundEffect(Effect):
    folder: Location | None = None
    """Folder of recordings, with subfolders."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.is_on and self.folder is None:
            raise ValueError("background needs a folder of recordings: {folder: PATH, strength: 0.3}")
        return self


class MaskEffect(Effect):
    max_width: int | None = Field(None, ge=1)
    """Maximum width, in place of a strength: 0 to `max_width` - 1 neighbouring bands or frames, as torchaudio's
    FrequencyMasking and TimeMasking draw them."""
    fill: Literal["mean", "zero"] = "mean"
    """What they are replaced by: the mean of the spectrogram, or 0."""

    @model_validator(mode="after")
    def _check_width(self) -> Self:
        if self.strength > 0 and self.max_width is not None:
            raise ValueError("give strength, a part of the spectrogram, or max_width, in bands or frames, and not both")
        return self

    @property
    def _has_strength(self) -> bool:
        return super()._has_strength or self.max_width is not None

    @property
    def is_on(self) -> bool:
        return (self.strength > 0 or self.max_width is not None) and self.probability > 0


def _as_effect(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"strength": value}
    if isinstance(value, str | bool):
        raise ValueError("an augmentation is a strength, or {strength: ..., probability: ...}")
    return value


OneEffect = Annotated[Effect, BeforeValidator(_as_effect)]
OneMask = Annotated[MaskEffect, BeforeValidator(_as_effect)]

_OFF = Effect.model_validate({})
_NO_MASK = MaskEffect.model_validate({})
_ON_SPECTROGRAM = ("frequency_mask", "time_mask", "spectrogram_noise", "uniform_noise", "frame_shift")


class AugmentSettings(Settings):
    """Augmentation of training recordings, in this order. All off by default."""

    trim: OneEffect = _OFF
    """Cut from both ends what is quieter than the strength times the loudest: 0.1 is 20 dB below it."""
    time_shift: OneEffect = _OFF
    """Seconds to shift by at most, to either side; what is shifted out comes in at the other end."""
    speed: OneEffect = _OFF
    """Play faster or slower by at most this part (0.1: factors of 0.9 to 1.1); pitch and length change."""
    pitch: OneEffect = _OFF
    """Semitones up or down at most; the length stays."""
    stretch: OneEffect = _OFF
    """Longer or shorter by at most this part; the pitch stays."""
    gain: OneEffect = _OFF
    """dB louder or quieter at most."""
    mixup: Annotated[MixupEffect, BeforeValidator(_as_effect)] = MixupEffect.model_validate({})
    """Mix with another training recording and its labels, in a share drawn from Beta(strength, strength)."""
    noise: Annotated[NoiseEffect, BeforeValidator(_as_effect)] = NoiseEffect.model_validate({})
    """White noise of at most this rms, at least a tenth of it, relative to the recording's: 0.1 is 20 dB below it."""
    background: Annotated[BackgroundEffect, BeforeValidator(_as_effect)] = BackgroundEffect.model_validate({})
    """A piece of a recording from a folder, of at most this rms relative to the recording's."""
    cut_out: OneEffect = _OFF
    """Silence a stretch of at most this part of the recording."""
    frequency_mask: OneMask = _NO_MASK
    """Replace neighbouring bands of the spectrogram, at most this part of them, by its mean."""
    time_mask: OneMask = _NO_MASK
    """Replace neighbouring frames, at most this part of them, by the spectrogram's mean."""
    spectrogram_noise: OneEffect = _OFF
    """Gaussian noise on the spectrogram, of this standard deviation relative to the spectrogram's own."""
    uniform_noise: OneEffect = _OFF
    """Noise between 0 and at most this on the spectrogram after (x - mean) / std, the settings of the network."""
    frame_shift: OneEffect = _OFF
    """Frames to shift the spectrogram by at most, to either side; what is shifted out comes in at the other end."""

    @field_validator("cut_out", "frequency_mask", "time_mask", "speed", "stretch", "trim")
    @classmethod
    def _is_part(cls, value: Effect) -> Effect:
        if value.strength >= 1:
            raise ValueError(f"strength {value.strength} is a part of the whole: below 1")
        return value

    @field_validator("frame_shift")
    @classmethod
    def _is_count(cls, value: Effect) -> Effect:
        if value.strength != int(value.strength):
            raise ValueError(f"strength {value.strength} is a number of frames: 1, 2, ...")
        return value

    @property
    def on_spectrogram(self) -> list[str]:
        """Names of those switched on that need a spectrogram."""
        return [name for name in _ON_SPECTROGRAM if getattr(self, name).is_on]

    @property
    def on_waveform(self) -> list[str]:
        """Names of those switched on that need a waveform, in the order they are applied."""
        names = (name for name in type(self).model_fields if name not in _ON_SPECTROGRAM)
        return [name for name in names if getattr(self, name).is_on]
