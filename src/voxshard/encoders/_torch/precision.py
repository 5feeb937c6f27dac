"""Arithmetic of a forward pass. Settings of the whole process are put back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

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
    on_gpu = tensor_cores(precision) if device.type == "cuda" else nullcontext()
    with on_gpu, torch.autocast(device.type, dtype=half, enabled=half is not None):
        yield


@contextmanager
def tensor_cores(precision: Precision) -> Iterator[None]:
    """Float32 products and convolutions of the whole process in TF32, or not."""
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    earlier = matmul.fp32_precision, convolution.fp32_precision
    matmul.fp32_precision = convolution.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision, convolution.fp32_precision = earlier
