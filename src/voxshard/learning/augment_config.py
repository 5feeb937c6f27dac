"""Settings of the augmentation of training recordings; no framework is imported here."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from voxshard.config import Settings
from voxshard.locations import Location


class Effect(Settings):
    """Settings of one augmentation effect. A number alone is the strength, with probability 1."""

    strength: float = Field(0.0, ge=0)
    """Strength of the effect; 0 switches it off."""
    probability: float = Field(1.0, ge=0, le=1)
    """Probability, 0 to 1, that the effect is applied to a recording; drawn again in every epoch."""

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
    """`repeat` repeats or crops the other recording to the same length; `zero` pads the shorter one with silence."""


class NoiseEffect(Effect):
    relative: bool = True
    """true: the strength is relative to the recording's rms, and drawn from a tenth of it upwards; false: it is the
    standard deviation of the noise in every recording, where full scale is 1."""


class BackgroundEffect(Effect):
    folder: Location | None = None
    """Folder of background recordings; subfolders are included."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.is_on and self.folder is None:
            raise ValueError("background needs a folder of recordings: {folder: PATH, strength: 0.3}")
        return self


class MaskEffect(Effect):
    max_width: int | None = Field(None, ge=1)
    """Maximum width in bands or frames, instead of a strength: 0 to `max_width` - 1 are masked, as in torchaudio's
    FrequencyMasking and TimeMasking."""
    fill: Literal["mean", "zero"] = "mean"
    """Replacement for masked values: the mean of the spectrogram, or 0."""

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
    """Augmentation of training recordings, applied in this order. All effects are off by default."""

    trim: OneEffect = _OFF
    """Remove from both ends what is quieter than strength times the loudest part; 0.1 means 20 dB below it."""
    time_shift: OneEffect = _OFF
    """Shift in either direction, by up to this number of seconds; shifted-out samples reappear at the other end."""
    speed: OneEffect = _OFF
    """Change the speed by up to this fraction (0.1: factors of 0.9 to 1.1); pitch and length change."""
    pitch: OneEffect = _OFF
    """Shift the pitch up or down by up to this number of semitones; the length is kept."""
    stretch: OneEffect = _OFF
    """Lengthen or shorten by up to this fraction; the pitch is kept."""
    gain: OneEffect = _OFF
    """Change the level by up to this number of dB, up or down."""
    mixup: Annotated[MixupEffect, BeforeValidator(_as_effect)] = MixupEffect.model_validate({})
    """Mix with another training recording and its labels; the mixing weight is drawn from Beta(strength, strength)."""
    noise: Annotated[NoiseEffect, BeforeValidator(_as_effect)] = NoiseEffect.model_validate({})
    """Add white noise of at most this rms, and at least a tenth of it, relative to the recording's rms; 0.1 means 20 dB
    below it."""
    background: Annotated[BackgroundEffect, BeforeValidator(_as_effect)] = BackgroundEffect.model_validate({})
    """Add a piece of a background recording, of at most this rms relative to the recording's rms."""
    cut_out: OneEffect = _OFF
    """Silence a random range of at most this fraction of the recording."""
    frequency_mask: OneMask = _NO_MASK
    """Replace neighbouring bands of the spectrogram, at most this fraction of them, by its mean."""
    time_mask: OneMask = _NO_MASK
    """Replace neighbouring frames of the spectrogram, at most this fraction of them, by its mean."""
    spectrogram_noise: OneEffect = _OFF
    """Add Gaussian noise to the spectrogram, of this standard deviation relative to the spectrogram's own."""
    uniform_noise: OneEffect = _OFF
    """Add noise between 0 and at most this to the spectrogram after (x - mean) / std (the network's settings)."""
    frame_shift: OneEffect = _OFF
    """Shift the spectrogram in either direction by up to this number of frames; shifted-out frames reappear at the
    other end."""

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
        """Names of the active effects that need a spectrogram."""
        return [name for name in _ON_SPECTROGRAM if getattr(self, name).is_on]

    @property
    def on_waveform(self) -> list[str]:
        """Names of the active effects that need a waveform, in the order of application."""
        names = (name for name in type(self).model_fields if name not in _ON_SPECTROGRAM)
        return [name for name in names if getattr(self, name).is_on]
