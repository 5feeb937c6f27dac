"""Models of fixed windows: an utterance's windows share batches with any others.

Suffixes: P windows, F spectrogram frames, M mel bands, T frames of the model, D hidden size.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import transformers

from voxshard.encoders import hf
from voxshard.encoders._torch.hf_families.base import Family, Hidden
from voxshard.encoders._torch.transformers_model import LayerTap, load_model
from voxshard.encoders.hf import HfSettings
from voxshard.encoders.window_features import AstFeatures, ClapFeatures, WhisperFeatures
from voxshard.errors import ConfigError


class Windowed(Family):
    """Runs windows in groups of a fixed size, so that the memory of a long recording stays bounded."""

    batch_policy = "windows"
    windows_per_call: ClassVar[int] = 8

    cost_s: float
    """Cost of one window, in seconds of audio."""

    @abstractmethod
    def embed(self, windows: torch.Tensor) -> list[torch.Tensor]:
        """Features of some windows to (P, T, D) of every layer asked for."""

    def valid(self, windows: torch.Tensor) -> torch.Tensor:
        """bool (P, T): which frames cover audio."""
        return torch.ones((len(windows), 1), dtype=torch.bool, device=windows.device)

    def run(
        self, features: torch.Tensor, lengths_B: npt.NDArray[np.int64], lengths_on_device_B: torch.Tensor
    ) -> Hidden:
        parts = [self.embed(part) for part in features.split(self.windows_per_call)]
        return Hidden([torch.cat(layer) for layer in zip(*parts, strict=True)], self.valid(features))

    def cost(self, length: int) -> float:
        return length * self.cost_s


class Whisper(Windowed):
    """The encoder of Whisper: windows of 30 s, of each the frames that cover audio."""

    frames_per_output: ClassVar[int] = 2
    """Spectrogram frames for each frame of the output."""

    def __init__(self, folder: Path, config: Any, preprocessor: Mapping[str, Any], settings: HfSettings) -> None:
        super().__init__(folder, config, preprocessor, settings)
        self.check_extractor(preprocessor, "WhisperFeatureExtractor")
        encoder = self.encoder_config
        hop_samples = int(preprocessor.get("hop_length", 160))
        self.depth = int(encoder.num_hidden_layers)
        self.layers = hf.resolve_layers(settings.layer, self.depth, where=str(folder))
        self.dim = int(encoder.d_model)
        self.preparer = WhisperFeatures(
            sample_rate=self.sample_rate,
            num_mel_bins=int(preprocessor.get("feature_size", 80)),
            window_samples=int(preprocessor.get("chunk_length", 30)) * self.sample_rate,
            fft_samples=int(preprocessor.get("n_fft", 400)),
            hop_samples=hop_samples,
            samples_per_frame=hop_samples * self.frames_per_output,
        )
        if self.preparer.num_mel_bins != encoder.num_mel_bins:
            raise ConfigError(
                f"{folder}: {hf.PREPROCESSOR} gives {self.preparer.num_mel_bins} mel bins, {hf.CONFIG} wants"
                f" {encoder.num_mel_bins}; do the two belong together?"
            )
        self.frame_rate_hz = self.sample_rate / self.preparer.samples_per_frame
        self.cost_s = self.preparer.window_samples / self.sample_rate

    @property
    def encoder_config(self) -> Any:
        """Configuration of the encoder."""
        return self.config

    def load_encoder(self) -> Any:
        """The encoder with the layers asked for."""
        self.config.encoder_layers = max(1, min(max(self.layers), self.depth))
        return load_model(self.folder, self.config).get_encoder()

    def build(self) -> torch.nn.Module:
        self.encoder = self.load_encoder()
        self.tap = LayerTap(self.encoder, self.layers, self.depth, stack=self.encoder.layers)
        return self.encoder  # type: ignore[no-any-return]

    def embed(self, windows: torch.Tensor) -> list[torch.Tensor]:
        return self.tap.take(self.encoder(input_features=windows[:, :-1]).last_hidden_state)

    def valid(self, windows: torch.Tensor) -> torch.Tensor:
        return windows[:, -1, :: self.frames_per_output] > 0


class Qwen2Audio(Whisper):
    """The audio encoder of Qwen2-Audio: as Whisper's, with pairs of frames averaged at the end."""

    frames_per_output = 4

    def __init__(self, folder: Path, config: Any, preprocessor: Mapping[str, Any], settings: HfSettings) -> None:
        super().__init__(folder, config, preprocessor, settings)
        if any(number != self.depth for number in self.layers):
            raise ConfigError(
                f"layer={settings.layer}: the hidden layers of {folder} (qwen2-audio) have two frames for each of"
                " `last`; only `last` is supported"
            )

    @property
    def encoder_config(self) -> Any:
        return getattr(self.config, "audio_config", self.config)

    def load_encoder(self) -> Any:
        """The encoder alone; the tensors of the language model are not read."""
        return load_model(
            self.folder,
            self.encoder_config,
            model_class=transformers.Qwen2AudioEncoder,
            key_mapping={r"^(model\.)?audio_tower\.": ""},
        )


