"""Arithmetic of a forward pass. Settings of the complete process are put back afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from voxshard.encoders.base import Precision

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """Run the block in the given precision.

    float32 is IEEE float32: TF32 is off both in matrix products and in cuDNN's convolutions, whatever the process had
    set. tf32 turns it on in both. bf16 and fp16 are PyTorch's autocast: products and convolutions in 16 bits, sums
    along the residual stream, normalisations and softmax in float32.
    """
    half = _HALF.get(precision)
    with ExitStack() as on_gpu:
        if device.type == "cuda":
            on_gpu.enter_context(tensor_cores(precision))
            on_gpu.enter_context(stable_attention())
        on_gpu.enter_context(torch.autocast(device.type, dtype=half, enabled=half is not None))
        yield


@contextmanager
def tensor_cores(precision: Precision) -> Iterator[None]:
    """Compute the process's float32 products and convolutions in TF32, or not, for the duration of the block."""
    earlier = [backend.fp32_precision for backend in _backends()]
    _set(["tf32" if precision == "tf32" else "ieee"] * len(earlier))
    try:
        yield
    finally:
        _set(earlier)


def _backends() -> list[Any]:
    return [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn]


def _set(modes: Sequence[str]) -> None:
    """Set PyTorch's older switch (`allow_tf32`) and its newer one (`fp32_precision`) together.

    Where the two disagree, whatever reads the older one raises: TunableOp does, and so does code that runs after
    SpeechBrain, whose import sets it.
    """
    torch.backends.cuda.matmul.allow_tf32 = modes[0] == "tf32"
    torch.backends.cudnn.allow_tf32 = modes[1] == modes[2] == "tf32"
    for backend, mode in zip(_backends(), modes, strict=True):
        backend.fp32_precision = mode


@contextmanager
def stable_attention() -> Iterator[None]:
    """Keep cuDNN out of scaled dot-product attention for the duration of the block.

    On compute capability 9.0 that backend builds a plan for every new shape, which takes longer than the batch, and
    gradients through it have been reported as NaN. The flash and memory-efficient kernels take any shape.
    """
    earlier = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(earlier)
