"""Any other model that transformers loads and that takes audio: one utterance at a time, through its own extractor.

Suffixes: S samples, T frames, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

from voxshard.encoders import hf
from voxshard.encoders._torch.hf_families.base import Family, Hidden
from voxshard.encoders._torch.transformers_model import load_model
from voxshard.encoders.hf import HfSettings
from voxshard.errors import ConfigError, CorruptFileError

_PROBE_S = (2.0, 4.0)
"""Two lengths of noise whose numbers of frames give the frame rate."""


class OtherModel(Family):
    """`last_hidden_state` of a model, for an encoder-decoder that of its encoder.

    What it gives is found out by running it, so constructing this family loads the model.
    """

    batch_policy = "single"

    def __init__(self, folder: Path, config: Any, preprocessor: Mapping[str, Any], settings: HfSettings) -> None:
        super().__init__(folder, config, preprocessor, settings)
        self.only_last_layer()
        self.note = (
            f"no adapter for model_type {config.model_type}: its own extractor and forward pass, one utterance at a"
            " time, frames from last_hidden_state"
        )
        self.extractor = _extractor(folder)
        self._model = load_model(folder, config).eval()
        if getattr(config, "is_encoder_decoder", False) and hasattr(self._model, "get_encoder"):
            self._model = self._model.get_encoder()
        probes = [self._probe(seconds) for seconds in _PROBE_S]
        self.dim = probes[0].shape[1]
        self._frames_per_s = (len(probes[1]) - len(probes[0])) / (_PROBE_S[1] - _PROBE_S[0])
        self.frame_rate_hz = self._frames_per_s or None
        if settings.chunk_seconds is not None:
            self.chunk_samples = round(settings.chunk_seconds * self.sample_rate)

    def build(self) -> torch.nn.Module:
        return self._model  # type: ignore[no-any-return]

    def run(
        self, features: torch.Tensor, lengths_B: npt.NDArray[np.int64], lengths_on_device_B: torch.Tensor
    ) -> Hidden:
        rows = [self._embed(waveform.cpu().numpy(), features.device) for waveform in features]
        frames_BTD = torch.stack(rows)
        return Hidden([frames_BTD], torch.ones(frames_BTD.shape[:2], dtype=torch.bool, device=features.device))

    def num_frames(self, length: int) -> int:
        return max(1, round(length / self.sample_rate * self._frames_per_s))

    def _embed(self, waveform_S: npt.NDArray[np.float32], device: torch.device) -> torch.Tensor:
        inputs = self.extractor(waveform_S, sampling_rate=self.sample_rate, return_tensors="pt").to(device)
        output = self._model(**inputs)
        found = getattr(output, "last_hidden_state", None)
        if found is None or found.ndim != 3:
            raise ConfigError(
                f"{self.folder}: a {self.config.model_type} model gives no last_hidden_state of frames, which hf needs;"
                " write an encoder for it (docs/third-party-encoders.md)"
            )
        return found[0]  # type: ignore[no-any-return]

    def _probe(self, seconds: float) -> npt.NDArray[np.float32]:
        noise_S = np.random.default_rng(0).standard_normal(round(seconds * self.sample_rate)).astype(np.float32) * 0.1
        try:
            with torch.inference_mode():
                return np.asarray(self._embed(noise_S, torch.device("cpu")).float().numpy())
        except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as exc:
            raise ConfigError(
                f"{self.folder}: a {self.config.model_type} model does not run on what its feature extractor"
                f" ({type(self.extractor).__name__}) gives: {str(exc).splitlines()[0]}"
            ) from exc


def _extractor(folder: Path) -> Any:
    try:
        return transformers.AutoFeatureExtractor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as exc:
        raise CorruptFileError(
            f"{folder / hf.PREPROCESSOR}: names no feature extractor that transformers {transformers.__version__} has:"
            f" {str(exc).splitlines()[0]}"
        ) from exc
