"""Description of an encoder's outputs, shared by the encoder, the feature set, its shards and its merged file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

import numpy as np

Granularity = Literal["utterance", "frames", "windows"]
GRANULARITIES: tuple[str, ...] = get_args(Granularity)


@dataclass(frozen=True, kw_only=True)
class OutputSpec:
    """Granularity, size and rate of an encoder's outputs."""

    granularity: Granularity
    dim: int
    """Size D of an embedding."""
    num_layers: int | None = None
    """Number of layers stacked in each output (the L of (L, D)); None if outputs are (D,)."""
    sample_rate: int
    """Rate in Hz to which recordings are resampled; 0 if unknown."""
    frame_rate_hz: float | None = None
    window_s: float | None = None
    hop_s: float | None = None

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Self:
        """Read the values from the attributes of a merged file, which omit those that are None."""
        values = {"sample_rate": 0} | {name: attributes[name] for name in FACTS if name in attributes}
        return cls(**{name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()})

    def facts(self) -> dict[str, Any]:
        """Return the values by name, as they are stored."""
        return {name: getattr(self, name) for name in FACTS}

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one utterance's embedding, or of one frame: (D,) or (L, D)."""
        return (self.dim,) if self.num_layers is None else (self.num_layers, self.dim)

    @property
    def size_text(self) -> str:
        """Shape of an embedding for messages: `1024` or `12 x 768`."""
        return " x ".join(map(str, self.row_shape))


FACTS = tuple(item.name for item in fields(OutputSpec))
