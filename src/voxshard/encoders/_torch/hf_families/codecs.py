"""Neural codecs: what goes into the quantiser as frames, its tokens as codes; equal lengths share a batch.

Their convolutions see zeros or mirrored audio behind the end of a recording, so padding would change the last frames.
Suffixes: B utterances, C channels, S samples, T frames, D latent size, K codebooks.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from voxshard.encoders._torch.hf_families.base import Family, Hidden
from voxshard.encoders._torch.transformers_model import load_model
from voxshard.encoders.base import Features, Waveform
from voxshard.encoders.hf import HfSettings


@dataclass(frozen=True)
class PadToSteps:
    """Zeros at the end, up to `length` samples or the next `length` + n * `step`."""

    length: int
    step: int

    def __call__(self, waveform: Waveform) -> Features:
        """float32 (S,) to float32 (S',)."""
        steps = -(-max(0, len(waveform) - self.length) // self.step)
        return np.pad(waveform, (0, self.length + steps * self.step - len(waveform)))


class _Latents(threading.local):
    """What the quantiser was given in the batch that the calling thread computes."""

    def __init__(self) -> None:
        self.parts_BDT: list[torch.Tensor] = []


class Codec(Family):
    """A codec of transformers with `encode` and `quantizer`."""

    batch_policy = "equal_length"
    default_pooling = "none"
    gives_codes = True

    def __init__(self, folder: Path, config: Any, preprocessor: Mapping[str, Any], settings: HfSettings) -> None:
        super().__init__(folder, config, preprocessor, settings)
        self.only_last_layer()
        self.sample_rate = int(preprocessor.get("sampling_rate", config.sampling_rate))
        self.dim = int(config.hidden_size)
        self.hop_samples = self.find_hop()
        self.frame_rate_hz = self.sample_rate / self.hop_samples
        self._latents = _Latents()
        if settings.chunk_seconds is not None:
            self.chunk_samples = self.whole_steps(settings.chunk_seconds)

    @abstractmethod
    def find_hop(self) -> int:
        """Samples from one frame to the next."""

    def whole_steps(self, seconds: float) -> int:
        """Samples of a piece of about `seconds` that ends where a frame ends."""
        return max(1, round(seconds * self.sample_rate / self.hop_samples)) * self.hop_samples

    def build(self) -> torch.nn.Module:
        self.model = load_model(self.folder, self.config)
        self.model.decoder = None
        self.watch()
        return self.model  # type: ignore[no-any-return]

    def watch(self) -> None:
        """Keep what `quantizer.encode` is given."""
        encode = self.model.quantizer.encode

        def kept(embeddings_BDT: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self._latents.parts_BDT.append(embeddings_BDT)
            return encode(embeddings_BDT, *args, **kwargs)

        self.model.quantizer.encode = kept

    @abstractmethod
    def encode(self, values_B1S: torch.Tensor) -> torch.Tensor:
        """Codes (B, T, K) of one batch."""

    def run(
        self, features: torch.Tensor, lengths_B: npt.NDArray[np.int64], lengths_on_device_B: torch.Tensor
    ) -> Hidden:
        self._latents.parts_BDT = []
        codes_BTK = self.encode(features[:, None])
        latents_BTD = torch.cat(self._latents.parts_BDT, dim=-1).transpose(1, 2)
        self._latents.parts_BDT = []
        valid_BT = torch.ones(latents_BTD.shape[:2], dtype=torch.bool, device=features.device)
        return Hidden([latents_BTD], valid_BT, codes_BTK)

    def num_frames(self, length: int) -> int:
        return -(-length // self.hop_samples)


class Mimi(Codec):
    """Mimi: all its codebooks, the semantic one first."""

    def find_hop(self) -> int:
        return round(self.sample_rate / float(self.config.frame_rate))

    def encode(self, values_B1S: torch.Tensor) -> torch.Tensor:
        codes_BKT = self.model.encode(values_B1S, torch.ones_like(values_B1S, dtype=torch.bool)).audio_codes
        return codes_BKT.transpose(1, 2)


class Encodec(Codec):
    """EnCodec at its first bandwidth; the 48 kHz model's pieces of one second follow each other, in stereo."""

    def __init__(self, folder: Path, config: Any, preprocessor: Mapping[str, Any], settings: HfSettings) -> None:
        super().__init__(folder, config, preprocessor, settings)
        if config.chunk_length is not None:
            self.preparer = PadToSteps(int(config.chunk_length), int(config.chunk_stride))
            frames = -(-int(config.chunk_length) // self.hop_samples)
            self.frame_rate_hz = frames * self.sample_rate / int(config.chunk_stride)

    def find_hop(self) -> int:
        return int(np.prod(self.config.upsampling_ratios))

    def whole_steps(self, seconds: float) -> int:
        step = self.config.chunk_stride or self.hop_samples
        return max(1, round(seconds * self.sample_rate / step)) * int(step)

    def encode(self, values_B1S: torch.Tensor) -> torch.Tensor:
        values_BCS = values_B1S.expand(-1, int(self.config.audio_channels), -1)
        mask_BCS = torch.ones_like(values_BCS, dtype=torch.bool)
        codes_NBKT = self.model.encode(values_BCS, mask_BCS, return_dict=True).audio_codes
        codes_BTK = codes_NBKT.permute(1, 0, 3, 2).flatten(1, 2)
        return codes_BTK[:, : self.num_frames(values_B1S.shape[-1])]  # behind a short last piece there are zeros

    def num_frames(self, length: int) -> int:
        if self.config.chunk_length is None:
            return super().num_frames(length)
        piece = int(self.config.chunk_length)
        starts = range(0, length, int(self.config.chunk_stride))
        return sum(super(Encodec, self).num_frames(min(piece, length - start)) for start in starts)


class Dac(Codec):
    """Descript's codec; a recording is filled with zeros up to a multiple of its hop, as its extractor does."""

    def __init__(self, folder: Path, config: Any, preprocessor: Mapping[str, Any], settings: HfSettings) -> None:
        super().__init__(folder, config, preprocessor, settings)
        self.preparer = PadToSteps(self.hop_samples, self.hop_samples)

    def find_hop(self) -> int:
        return int(np.prod(self.config.downsampling_ratios))

    def watch(self) -> None:
        def keep(_module: Any, inputs: tuple[Any, ...]) -> None:
            self._latents.parts_BDT.append(inputs[0])

        self.model.quantizer.register_forward_pre_hook(keep)

    def encode(self, values_B1S: torch.Tensor) -> torch.Tensor:
        return self.model.encode(values_B1S).audio_codes.transpose(1, 2)  # type: ignore[no-any-return]
