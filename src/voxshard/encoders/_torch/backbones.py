"""The lower parts of trained networks: features in, one row per utterance (or per patch) out, exact in any batch.

Suffixes: B utterances, L padded feature length, P patches, T frames, M features per frame, N layers, D size of a row.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
import transformers
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from torch import nn

from voxshard.config import validated
from voxshard.encoders import hf
from voxshard.encoders._torch.attention import LEAN_TYPES, make_attention_lean
from voxshard.encoders._torch.ecapa import ReflectAtEnd
from voxshard.encoders._torch.pooling import pool
from voxshard.encoders._torch.speech_model import FilterBankModel, WaveformModel
from voxshard.encoders._torch.transformers_model import (
    LayerTap,
    attention_cost_frames,
    load_model,
    read_config,
)
from voxshard.encoders._torch.vggish import build_network
from voxshard.encoders.acoustic.logmel import LogMelSettings
from voxshard.encoders.base import BatchPolicy, Features, Waveform
from voxshard.encoders.filterbanks import HOP_SAMPLES, SeamlessFeatures, SpeechBrainFbank
from voxshard.encoders.network_inputs import LogMelPatches, MelPatches, TorchaudioMfcc
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
from voxshard.encoders.weights import locate
from voxshard.errors import ConfigError
from voxshard.networks.settings import (
    EcapaNetworkSettings,
    MelSettings,
    NetworkSettings,
    SpectrogramSettings,
    VggishNetworkSettings,
    Wav2Vec2Settings,
)
from voxshard.networks.spectrogram import ARCHITECTURES, LearnedLog

Lengths = npt.NDArray[np.int64]


class Backbone(nn.Module):  # type: ignore[misc]  # torch is Any where it is not installed
    """What lies below the heads.

    Built either to be trained, `assets` None, with whatever pretrained weights its settings name; or from a checkpoint,
    `assets` the folder with the small files that `describe_to` wrote there, its weights to be loaded afterwards.
    """

    preparer: Callable[[Waveform], Features] | None
    """Waveform to features; runs in workers."""
    batch_policy: ClassVar[BatchPolicy] = "padded"
    sample_rate: int
    min_samples: int
    dim: int
    has_layer_weights: bool = False

    @abstractmethod
    def forward(self, features: torch.Tensor, lengths_B: Lengths) -> torch.Tensor:
        """(B, D), or (P, D) where the batch policy is `windows`; see `Encoder.encode` for what comes in."""

    def plain(self, features: torch.Tensor, lengths_B: Lengths) -> torch.Tensor:
        """As `forward`, before layers are weighted; the embedding `pt`."""
        return self(features, lengths_B)

    def describe_to(self, folder: Path) -> None:
        """Write what building needs beside settings and weights."""

    def untrained(self) -> list[nn.Parameter]:
        """Parameters that keep their values."""
        return []

    def seconds(self, length: int) -> float:
        """Seconds of audio that features of this length stand for, roughly."""
        return length / self.sample_rate


class Standardize(nn.Module):  # type: ignore[misc]
    """Features shifted and scaled, per band, by what the training recordings had."""

    def __init__(self, size: int, settings: MelSettings) -> None:
        super().__init__()
        self.register_buffer("mean_M", torch.full((size,), settings.mean or 0.0))
        self.register_buffer("std_M", torch.full((size,), settings.std or 1.0))
        self.wants_statistics = settings.normalize and settings.mean is None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return (features - self.mean_M) / self.std_M


class EcapaBackbone(Backbone):
    """SpeechBrain's ECAPA-TDNN."""

    def __init__(self, settings: EcapaNetworkSettings, assets: Path | None) -> None:
        super().__init__()
        self.sample_rate = settings.sample_rate
        if settings.features == "fbank":
            self.preparer = SpeechBrainFbank(num_mels=settings.mel_bands)
            size, self.hop = settings.mel_bands, HOP_SAMPLES
        else:
            self.preparer = TorchaudioMfcc(
                settings.sample_rate, settings.num_mfcc, settings.mel_bands, settings.n_fft, settings.hop_length
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
        """(B, L, M) to (B, D)."""
        padded_BTM = nn.functional.pad(self.standardize(features), (0, 0, 0, self.reach))
        num_frames_B = torch.from_numpy(lengths_B).to(features.device)
        self.reflection.valid.num_frames_B = num_frames_B
        relative_B = (num_frames_B.float() - 0.5) / padded_BTM.shape[1]  # see EcapaEncoder.forward
        return self.network(padded_BTM, relative_B)[:, 0]

    def seconds(self, length: int) -> float:
        return length * self.hop / self.sample_rate


class SpectrogramBackbone(Backbone):
    """One of our own convolutional networks, patch by patch."""

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
        """(P, T, M) to (P, D)."""
        return self.network(self.standardize(self.compress(features)))

    def seconds(self, length: int) -> float:
        return length * self.patch_s


def _patches(settings: SpectrogramSettings) -> MelPatches | LogMelPatches:
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
    return LogMelPatches(validated(LogMelSettings, mel, where="settings"), settings.patch_frames)


class VggishBackbone(Backbone):
    """VGGish's network, from converted weights."""

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
            self.shapes = json.loads((assets / "shapes.json").read_text())
            weights = {name: np.zeros(shape, np.float32) for name, shape in self.shapes.items()}
        self.network = build_network(_wanted(weights))

    def forward(self, features: torch.Tensor, lengths_B: Lengths) -> torch.Tensor:
        """(P, 96, 64) to (P, D)."""
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


class SpeechBackbone(Backbone):
    """Any model of the encoder `hf`: one hidden layer or a learned weighting of all, pooled over valid frames."""

    def __init__(self, settings: Wav2Vec2Settings, assets: Path | None) -> None:
        super().__init__()
        self.settings = settings
        folder = assets or hf.folder_of(settings.weights, wanted_by="network wav2vec2")
        self.texts = {name: (folder / name).read_text() for name in (hf.CONFIG, hf.PREPROCESSOR)}
        config = read_config(folder)
        # Layers dropped at random would leave gaps in the weighting; masks longer than a short clip are an error.
        config.layerdrop, config.apply_spec_augment = 0.0, False
        preprocessor = hf.read_json(folder / hf.PREPROCESSOR)
        self.sample_rate = int(preprocessor.get("sampling_rate", 16000))
        if settings.sample_rate != self.sample_rate:
            raise ConfigError(f"sample_rate={settings.sample_rate}: {folder} takes {self.sample_rate} Hz")
        depth = int(config.num_hidden_layers)
        (layer,) = hf.resolve_layers(settings.layer, depth, where=str(folder))
        self.has_layer_weights = settings.weighted
        layers = [*range(depth + 1), layer] if settings.weighted else [layer]
        self.preparer = hf.preparer_for(config.model_type, preprocessor, keep_incomplete=False, where=folder)
        if assets is None:
            self.model = load_model(folder, config, max(layers))
        else:
            config.num_hidden_layers = max(1, min(max(layers), depth))
            attention = "eager" if config.model_type in LEAN_TYPES else "sdpa"
            self.model = transformers.AutoModel.from_config(config, attn_implementation=attention)
            make_attention_lean(self.model)
        self.tap = LayerTap(self.model, layers, depth)
        self.run_model: Callable[[torch.Tensor, Lengths], tuple[torch.Tensor, torch.Tensor]]
        if isinstance(self.preparer, SeamlessFeatures):
            stacked = FilterBankModel(self.model)
            self.run_model = lambda features, lengths_B: stacked(features)
            self.frames: hf.Frames = hf.StackedFrames(self.preparer)
        else:
            self.frames = hf.ConvolutionalFrames(tuple(config.conv_kernel), tuple(config.conv_stride))
            waveforms = WaveformModel(self.model, self.frames)
            self.run_model = lambda features, lengths_B: waveforms(
                features, lengths_B, torch.from_numpy(lengths_B).to(features.device)
            )
        self.min_samples = self.frames.min_samples
        self.dim = int(config.hidden_size)
        if settings.weighted:
            self.layer_weights = nn.Parameter(torch.zeros(depth + 1))
        self._frozen = settings.fine_tune == "none"
        self._untrained = self._choose_untrained(depth)

    def forward(self, features: torch.Tensor, lengths_B: Lengths) -> torch.Tensor:
        """(B, D): of the weighted layers if they are weighted, else of the one layer."""
        plain, weighted = self._pooled(features, lengths_B)
        return plain if weighted is None else weighted

    def plain(self, features: torch.Tensor, lengths_B: Lengths) -> torch.Tensor:
        """(B, D) of the one layer, weighted or not."""
        return self._pooled(features, lengths_B)[0]

    def _pooled(self, features: torch.Tensor, lengths_B: Lengths) -> tuple[torch.Tensor, torch.Tensor | None]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            last_BTD, valid_BT = self.run_model(features, lengths_B)
        layers = self.tap.take(last_BTD)
        plain_BD = pool(layers[-1], valid_BT, self.settings.pooling)
        if not self.has_layer_weights:
            return plain_BD, None
        shares_N = torch.softmax(self.layer_weights, dim=0)
        mixed_BTD = sum(share * layer_BTD for share, layer_BTD in zip(shares_N, layers[:-1], strict=True))
        return plain_BD, pool(mixed_BTD, valid_BT, self.settings.pooling)

    def train(self, mode: bool = True) -> SpeechBackbone:
        """A frozen model stays in evaluation mode: no dropout below the heads."""
        super().train(mode)
        if self._frozen:
            self.model.eval()
        return self

    def seconds(self, length: int) -> float:
        hop = self.frames.hop_samples if isinstance(self.frames, hf.StackedFrames) else 1
        num_frames = self.frames.num_frames(length)
        return length * hop / self.sample_rate * (1 + num_frames / attention_cost_frames(self.model.config))

    def describe_to(self, folder: Path) -> None:
        for name, text in self.texts.items():
            (folder / name).write_text(text)

    def untrained(self) -> list[nn.Parameter]:
        return self._untrained

    def _choose_untrained(self, depth: int) -> list[nn.Parameter]:
        choice, model = self.settings.fine_tune, self.model
        if choice == "all":
            return []
        if choice == "none":
            return list(model.parameters())
        bottom = getattr(model, "feature_extractor", None)  # w2v-BERT has no convolutions at its bottom
        if bottom is not None:
            bottom._freeze_parameters()  # else it asks for gradients down to the waveform
        if choice == "transformer":
            return [] if bottom is None else list(bottom.parameters())
        assert isinstance(choice, int)
        if not 1 <= choice <= depth:
            raise ConfigError(f"fine_tune={choice}: the model has {depth} layers; give 1 to {depth}")
        kept = {id(parameter) for layer in model.encoder.layers[-choice:] for parameter in layer.parameters()}
        return [parameter for parameter in model.parameters() if id(parameter) not in kept]


def build_backbone(family: str, settings: NetworkSettings, assets: Path | None) -> Backbone:
    """The backbone of a family; see `Backbone` for `assets`."""
    if isinstance(settings, Wav2Vec2Settings):
        return SpeechBackbone(settings, assets)
    if isinstance(settings, EcapaNetworkSettings):
        return EcapaBackbone(settings, assets)
    if isinstance(settings, VggishNetworkSettings):
        return VggishBackbone(settings, assets)
    assert isinstance(settings, SpectrogramSettings)
    return SpectrogramBackbone(family, settings, assets)
