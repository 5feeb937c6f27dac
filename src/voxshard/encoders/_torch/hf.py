"""The `hf` encoder: wav2vec 2.0, HuBERT, WavLM, data2vec-audio and w2v-BERT models, exact in any batch.

Suffixes: B utterances, L padded feature length, T padded frames, D hidden size, N layers asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from voxshard.encoders import hf
from voxshard.encoders._torch.base import TorchEncoder
from voxshard.encoders._torch.pooling import pool
from voxshard.encoders._torch.speech_model import FilterBankModel, WaveformModel
from voxshard.encoders._torch.transformers_model import LayerTap, attention_cost_frames, load_model, read_config
from voxshard.encoders.base import KnownHashes, Output, describe
from voxshard.encoders.filterbanks import SeamlessFeatures
from voxshard.encoders.hf import HfSettings
from voxshard.encoders.pooling import join_pooled, pooled_size
from voxshard.encoders.weight_files import hash_files
from voxshard.errors import ConfigError

_CODE_VERSION = 1


class HfEncoder(TorchEncoder):
    """A speech model in the layout of transformers' `save_pretrained`."""

    settings_model = HfSettings
    settings: HfSettings

    def __init__(self, name: str, settings: HfSettings, known_hashes: KnownHashes) -> None:
        self.settings = settings
        self.folder = hf.folder_of(settings.weights, wanted_by=name)
        self.config = read_config(self.folder)
        preprocessor = hf.read_json(self.folder / hf.PREPROCESSOR)
        sample_rate = int(preprocessor.get("sampling_rate", 16000))
        self.depth = int(self.config.num_hidden_layers)
        self.layers = hf.resolve_layers(settings.layer, self.depth, where=str(self.folder))
        self.stacked = isinstance(settings.layer, tuple)
        self.pooled = settings.pooling != "none"
        self.preparer = hf.preparer_for(
            self.config.model_type, preprocessor, keep_incomplete=not self.pooled, where=self.folder
        )
        self.frames: hf.Frames
        if isinstance(self.preparer, SeamlessFeatures):
            self.frames = hf.StackedFrames(self.preparer)
            _check_input_size(self.folder, self.preparer, int(self.config.feature_projection_input_dim))
        else:
            self.frames = hf.ConvolutionalFrames(tuple(self.config.conv_kernel), tuple(self.config.conv_stride))
        self.frame_rate_hz = sample_rate / self.frames.hop_samples
        seconds = settings.chunk_seconds
        self.info = describe(
            name=name,
            settings=settings,
            code_version=_CODE_VERSION,
            libraries=("torch", "transformers"),
            weight_files=hash_files(self.folder, settings.weight_files(self.folder), known_hashes),
            derived={"layers": list(self.layers)},
            weights_folder=self.folder,
            requires=("torch", "transformers"),
            needs_gpu=True,
            sample_rate=sample_rate,
            dim=pooled_size(int(self.config.hidden_size), settings.pooling),
            num_layers=len(self.layers) if self.stacked else None,
            granularity="utterance" if self.pooled else "frames",
            frame_rate_hz=None if self.pooled else self.frame_rate_hz,
            batch_policy="padded",
            min_samples=self.frames.min_samples,
            chunk_samples=None if seconds is None else hf.chunk_samples(self.frames, seconds, sample_rate),
        )

    def build(self) -> torch.nn.Module:
        """The model, cut above the highest layer asked for, with padding kept out of it."""
        model = load_model(self.folder, self.config, max(self.layers))
        self.tap = LayerTap(model, self.layers, self.depth)
        if isinstance(self.frames, hf.ConvolutionalFrames):
            self.waveform_model: WaveformModel | None = WaveformModel(model, self.frames)
        else:
            self.waveform_model = None
        return model  # type: ignore[no-any-return]

    def num_frames(self, length: int) -> int:
        """Frames of an utterance of `length` samples, or feature rows."""
        return self.frames.num_frames(length)

    def forward(self, features_BL: torch.Tensor, lengths_B: npt.NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """Run the model and pool: "embedding" (B, D) or (B, N, D); or "frames" (B, T, D) or (B, T, N, D)."""
        if self.waveform_model is not None:
            last_BTD, valid_BT = self.waveform_model(features_BL, lengths_B, self.lengths_on_device(lengths_B))
        else:
            last_BTD, valid_BT = FilterBankModel(self.model)(features_BL)
        hidden = self.tap.take(last_BTD)
        if not self.pooled:
            return {"frames": torch.stack(hidden, dim=2) if self.stacked else hidden[0]}
        pooled = [pool(layer_BTD, valid_BT, self.settings.pooling) for layer_BTD in hidden]
        return {"embedding": torch.stack(pooled, dim=1) if self.stacked else pooled[0]}

    def join(self, parts: Sequence[Output], lengths: Sequence[int]) -> Output:
        """Frames one after the other; pooled embeddings as if all the pieces' frames had been pooled at once."""
        if not self.pooled:
            return super().join(parts, lengths)
        counts = [self.num_frames(length) for length in lengths]
        return {"embedding": join_pooled([part["embedding"] for part in parts], counts, self.settings.pooling)}

    def cost(self, length: int) -> float:
        """Seconds of audio, and on top what attention adds, which grows with the square."""
        num_frames = self.num_frames(length)
        return num_frames / self.frame_rate_hz * (1 + num_frames / attention_cost_frames(self.config))


def _check_input_size(folder: Path, preparer: SeamlessFeatures, wanted: int) -> None:
    found = preparer.num_mel_bins * preparer.stride
    if found != wanted:
        raise ConfigError(
            f"{folder}: {hf.PREPROCESSOR} gives {found} values per frame ({preparer.num_mel_bins} mel bins x"
            f" {preparer.stride}), {hf.CONFIG} wants {wanted}; do the two belong together?"
        )
