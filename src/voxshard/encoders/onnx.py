"""Settings of the `onnx` encoder, and what encoder.json states; onnxruntime is not imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from voxshard.config import Settings, validated
from voxshard.encoders.base import EncoderSettings, Features, Waveform
from voxshard.encoders.filterbanks import KaldiFbank
from voxshard.encoders.hf import read_json
from voxshard.errors import ConfigError

MODEL = "model.onnx"
DESCRIPTION = "encoder.json"


class OnnxSettings(EncoderSettings):
    """Settings of `onnx`."""

    weights: str | None = None
    """Folder with model.onnx and encoder.json; null: `$VOXSHARD_WEIGHTS/onnx`."""
    precision: Literal["float32", "tf32"] = "float32"
    """Arithmetic of the model; tf32 lets a GPU's matrix units round their inputs."""

    @classmethod
    def weight_files(cls, folder: Path) -> list[str]:
        models = sorted(path.name for path in folder.glob(f"{MODEL}*") if path.is_file())  # with external data
        return [DESCRIPTION, *models]


class OnnxDescription(Settings):
    """What encoder.json records about the model."""

    input: Literal["waveform", "fbank"]
    """The model's one input: samples (B, S), or Kaldi's log-mel filter bank (B, F, M)."""
    sample_rate: int = Field(ge=1000)
    """Sample rate of the model, in Hz."""
    scale: float = 1.0
    """Factor of the waveform in [-1, 1]; 32768 for models trained on 16-bit sample values."""
    num_mel_bins: int | None = Field(None, ge=1)
    """Number of mel bands of `fbank`."""
    window: Literal["povey", "hamming", "hanning"] = "povey"
    """Window of `fbank`: frames of 25 ms every 10 ms."""
    mean_norm: bool = False
    """Subtract each band's mean over the utterance (`fbank`)."""
    output: str
    """Name of the output that is the embedding."""
    granularity: Literal["utterance", "frames"] = "utterance"
    """Shape of the output: one embedding (B, D), or frames (B, T, D)."""
    min_samples: int | None = Field(None, ge=1)
    """Minimum number of samples of a clip; null: the shortest clip on which the model runs."""

    @property
    def fbank(self) -> KaldiFbank:
        """Return the filter bank of `input: fbank`."""
        assert self.num_mel_bins is not None
        return KaldiFbank(self.num_mel_bins, self.sample_rate, self.window, self.scale, self.mean_norm)


@dataclass(frozen=True)
class ScaledWaveform:
    """The waveform times a factor."""

    scale: float

    def __call__(self, waveform: Waveform) -> Features:
        """Scale float32 (S,); the shape does not change."""
        return waveform * np.float32(self.scale)


def read_description(folder: Path) -> OnnxDescription:
    """Read encoder.json in a folder.

    Raises
    ------
    ConfigError, CorruptFileError : lists every field that is missing, unknown or wrong.
    """
    path = folder / DESCRIPTION
    values: Mapping[str, Any] = read_json(path)
    description = validated(OnnxDescription, values, where=str(path))
    if description.input == "fbank" and description.num_mel_bins is None:
        raise ConfigError(f"{path}: input is fbank, so num_mel_bins is needed")
    return description
