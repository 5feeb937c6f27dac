"""Which device, and what its errors mean."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from voxshard.encoders.device_request import parse_device
from voxshard.errors import DeviceMemoryError, DeviceUnavailableError, EnvironmentProblemError


def resolve_device(request: str) -> tuple[str, str]:
    """Turn `--device` into a device, and say why it is that one.

    Parameters
    ----------
    request : "auto", "cpu", "cuda" or "cuda:N".

    Returns
    -------
    ("cpu" or "cuda:N", one clause for the log).

    Raises
    ------
    ConfigError : not one of these.
    DeviceUnavailableError : a GPU was asked for and cannot be used; says what to check.
    """
    kind, index = parse_device(request)
    if kind == "cpu":
        return "cpu", "asked for"
    obstacle = _cuda_obstacle()
    if kind == "auto":
        return ("cpu", f"no GPU can be used: {obstacle}") if obstacle else ("cuda:0", _gpu_name(0))
    if obstacle:
        raise DeviceUnavailableError(
            f"--device {request}: {obstacle}; ask for a GPU (`#SBATCH --gpus=1` and a GPU partition; `--nv` with"
            " Apptainer), or run with `--device cpu`"
        )
    count = torch.cuda.device_count()
    if index >= count:
        raise DeviceUnavailableError(
            f"--device {request}: this process sees {count} GPU{'s' if count != 1 else ''}"
            f" (CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}), numbered from 0"
        )
    return f"cuda:{index}", f"asked for, {_gpu_name(index)}"


def _gpu_name(index: int) -> str:
    return str(torch.cuda.get_device_name(index))


def _cuda_obstacle() -> str | None:
    """Why CUDA cannot be used, or None."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    with warnings.catch_warnings(record=True) as caught:  # a broken driver speaks through warnings
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    if usable:
        return None
    if caught:
        return str(caught[0].message).splitlines()[0]
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return "CUDA_VISIBLE_DEVICES is empty"
    return "torch sees no CUDA device"


def check_placement(model: torch.nn.Module, device: torch.device) -> None:
    """Make sure that every parameter and buffer is where it was sent.

    Raises
    ------
    EnvironmentProblemError : names those that are not.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    astray = [name for name, tensor in tensors if tensor.device != device]
    if astray:
        raise EnvironmentProblemError(f"after loading onto {device}, still elsewhere: {', '.join(astray[:5])}")


@contextmanager
def memory_errors(device: torch.device) -> Iterator[None]:
    """Turn lack of memory, in whichever form it comes, into DeviceMemoryError."""
    try:
        yield
    except (RuntimeError, MemoryError) as exc:
        if not _is_out_of_memory(exc):
            raise
        if device.type == "cuda":
            torch.cuda.empty_cache()  # what is cached in other sizes may serve the smaller batch
        first_line = (str(exc) or type(exc).__name__).splitlines()[0]
        raise DeviceMemoryError(f"{device}: out of memory: {first_line}") from exc


def _is_out_of_memory(exc: BaseException) -> bool:
    if isinstance(exc, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(exc)
    return any(
        sign in text for sign in ("out of memory", "can't allocate memory", "not enough memory", "_STATUS_ALLOC_FAILED")
    )