class SpectrogramTransformer(Windowed):
    """Audio Spectrogram Transformer: `pooler_output` of each window."""

    def __init__(self, folder: Path, config: Any, preprocessor: Mapping[str, Any], settings: HfSettings) -> None:
        super().__init__(folder, config, preprocessor, settings)
        self.check_extractor(preprocessor, "ASTFeatureExtractor")
        self.only_last_layer()
        self.dim = int(config.hidden_size)
        defaults = AstFeatures()
        self.preparer = AstFeatures(
            sample_rate=self.sample_rate,
            num_mel_bins=int(preprocessor.get("num_mel_bins", defaults.num_mel_bins)),
            num_rows=int(preprocessor.get("max_length", defaults.num_rows)),
            mean=float(preprocessor.get("mean", defaults.mean)),
            std=float(preprocessor.get("std", defaults.std)),
            do_normalize=bool(preprocessor.get("do_normalize", True)),
        )
        self.min_samples = self.preparer.fbank.frame_samples
        self.window_s = self.cost_s = self.preparer.window_samples / self.sample_rate

    def build(self) -> torch.nn.Module:
        self.model = load_model(self.folder, self.config)
        return self.model  # type: ignore[no-any-return]

    def embed(self, windows: torch.Tensor) -> list[torch.Tensor]:
        return [self.model(input_values=windows).pooler_output[:, None]]


class Clap(Windowed):
    """CLAP's audio side: the projected embedding of each window; of the joint model normalised to length 1."""

    def __init__(self, folder: Path, config: Any, preprocessor: Mapping[str, Any], settings: HfSettings) -> None:
        super().__init__(folder, config, preprocessor, settings)
        self.check_extractor(preprocessor, "ClapFeatureExtractor")
        self.only_last_layer()
        self.is_joint = config.model_type == "clap"
        self.dim = int(config.projection_dim)
        self.sample_rate = int(preprocessor.get("sampling_rate", 48_000))
        self.is_fused = bool(getattr(config, "audio_config", config).enable_fusion)
        self.preparer = ClapFeatures(
            sample_rate=self.sample_rate,
            num_mel_bins=int(preprocessor.get("feature_size", 64)),
            window_samples=int(preprocessor.get("max_length_s", 10)) * self.sample_rate,
            fft_samples=int(preprocessor.get("fft_window_size", 1024)),
            hop_samples=int(preprocessor.get("hop_length", 480)),
            low_hz=float(preprocessor.get("frequency_min", 0)),
            high_hz=float(preprocessor.get("frequency_max", 14_000)),
            padding=preprocessor.get("padding", "repeatpad"),
            slaney=preprocessor.get("truncation", "fusion") != "fusion",
        )
        self.window_s = self.cost_s = self.preparer.window_samples / self.sample_rate

    def build(self) -> torch.nn.Module:
        if self.is_joint:
            self.model = load_model(self.folder, self.config)
            self.model.text_model = self.model.text_projection = None
        else:
            self.model = load_model(self.folder, self.config, model_class=transformers.ClapAudioModelWithProjection)
        return self.model  # type: ignore[no-any-return]

    def embed(self, windows: torch.Tensor) -> list[torch.Tensor]:
        features = windows[:, None]
        is_longer = None
        if self.is_fused:  # called on one window, the extractor stacks it four times and sets is_longer
            features = features.expand(-1, 4, -1, -1)
            is_longer = torch.ones((len(windows), 1), dtype=torch.bool, device=windows.device)
        if not self.is_joint:
            return [self.model(input_features=features, is_longer=is_longer).audio_embeds[:, None]]
        found = self.model.get_audio_features(input_features=features, is_longer=is_longer)
        embedding_PD = found if isinstance(found, torch.Tensor) else found.pooler_output  # transformers 4, 5
        return [embedding_PD[:, None]]


def by_utterance(tensor: torch.Tensor, lengths_B: Sequence[int]) -> list[torch.Tensor]:
    """(P, T, ...) to one (P_i * T, ...) for each utterance."""
    return [part.flatten(0, 1) for part in tensor.split(list(lengths_B))]
