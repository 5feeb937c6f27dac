"""Keep padding out of wav2vec 2.0 and similar models. Suffixes: B utterances, C channels, T padded frames."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import nn

from voxshard.encoders._torch.pooling import valid_mask


class ValidFrames(threading.local):
    """How long the rows are of the batch that the calling thread computes; others compute theirs meanwhile."""

    num_frames_B: torch.Tensor | None = None
    """int64 (B,), to be set before each batch; None: all frames are valid."""


class MaskedGroupNorm(nn.Module):  # type: ignore[misc]  # torch is Any where it is not installed
    """GroupNorm with one channel per group, with statistics over the valid frames of each utterance.

    The stock layer normalises over padding too, which no attention mask can undo: transformers issue 21534, fairseq
    issue 3227.
    """

    def __init__(self, stock: nn.GroupNorm) -> None:
        super().__init__()
        self.stock = stock
        self.valid = ValidFrames()

    def forward(self, x_BCT: torch.Tensor) -> torch.Tensor:
        """Normalise (B, C, T); the shape does not change."""
        num_frames_B = self.valid.num_frames_B
        if num_frames_B is None:
            return self.stock(x_BCT)  # type: ignore[no-any-return]
        invalid_B1T = ~valid_mask(num_frames_B, x_BCT.shape[-1])[:, None]
        count_B11 = num_frames_B[:, None, None]
        mean_BC1 = x_BCT.masked_fill(invalid_B1T, 0).sum(dim=-1, keepdim=True, dtype=torch.float32) / count_B11
        centred_BCT = (x_BCT - mean_BC1).masked_fill_(invalid_B1T, 0)
        norm_BC1 = torch.linalg.vector_norm(centred_BCT, dim=-1, keepdim=True, dtype=torch.float32)
        scale_BC1 = torch.rsqrt(norm_BC1.square() / count_B11 + self.stock.eps) * self.stock.weight[:, None]
        if centred_BCT.requires_grad:  # in place would overwrite what the gradient of the norm needs
            return (centred_BCT * scale_BC1 + self.stock.bias[:, None]).to(x_BCT.dtype)
        return centred_BCT.mul_(scale_BC1).add_(self.stock.bias[:, None]).to(x_BCT.dtype)


class FrameMask:
    """Zeroes what is beyond each utterance before every convolution of a module.

    A convolution pads with zeros. For an utterance that ends inside a padded batch its neighbours must be zero as
    well; normalisations and biases between stacked convolutions (data2vec-audio, HuBERT with batch norm) undo that.
    """

    def __init__(self, module: nn.Module) -> None:
        self.valid = ValidFrames()
        for convolution in module.modules():
            if isinstance(convolution, nn.Conv1d):
                convolution.register_forward_pre_hook(self._zero)

    def _zero(self, _module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        num_frames_B = self.valid.num_frames_B
        if num_frames_B is None:
            return None
        x_BCT = inputs[0]
        return (x_BCT.masked_fill(~valid_mask(num_frames_B, x_BCT.shape[-1])[:, None], 0), *inputs[1:])
