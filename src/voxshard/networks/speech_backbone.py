"""Backbone with a self-supervised model of the package transformers, frozen or fine-tuned.

Suffixes: B utterances, L padded feature length, T frames, N layers, D size of a row.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch import nn

from voxshard import files
from voxshard.encoders import hf
from voxshard.encoders._torch.attention import make_attention_lean
from voxshard.encoders._torch.device import on_device
from voxshard.encoders._torch.pooling import pool
from voxshard.encoders._torch.speech_model import FilterBankModel, WaveformModel
from voxshard.encoders._torch.transformers_model import (
    LayerTap,
    attention_cost_frames,
    attention_of,
    class_of,
    load_model,
    read_config,
)
from voxshard.encoders.filterbanks import SeamlessFeatures
from voxshard.errors import ConfigError
from voxshard.networks.backbone import Backbone, Lengths
from voxshard.networks.settings import PooledBy, Wav2Vec2Settings


class SpeechBackbone(Backbone):
    """Any model of the encoder `hf`: one hidden layer, or a learned weighting of all, pooled over valid frames."""

    def __init__(self, settings: Wav2Vec2Settings, assets: Path | None) -> None:
        super().__init__()
        self.settings = settings
        folder = assets or hf.folder_of(settings.weights, wanted_by="network wav2vec2")
        preprocessor = hf.read_preprocessor(folder)
        self.texts = {hf.CONFIG: files.read_text(folder / hf.CONFIG), hf.PREPROCESSOR: json.dumps(preprocessor)}
        config = read_config(folder)
        # Layers dropped at random would leave gaps in the weighting; masks longer than a short clip are an error.
        config.layerdrop, config.apply_spec_augment = 0.0, False
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
            attention = attention_of(config, class_of(config))
            self.model = transformers.AutoModel.from_config(config, attn_implementation=attention)
            make_attention_lean(self.model)
        self.depth = depth
        self.tap = LayerTap(self.model, layers, depth)
        self.plain_pooling = settings.pooling
        self.run_model: Callable[[torch.Tensor, Lengths], tuple[torch.Tensor, torch.Tensor]]
        if isinstance(self.preparer, SeamlessFeatures):
            stacked = FilterBankModel(self.model)
            self.run_model = lambda features, lengths_B: stacked(features)
            self.frames: hf.Frames = hf.StackedFrames(self.preparer)
        else:
            self.frames = hf.ConvolutionalFrames(tuple(config.conv_kernel), tuple(config.conv_stride))
            waveforms = WaveformModel(self.model, self.frames)
            self.run_model = lambda features, lengths_B: waveforms(
                features, lengths_B, on_device(lengths_B, features.device)
            )
        self.min_samples = self.frames.min_samples
        self.dim = int(config.hidden_size)
        if settings.weighted:
            start = 0.0 if settings.layer_weighting == "softmax" else 1 / (depth + 1)
            self.layer_weights = nn.Parameter(torch.full((depth + 1,), start))
        self._frozen = settings.fine_tune == "none"
        self._untrained = self._choose_untrained(depth)

    def forward(self, features: torch.Tensor, lengths_B: Lengths) -> torch.Tensor:
        """Return (B, D) of the weighted layers if they are weighted, otherwise of the one layer."""
        plain, weighted = self._pooled(features, lengths_B)
        return plain if weighted is None else weighted

    def plain(self, features: torch.Tensor, lengths_B: Lengths) -> torch.Tensor:
        """Return (B, D) of the one layer, whether or not layers are weighted."""
        return self._pooled(features, lengths_B)[0]

    def choose_plain(self, layer: int | str | None, pooling: PooledBy | None) -> None:
        """Select another layer or pooling (see `Backbone`); layers above the highest one used in training are not
        stored."""
        if layer is not None:
            (number,) = hf.resolve_layers(layer, self.depth, where="this network")
            highest = max(self.tap.layers)
            if number > highest:
                raise ConfigError(
                    f"layer={layer}: the network was trained on layer {highest} of {self.depth} and has none above it; "
                    f"give 0 to {highest}"
                )
            self.tap.remove()
            self.tap = LayerTap(self.model, [*self.tap.layers[:-1], number], self.depth)
        self.plain_pooling = pooling or self.plain_pooling

    def _pooled(self, features: torch.Tensor, lengths_B: Lengths) -> tuple[torch.Tensor, torch.Tensor | None]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            last_BTD, valid_BT = self.run_model(features, lengths_B)
        layers = self.tap.take(last_BTD)
        plain_BD = pool(layers[-1], valid_BT, self.plain_pooling)
        if not self.has_layer_weights:
            return plain_BD, None
        is_raw = self.settings.layer_weighting == "raw"
        shares_N = self.layer_weights if is_raw else torch.softmax(self.layer_weights, dim=0)
        pooled = (pool(layer_BTD, valid_BT, self.settings.pooling) for layer_BTD in layers[:-1])
        return plain_BD, sum(share * layer_BD for share, layer_BD in zip(shares_N, pooled, strict=True))

    def train(self, mode: bool = True) -> SpeechBackbone:
        """Set the mode, but keep a frozen model in evaluation mode: no dropout below the heads."""
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
