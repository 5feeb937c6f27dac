"""The encoder half of RepCodec, the semantic codec of MaskGCT and Metis: features in, 8-D latents and tokens out.

Written from the published layout of `semantic_codec/model.safetensors`; only the keys named here are read.
Suffixes: B utterances, T padded frames, H hidden size of the features, C channels inside, D size of a latent.

References
----------
Amphion d3de90f: models/codec/kmeans/{repcodec_model,vocos}.py, models/codec/amphion_codec/quantize; Vocos,
https://arxiv.org/abs/2306.00814; MaskGCT, https://arxiv.org/abs/2409.00750
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn import functional

from voxshard.errors import CorruptFileError

_QUANTIZER = "quantizer.quantizers.0."
_EPS = 1e-6  # of every LayerNorm of Vocos
_TOKEN_BLOCK = 8192  # frames compared with the codebook at a time: 256 MB of distances


class ConvNeXtBlock(nn.Module):  # type: ignore[misc]  # torch is Any where it is not installed
    """Depthwise convolution, LayerNorm, two linear layers, a learned scale, and the input added."""

    def __init__(self, channels: int, intermediate: int, kernel: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=_EPS)
        self.pwconv1 = nn.Linear(channels, intermediate)
        self.pwconv2 = nn.Linear(intermediate, channels)
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x_BCT: torch.Tensor) -> torch.Tensor:
        """Apply the block to (B, C, T); the shape does not change."""
        inner_BTC = self.norm(self.dwconv(x_BCT).transpose(1, 2))
        inner_BTC = self.gamma * self.pwconv2(functional.gelu(self.pwconv1(inner_BTC)))
        return x_BCT + inner_BTC.transpose(1, 2)


class VocosBackbone(nn.Module):  # type: ignore[misc]  # torch is Any where it is not installed
    """A convolution, then ConvNeXt blocks; exact in padded batches."""

    def __init__(self, hidden: int, channels: int, intermediate: int, num_blocks: int, kernel: int) -> None:
        super().__init__()
        self.embed = nn.Conv1d(hidden, channels, kernel, padding=kernel // 2)
        self.norm = nn.LayerNorm(channels, eps=_EPS)
        self.convnext = nn.ModuleList(ConvNeXtBlock(channels, intermediate, kernel) for _ in range(num_blocks))
        self.final_layer_norm = nn.LayerNorm(channels, eps=_EPS)

    def forward(self, x_BHT: torch.Tensor, valid_BT: torch.Tensor) -> torch.Tensor:
        """(B, H, T) to (B, T, C). Zeroed before every convolution, padding acts as the end of a file does."""
        invalid_B1T = ~valid_BT[:, None]
        x_BCT = self.embed(x_BHT.masked_fill(invalid_B1T, 0))
        x_BCT = self.norm(x_BCT.transpose(1, 2)).transpose(1, 2)
        for block in self.convnext:
            x_BCT = block(x_BCT.masked_fill(invalid_B1T, 0))
        normed: torch.Tensor = self.final_layer_norm(x_BCT.transpose(1, 2))
        return normed


class RepCodecEncoder(nn.Module):  # type: ignore[misc]  # torch is Any where it is not installed
    """Normalised features to latents, and latents to tokens."""

    def __init__(self, backbone: VocosBackbone, hidden: int, latent: int, num_tokens: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.to_hidden = nn.Linear(backbone.norm.normalized_shape[0], hidden)
        self.in_project = nn.Linear(hidden, latent)
        self.codebook = nn.Parameter(torch.empty(num_tokens, latent))

    def forward(self, features_BTH: torch.Tensor, valid_BT: torch.Tensor) -> torch.Tensor:
        """Return latents (B, T, D), before the L2 normalisation of the quantiser.

        Parameters
        ----------
        features_BTH : float32 (B, T, H), normalised; what is not valid is never read.
        valid_BT : bool (B, T).
        """
        latents: torch.Tensor = self.in_project(self.to_hidden(self.backbone(features_BTH.transpose(1, 2), valid_BT)))
        return latents

    def tokens(self, latents_BTD: torch.Tensor) -> torch.Tensor:
        """Return semantic tokens int64 (B, T): the codebook entry nearest to each latent, both L2-normalised."""
        directions = functional.normalize(latents_BTD.flatten(0, 1), dim=-1)
        codebook = functional.normalize(self.codebook, dim=-1)
        squares = codebook.square().sum(dim=-1)
        nearest = [(squares - 2 * block @ codebook.T).argmin(dim=-1) for block in directions.split(_TOKEN_BLOCK)]
        return torch.cat(nearest).view(latents_BTD.shape[:2])


def latent_size(path: Path) -> int:
    """Return the size D of the latents of a codec file, from its header alone."""
    with _opened(path) as tensors:
        return int(tensors.get_slice(_QUANTIZER + "in_project.bias").get_shape()[0])


def load_repcodec(path: Path) -> RepCodecEncoder:
    """Build the encoder from a codec file; every size comes from the shapes of its tensors.

    Raises
    ------
    CorruptFileError : unreadable, or a tensor is missing or has a shape that does not fit the others.
    """
    with _opened(path) as tensors:
        state = {name: tensors.get_tensor(name) for name in tensors.keys() if name.startswith(("encoder.", _QUANTIZER))}  # noqa: SIM118
    try:
        channels, hidden, kernel = state["encoder.0.embed.weight"].shape
        intermediate = state["encoder.0.convnext.0.pwconv1.weight"].shape[0]
        num_blocks = len({name.split(".")[3] for name in state if name.startswith("encoder.0.convnext.")})
        num_tokens, latent = state[_QUANTIZER + "codebook.weight"].shape
        backbone = VocosBackbone(hidden, channels, intermediate, num_blocks, kernel)
        model = RepCodecEncoder(backbone, hidden, latent, num_tokens)
        prefix = "encoder.0."
        backbone.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        model.to_hidden.load_state_dict({key: state[f"encoder.1.{key}"] for key in ("weight", "bias")})
        model.in_project.load_state_dict(_unnormed(state))
        model.codebook.data.copy_(state[_QUANTIZER + "codebook.weight"])
    except (KeyError, ValueError, RuntimeError) as exc:
        raise CorruptFileError(
            f"{path}: not the tensors of a semantic codec: {str(exc).splitlines()[0]}; is it another model's file?"
        ) from exc
    return model


def _unnormed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """in_project without its weight normalisation: w = g v / |v|, norms over all but the first axis."""
    gain, direction = state[_QUANTIZER + "in_project.weight_g"], state[_QUANTIZER + "in_project.weight_v"]
    weight = gain * direction / direction.norm(dim=(1, 2), keepdim=True)
    return {"weight": weight[:, :, 0], "bias": state[_QUANTIZER + "in_project.bias"]}


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as exc:
        raise CorruptFileError(f"{path}: not a readable safetensors file: {exc}; fetch it again") from exc
