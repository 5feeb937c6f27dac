"""VGGish in PyTorch, from weights converted once out of the TensorFlow checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from voxshard.encoders._torch.device import check_placement, memory_errors, on_device, resolve_device, take_device
from voxshard.encoders._torch.precision import arithmetic
from voxshard.encoders.base import Precision
from voxshard.encoders.vggish_weights import (
    CONVOLUTIONS,
    DENSE,
    EMBEDDING_SIZE,
    POOLED,
    Weights,
    bias_name,
    kernel_name,
    read_safetensors,
)

LARGEST_BATCH = 64
"""Patches per call; the first convolution's outputs then take 100 MB."""
SMALLEST_BATCH = 8
"""Fewer patches are filled up with zeros to this number: PyTorch's CPU kernels for smaller batches round otherwise, and
post-processing would turn that into other integers."""

choose_device = resolve_device


def load_network(
    path: Path, device: str, precision: Precision
) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    """Build the network on a device.

    Parameters
    ----------
    path : vggish.safetensors.

    Returns
    -------
    Function from float32 (P, 96, 64) patches to float32 (P, 128) embeddings before any activation.

    Raises
    ------
    CorruptFileError, MissingWeightsError : the file is damaged, or another model's.
    """
    target = take_device(device)
    with memory_errors(target):
        network = build_network(read_safetensors(path)).eval().requires_grad_(False).to(target)
    check_placement(network, target)

    def embed(patches: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        embedded: list[torch.Tensor] = []
        with memory_errors(target), torch.inference_mode(), arithmetic(precision, target):
            for start in range(0, len(patches), LARGEST_BATCH):
                chosen = patches[start : start + LARGEST_BATCH]
                batch = np.zeros((_padded_size(len(chosen)), 1, *patches.shape[1:]), np.float32)
                batch[: len(chosen), 0] = chosen
                embedded.append(network(on_device(batch, target))[: len(chosen)].float())
            # Read at the end: after every call a GPU would wait for the host.
            return torch.cat(embedded).cpu().numpy() if embedded else np.empty((0, EMBEDDING_SIZE), np.float32)

    return embed


def _padded_size(num_patches: int) -> int:
    """Return the next power of two: in each of these few shapes, a patch does not depend on its neighbours."""
    return max(SMALLEST_BATCH, 1 << (num_patches - 1).bit_length())


class _FlattenChannelsLast(torch.nn.Module):  # type: ignore[misc]
    """(B, C, H, W) to (B, H * W * C), the order in which TensorFlow lays out what the dense layers were trained on."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.permute(0, 2, 3, 1).flatten(1)


def build_network(weights: Weights) -> torch.nn.Module:
    """Build the network with its weights: (B, 1, 96, 64) to (B, 128)."""
    layers: list[torch.nn.Module] = []
    for name in CONVOLUTIONS:
        kernel = torch.from_numpy(weights[kernel_name(name)]).permute(3, 2, 0, 1)  # height, width, in, out
        convolution = torch.nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1, device="meta")
        layers += [_filled(convolution, kernel, weights[bias_name(name)]), torch.nn.ReLU()]
        if name in POOLED:
            layers.append(torch.nn.MaxPool2d(2))
    layers.append(_FlattenChannelsLast())
    for name in DENSE:
        kernel = torch.from_numpy(weights[kernel_name(name)]).T  # in, out
        layers.append(_filled(torch.nn.Linear(*kernel.T.shape, device="meta"), kernel, weights[bias_name(name)]))
        if name != DENSE[-1]:
            layers.append(torch.nn.ReLU())
    return torch.nn.Sequential(*layers)


def _filled(layer: torch.nn.Module, kernel: torch.Tensor, bias: npt.NDArray[np.float32]) -> torch.nn.Module:
    state = {"weight": kernel.contiguous(), "bias": torch.from_numpy(bias)}
    layer.load_state_dict(state, strict=True, assign=True)
    return layer
