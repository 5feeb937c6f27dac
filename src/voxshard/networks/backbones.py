"""Backbones of trained networks: ECAPA-TDNN, our convolutional networks, VGGish; and the choice by family.

Suffixes: B utterances, L padded feature length, P patches, T frames, M features per frame, D size of a row.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from torch import nn

from voxshard import files
from voxshard.config import validated
from voxshard.encoders._torch.device import on_device
from voxshard.encoders._torch.ecapa import ReflectAtEnd
from voxshard.encoders._torch.vggish import build_network
from voxshard.encoders.acoustic.logmel import LogMelSettings
from voxshard.encoders.base import BatchPolicy
from voxshard.encoders.filterbanks import HOP_SAMPLES, KaldiFbank, SpeechBrainFbank
from voxshard.encoders.vggish_frontend import PATCH_SAMPLES, SAMPLE_RATE, log_mel_patches
from voxshard.encoders.vggish_weights import (
    CONVERTED,
    CONVOLUTIONS,
    DENSE,
    EMBEDDING_SIZE,
    Weights,
    bias_name,
    kernel_name,
    read_safetensors,
)
from voxshard.encoders.weight_files import locate
from voxshard.errors import ConfigError
from voxshard.networks.backbone import Backbone, Lengths
from voxshard.networks.inputs import CentredKaldiFbank, Log10MelPatches, LogMelPatches, MelPatches, TorchaudioMfcc
from voxshard.networks.settings import (
    EcapaNetworkSettings,
    MelNetworkSettings,
    NetworkSettings,
    SpectrogramSettings,
    VggishNetworkSettings,
    Wav2Vec2Settings,
)
from voxshard.networks.spectrogram import ARCHITECTURES, LearnedLog
from voxshard.networks.speech_backbone import SpeechBackbone


class Standardize(nn.Module):  # type: ignore[misc]
    """Shifts and scales features per band, by the statistics of the training recordings."""

    def __init__(self, size: int, settings: MelNetworkSettings) -> None:
        super().__init__()
        self.register_buffer("mean_M", torch.full((size,), settings.mean or 0.0))
        self.register_buffer("std_M", torch.full((size,), settings.std or 1.0))
        self.wants_statistics = settings.normalize and settings.mean is None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return (features - self.mean_M) / self.std_M


class EcapaBackbone(Backbone):
    """Backbone with SpeechBrain's ECAPA-TDNN."""

    def __init__(self, settings: EcapaNetworkSettings, assets: Path | None) -> None:
        super().__init__()
        self.sample_rate = settings.sample_rate
        if settings.features == "fbank":
            self.preparer = SpeechBrainFbank(num_mels=settings.mel_bands)
            size, self.hop = settings.mel_bands, HOP_SAMPLES
        elif settings.features == "kaldi_fbank":
            fbank = KaldiFbank(settings.mel_bands, settings.sample_rate, "hanning")
            self.preparer = CentredKaldiFbank(fbank, settings.num_frames)
            size, self.hop = settings.mel_bands, fbank.hop_samples
        else:
            self.preparer = TorchaudioMfcc(
                settings.sample_rate,
                settings.num_mfcc,
                settings.mel_bands,
                settings.n_fft,
                settings.hop_length,
                settings.remove_mean,
            )
            size, self.hop = settings.num_mfcc, settings.hop_length
        self.standardize = Standardize(size, settings)
        width = settings.width
        self.network = ECAPA_TDNN(
            size,
            lin_neurons=settings.embedding_size,
            channels=[width] * 4 + [3 * width],
            attention_channels=settings.attention_channels,
        )
        self.reach = 4  # of the block with dilation 4 and three taps, the widest of SpeechBrain's defaults
        self.reflection = ReflectAtEnd(self.network)
        self.min_samples = max(self.reach * self.hop, settings.n_fft // 2 + 1)
        self.dim = settings.embedding_size

    def forward(self, features: torch.Tensor, lengths_B: Lengths) -> torch.Tensor:
        """Map (B, L, M) to (B, D)."""
        padded_BTM = nn.functional.pad(self.standardize(features), (0, 0, 0, self.reach))
        num_frames_B = on_device(lengths_B, features.device)
        self.reflection.valid.num_frames_B = num_frames_B
        relative_B = (num_frames_B.float() - 0.5) / padded_BTM.shape[1]  # see EcapaEncoder.forward
        return self.network(padded_BTM, relative_B)[:, 0]

    def seconds(self, length: int) -> float:
        return length * self.hop / self.sample_rate


class SpectrogramBackbone(Backbone):
    """Backbone with one of our own convolutional networks, applied patch by patch."""

    batch_policy: ClassVar[BatchPolicy] = "windows"

    def __init__(self, family: str, settings: SpectrogramSettings, assets: Path | None) -> None:
        super().__init__()
        self.sample_rate, self.dim = settings.sample_rate, settings.embedding_size
        preparer = _patches(settings)
        self.preparer, self.min_samples = preparer, preparer.min_samples
        self.patch_s = settings.patch_frames * settings.hop_length / settings.sample_rate
        self.compress = LearnedLog() if settings.learned_log else nn.Identity()
        self.standardize = Standardize(settings.num_mels, settings)
        self.network = ARCHITECTURES[family](settings)

    def forward(self, features: torch.Tensor, lengths_B: Lengths) -> torch.Tensor:
        """Map (P, T, M) to (P, D)."""
        return self.network(self.standardize(self.compress(features)))

    def seconds(self, length: int) -> float:
        return length * self.patch_s


def _patches(settings: SpectrogramSettings) -> MelPatches | LogMelPatches | Log10MelPatches:
    if settings.features == "mel":
        return MelPatches(
            settings.sample_rate,
            settings.num_mels,
            settings.n_fft,
            settings.hop_length,
            settings.patch_frames,
            logarithm=not settings.learned_log,
        )
    mel = {
        "sample_rate": settings.sample_rate,
        "hop_length": settings.hop_length,
        "n_fft": settings.n_fft,
        "n_mels": settings.num_mels,
        "fmin": settings.fmin,
        "fmax": settings.fmax,
    }
    front_end = validated(LogMelSettings, mel, where="settings")
    if settings.features == "log10":
        return Log10MelPatches(front_end, settings.patch_frames, logarithm=not settings.learned_log)
    return LogMelPatches(front_end, settings.patch_frames)


class VggishBackbone(Backbone):
    """Backbone with VGGish's network, from converted weights."""

    batch_policy: ClassVar[BatchPolicy] = "windows"
    preparer = staticmethod(log_mel_patches)
    min_samples = PATCH_SAMPLES
    dim = EMBEDDING_SIZE

    def __init__(self, settings: VggishNetworkSettings, assets: Path | None) -> None:
        super().__init__()
        if settings.sample_rate != SAMPLE_RATE:
            raise ConfigError(f"sample_rate={settings.sample_rate}: VGGish takes {SAMPLE_RATE} Hz")
        self.sample_rate = SAMPLE_RATE
        self.fine_tune = settings.fine_tune
        if assets is None:
            weights = read_safetensors(locate("vggish", settings.weights) / CONVERTED)
            self.shapes = {name: list(array.shape) for name, array in weights.items()}
        else:
            self.shapes = json.loads(files.read_bytes(assets / "shapes.json"))
            weights = {name: np.zeros(shape, np.float32) for name, shape in self.shapes.items()}
        self.network = build_network(_wanted(weights))

    def forward(self, features: torch.Tensor, lengths_B: Lengths) -> torch.Tensor:
        """Map (P, 96, 64) to (P, D)."""
        return self.network(features[:, None])

    def describe_to(self, folder: Path) -> None:
        (folder / "shapes.json").write_text(json.dumps(self.shapes))

    def untrained(self) -> list[nn.Parameter]:
        return [] if self.fine_tune else list(self.network.parameters())

    def seconds(self, length: int) -> float:
        return length * 0.96


def _wanted(weights: Weights) -> Weights:
    names = [name(layer) for layer in (*CONVOLUTIONS, *DENSE) for name in (kernel_name, bias_name)]
    return {name: weights[name] for name in names}


def build_backbone(family: str, settings: NetworkSettings, assets: Path | None) -> Backbone:
    """Build the backbone of a family; `assets` is described at `Backbone`."""
    if isinstance(settings, Wav2Vec2Settings):
        return SpeechBackbone(settings, assets)
    if isinstance(settings, EcapaNetworkSettings):
        return EcapaBackbone(settings, assets)
    if isinstance(settings, VggishNetworkSettings):
        return VggishBackbone(settings, assets)
    assert isinstance(settings, SpectrogramSettings)
    return SpectrogramBackbone(family, settings, assets)
