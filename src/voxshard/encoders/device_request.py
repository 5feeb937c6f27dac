"""Meaning of `--device` in any framework."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator

from voxshard.errors import ConfigError, DeviceFaultError, DeviceUnavailableError

_DEVICE = re.compile(r"(auto|cpu|cuda)(?:(?<=cuda):(\d+))?")
_EXPECTED = "expected auto, cpu, cuda or cuda:N"


def parse_device(request: str) -> tuple[str, int]:
    """Parse `--device`.

    Parameters
    ----------
    request : "auto", "cpu", "cuda" or "cuda:N".

    Returns
    -------
    "auto", "cpu" or "cuda", and the number of the GPU, 0 where none is named.

    Raises
    ------
    ConfigError : not one of these.
    """
    found = _DEVICE.fullmatch(request)
    if found is None:
        raise ConfigError(f"--device {request}: {_EXPECTED}")
    return found[1], int(found[2] or 0)


def _known(request: str) -> str:
    if not _DEVICE.fullmatch(request):
        raise ValueError(_EXPECTED)
    return request


DeviceRequest = Annotated[str, AfterValidator(_known)]
"""Type of a setting that is a device: auto, cpu, cuda or cuda:N."""


def allotted_gpus(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the GPUs that SLURM gave this job, as its variables name them; None outside a job, or without GPUs."""
    if "SLURM_JOB_ID" not in environment:
        return None
    lists = [name for name in ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS") if environment.get(name)]
    count = ["SLURM_GPUS_ON_NODE"] if environment.get("SLURM_GPUS_ON_NODE", "0") not in ("", "0") else []
    return next((f"{name}={environment[name]}" for name in [*lists, *count]), None)


def check_allotted(obstacle: str) -> None:
    """Make sure that `auto` may mean the CPU: a GPU that is billed and cannot be used is no reason to work without it.

    Parameters
    ----------
    obstacle : why no GPU can be used.

    Raises
    ------
    DeviceUnavailableError : this job was given a GPU.
    """
    if gpus := allotted_gpus():
        raise DeviceUnavailableError(
            f"this job was given a GPU ({gpus}) and cannot use it: {obstacle}. Is the driver as new as the framework "
            "needs (`nvidia-smi` on this node), and is an image started with `--nv`? To work on the CPU: --device cpu, "
            "on a partition without GPUs"
        )


_OUT_OF_MEMORY = (
    "out of memory",
    "out_of_memory",
    "allocate memory",
    "failed to allocate",
    "not enough memory",
    "alloc_failed",
    "unable to find an engine",  # cuDNN, where no algorithm's workspace fits into what is left; in TensorFlow:
    "no algorithm worked",
)
_DEVICE_FAULTS = (
    "cuda error", "cuda_error_", "cuda driver error", "cuda failure", "cublas_status_", "cublas failure",
    "blas support", "cudnn error", "cudnn_status_", "cudnn failure", "cudnn failed", "cudnn launch failure",
    "dnn library", "nccl error",
)  # fmt: skip
"""What messages of a failing GPU, driver or library contain, in lower case: ECC errors, illegal accesses, busy or
unavailable devices. After any of them the CUDA context gives no reliable results."""


def is_out_of_memory(text: str) -> bool:
    """Whether a message, in any framework, reports lack of memory."""
    return any(sign in text.lower() for sign in _OUT_OF_MEMORY)


def is_device_fault(text: str) -> bool:
    """Whether a message, in any framework, reports a failure of a GPU, a driver or a CUDA library."""
    return any(sign in text.lower() for sign in _DEVICE_FAULTS) and not is_out_of_memory(text)


def device_fault(device: str, reason: str) -> DeviceFaultError:
    """Return the error for a GPU or driver that fails, in any framework."""
    return DeviceFaultError(
        f"{device} on {os.uname().nodename}: {reason}; the GPU or its driver fails. Run the same command on another "
        "machine: finished shards are kept"
    )
