"""wav2vec 2.0 and its relatives: masked so that padding does not change a number, or grouped by equal length (SEW)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from voxshard.encoders import hf
from voxshard.encoders._torch.hf_families.base import Family, Hidden
from voxshard.encoders._torch.speech_model import FilterBankModel, WaveformModel
from voxshard.encoders._torch.transformers_model import LayerTap, attention_cost_frames, check_adapter, load_model
from voxshard.encoders.base import BatchPolicy
from voxshard.encoders.filterbanks import SeamlessFeatures
from voxshard.encoders.hf import HfSettings
from voxshard.errors import ConfigError


class SelfSupervised(Family):
    """wav2vec 2.0, HuBERT, WavLM, data2vec-audio, UniSpeech(-SAT), wav2vec 2.0 Conformer and w2v-BERT."""

    batch_policy: ClassVar[BatchPolicy] = "padded"
    counts_valid_frames = False  # w2v-BERT gives a frame for an incomplete row that it does not pool

    def __init__(self, folder: Path, config: Any, preprocessor: Mapping[str, Any], settings: HfSettings) -> None:
        super().__init__(folder, config, preprocessor, settings)
        check_adapter(folder, config)
        self.depth = int(config.num_hidden_layers)
        self.layers = hf.resolve_layers(settings.layer, self.depth, where=str(folder))
        self.preparer = hf.preparer_for(
            config.model_type, preprocessor, keep_incomplete=settings.pooling == "none", where=folder
        )
        self.frames: hf.Frames
        if isinstance(self.preparer, SeamlessFeatures):
            self.frames = hf.StackedFrames(self.preparer)
            _check_input_size(folder, self.preparer, int(config.feature_projection_input_dim))
        else:
            self.frames = hf.ConvolutionalFrames(tuple(config.conv_kernel), tuple(config.conv_stride))
        self.dim = int(config.hidden_size)
        self.min_samples = self.frames.min_samples
        self.frame_rate_hz = self.sample_rate / self.frames.hop_samples
        if settings.chunk_seconds is not None:
            self.chunk_samples = hf.chunk_samples(self.frames, settings.chunk_seconds, self.sample_rate)

    def build(self) -> torch.nn.Module:
        """The model, cut above the highest layer asked for, with padding kept out of it."""
        model = load_model(self.folder, self.config, max(self.layers))
        self.tap = LayerTap(model, self.layers, self.depth)
        if isinstance(self.frames, hf.ConvolutionalFrames):
            self.waveform_model: WaveformModel | None = WaveformModel(model, self.frames)
        else:
            self.waveform_model, self.filter_bank_model = None, FilterBankModel(model)
        return model  # type: ignore[no-any-return]

    def run(
        self, features: torch.Tensor, lengths_B: npt.NDArray[np.int64], lengths_on_device_B: torch.Tensor
    ) -> Hidden:
        if self.waveform_model is not None:
            last_BTD, valid_BT = self.waveform_model(features, lengths_B, lengths_on_device_B)
        else:
            last_BTD, valid_BT = self.filter_bank_model(features)
        return Hidden(self.tap.take(last_BTD), valid_BT)

    def num_frames(self, length: int) -> int:
        return self.frames.num_frames(length)

    def cost(self, length: int) -> float:
        """Seconds of audio, and on top what attention adds, which grows with the square."""
        num_frames = self.num_frames(length)
        assert self.frame_rate_hz is not None
        return num_frames / self.frame_rate_hz * (1 + num_frames / attention_cost_frames(self.config))


class Sew(SelfSupervised):
    """SEW: its layers see frames averaged in groups; masks do not reach those averages, so equal lengths share a batch.

    Hidden layers have one frame for each group, `last` one for each frame of the convolutions.
    """

    batch_policy = "equal_length"
    counts_valid_frames = True

    def __init__(self, folder: Path, config: Any, preprocessor: Mapping[str, Any], settings: HfSettings) -> None:
        super().__init__(folder, config, preprocessor, settings)
        self._group = int(config.squeeze_factor)
        is_last = [number == self.depth for number in self.layers]
        if any(is_last) and not all(is_last):
            raise ConfigError(
                f"layer={list(self.layers)}: in {folder} (sew) hidden layers have a frame for each {self._group} of"
                " `last`; ask for either"
            )
        if not all(is_last):
            assert self.frame_rate_hz is not None
            self.frame_rate_hz /= self._group
            self.min_samples += (self._group - 1) * self.frames.hop_samples

    def build(self) -> torch.nn.Module:
        model = load_model(self.folder, self.config, max(self.layers))
        self.tap = LayerTap(model, self.layers, self.depth)
        self.model = model
        return model  # type: ignore[no-any-return]

    def run(
        self, features: torch.Tensor, lengths_B: npt.NDArray[np.int64], lengths_on_device_B: torch.Tensor
    ) -> Hidden:
        layers = self.tap.take(self.model(input_values=features).last_hidden_state)
        return Hidden(layers, torch.ones(layers[0].shape[:2], dtype=torch.bool, device=features.device))

    def num_frames(self, length: int) -> int:
        num_frames = super().num_frames(length)
        return num_frames if self.layers[0] == self.depth else num_frames // self._group


def _check_input_size(folder: Path, preparer: SeamlessFeatures, wanted: int) -> None:
    found = preparer.num_mel_bins * preparer.stride
    if found != wanted:
        raise ConfigError(
            f"{folder}: {hf.PREPROCESSOR} gives {found} values per frame ({preparer.num_mel_bins} mel bins x"
            f" {preparer.stride}), {hf.CONFIG} wants {wanted}; do the two belong together?"
        )
