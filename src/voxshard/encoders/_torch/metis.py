"""The `metis8d` encoder: w2v-BERT 2.0 up to layer 17, then the encoder of MaskGCT's semantic codec.

Suffixes: B utterances, T padded frames, D hidden size, M feature size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from voxshard.encoders import hf
from voxshard.encoders._torch.base import TorchEncoder
from voxshard.encoders._torch.pooling import valid_mask
from voxshard.encoders._torch.repcodec import RepCodecEncoder, latent_size, load_repcodec
from voxshard.encoders._torch.speech_model import FilterBankModel
from voxshard.encoders._torch.torch_files import read_tensors
from voxshard.encoders._torch.transformers_model import LayerTap, attention_cost_frames, load_model, read_config
from voxshard.encoders.base import KnownHashes, describe
from voxshard.encoders.filterbanks import SeamlessFeatures
from voxshard.encoders.metis import BACKBONE, CODEC, STATISTICS, Metis8dSettings
from voxshard.encoders.weight_files import hash_files, locate
from voxshard.errors import ConfigError, CorruptFileError

_CODE_VERSION = 1


class Metis8dEncoder(TorchEncoder):
    """8-D semantic latents at 50 Hz. Needs no Amphion: only its published weights."""

    settings_model = Metis8dSettings
    settings: Metis8dSettings

    def __init__(self, name: str, settings: Metis8dSettings, known_hashes: KnownHashes) -> None:
        self.settings = settings
        required = (f"{BACKBONE}/{hf.CONFIG}", f"{BACKBONE}/{hf.PREPROCESSOR}", CODEC, STATISTICS)
        self.folder = locate(name, settings.weights, required=required)
        backbone = self.folder / BACKBONE
        self.config = read_config(backbone)
        if self.config.model_type != "wav2vec2-bert":
            raise ConfigError(f"{backbone}: a {self.config.model_type} model; metis8d wants w2v-BERT 2.0")
        self.depth = int(self.config.num_hidden_layers)
        hf.resolve_layers(settings.layer, self.depth, where=str(backbone))
        preprocessor = hf.read_json(backbone / hf.PREPROCESSOR)
        # The codec was trained with the incomplete last row, which the conformer does not attend to: T = ceil(F / 2).
        features = hf.preparer_for(self.config.model_type, preprocessor, keep_incomplete=True, where=backbone)
        assert isinstance(features, SeamlessFeatures)
        self.preparer = features
        self.frames = hf.StackedFrames(features)
        rate, seconds = features.sample_rate, settings.chunk_seconds
        self.info = describe(
            name=name,
            settings=settings,
            code_version=_CODE_VERSION,
            libraries=("torch", "transformers"),
            weight_files=hash_files(self.folder, settings.weight_files(self.folder), known_hashes),
            derived={"layer": settings.layer},
            weights_folder=self.folder,
            requires=("torch", "transformers"),
            needs_gpu=True,
            sample_rate=rate,
            dim=latent_size(self.folder / CODEC),
            granularity="frames",
            frame_rate_hz=rate / self.frames.hop_samples,
            batch_policy="padded",
            min_samples=self.frames.min_samples,
            chunk_samples=None if seconds is None else hf.chunk_samples(self.frames, seconds, rate),
        )

    def build(self) -> nn.Module:
        """The truncated model, the statistics of its layer, and the codec's encoder."""
        model = load_model(self.folder / BACKBONE, self.config, self.settings.layer)
        self.tap = LayerTap(model, (self.settings.layer,), self.depth)
        self.conformer = FilterBankModel(model)
        statistics = _Statistics(self.folder / STATISTICS)
        codec = load_repcodec(self.folder / CODEC)
        return nn.ModuleDict({"conformer": model, "statistics": statistics, "codec": codec})

    def num_frames(self, length: int) -> int:
        """One frame per feature row, the incomplete last one included."""
        return length

    def forward(self, features_BTM: torch.Tensor, lengths_B: npt.NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """ "frames" (B, T, 8), and "codes" (B, T) where asked for."""
        last_BTD, _ = self.conformer(features_BTM)
        (hidden_BTD,) = self.tap.take(last_BTD)
        codec: RepCodecEncoder = self.model["codec"]
        # The codec is small and decides on tokens by distances: it stays in float32 whatever the conformer runs in.
        with torch.autocast(self.device.type, enabled=False):
            normalised_BTD = self.model["statistics"](hidden_BTD.float())
            valid_BT = valid_mask(self.lengths_on_device(lengths_B), features_BTM.shape[1])
            latents_BTD = codec(normalised_BTD, valid_BT)
            results = {"frames": latents_BTD}
            if self.settings.codes:
                results["codes"] = codec.tokens(latents_BTD)
        return results

    def cost(self, length: int) -> float:
        """Seconds of audio, and on top what attention adds, which grows with the square."""
        assert self.info.frame_rate_hz is not None
        return length / self.info.frame_rate_hz * (1 + length / attention_cost_frames(self.config))


class _Statistics(nn.Module):  # type: ignore[misc]  # torch is Any where it is not installed
    """Mean and variance of layer 17 over the codec's training data."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, path: Path) -> None:
        super().__init__()
        found = read_tensors(path)
        if not {"mean", "var"} <= found.keys():
            raise CorruptFileError(
                f"{path}: holds {', '.join(found) or 'nothing'}; the tensors mean and var belong there"
            )
        self.register_buffer("mean", found["mean"].float())
        self.register_buffer("deviation", found["var"].float().sqrt())

    def forward(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        return (hidden_BTD - self.mean) / self.deviation
