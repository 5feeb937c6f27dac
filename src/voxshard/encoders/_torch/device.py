"""Choice of the device, and the meaning of its errors."""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from voxshard.encoders.device_request import (
    check_allotted,
    device_fault,
    is_device_fault,
    is_out_of_memory,
    parse_device,
)
from voxshard.errors import (
    DeviceMemoryError,
    DeviceUnavailableError,
    EnvironmentProblemError,
    VoxshardError,
)
from voxshard.progress import counted


def resolve_device(request: str) -> tuple[str, str]:
    """Turn `--device` into a device, and report why it is that one.

    Parameters
    ----------
    request : "auto", "cpu", "cuda" or "cuda:N".

    Returns
    -------
    ("cpu" or "cuda:N", one clause for the log).

    Raises
    ------
    ConfigError : not one of these.
    DeviceUnavailableError : a GPU was asked for, or given to this job, and cannot be used; reports what to check.
    """
    kind, index = parse_device(request)
    if kind == "cpu":
        return "cpu", "asked for"
    obstacle = _cuda_obstacle()
    if kind == "auto":
        if obstacle:
            check_allotted(obstacle)
        return ("cpu", f"no GPU can be used: {obstacle}") if obstacle else ("cuda:0", _gpu_name(0))
    if obstacle:
        raise DeviceUnavailableError(
            f"--device {request}: {obstacle}; ask for a GPU (`#SBATCH --gpus=1` and a GPU partition; `--nv` with"
            " Apptainer), or run with `--device cpu`"
        )
    count = torch.cuda.device_count()
    if index >= count:
        raise DeviceUnavailableError(
            f"--device {request}: this process sees {counted(count, 'GPU')}"
            f" (CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}), numbered from 0"
        )
    return f"cuda:{index}", f"asked for, {_gpu_name(index)}"


def take_device(request: str) -> torch.device:
    """Return the device that a request means, as the current one of this thread: with another one, pinned memory would
    open a context on the first GPU, too. See `resolve_device` for what is raised."""
    device = torch.device(resolve_device(request)[0])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def _gpu_name(index: int) -> str:
    return str(torch.cuda.get_device_name(index))


def _cuda_obstacle() -> str | None:
    """Return why CUDA cannot be used, or None."""
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
    """Check that every parameter and buffer is on the device.

    Raises
    ------
    EnvironmentProblemError : names those that are not.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    astray = [name for name, tensor in tensors if tensor.device != device]
    if astray:
        raise EnvironmentProblemError(f"after loading onto {device}, still elsewhere: {', '.join(astray[:5])}")


def on_device(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """Return an array as a tensor on a device. The host does not wait for a GPU: the copy is queued from pinned memory,
    and `array` can be changed at once. On a CPU the tensor shares the memory of a writable array."""
    if device.type == "cpu":
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    staged = torch.empty(array.shape, dtype=torch.from_numpy(np.empty(0, array.dtype)).dtype, pin_memory=True)
    staged.numpy()[...] = array
    return staged.to(device, non_blocking=True)


@contextmanager
def memory_errors(device: torch.device) -> Iterator[None]:
    """Turn lack of memory, in whichever form it comes, into DeviceMemoryError, and a broken GPU into DeviceFaultError.

    The frames of the failed computation are cleared and its exception is dropped, so that its activations are free
    when the caller tries a smaller batch.

    Raises
    ------
    DeviceMemoryError : the computation does not fit; a smaller one may.
    DeviceFaultError : the GPU or its driver fails; the CUDA context is lost, and this process with it.
    """
    problem: VoxshardError
    try:
        yield
        return
    except (RuntimeError, MemoryError) as exc:
        first_line = (str(exc) or type(exc).__name__).splitlines()[0]
        if _is_out_of_memory(exc):
            problem = DeviceMemoryError(f"{device}: out of memory: {first_line}")
        elif _is_device_fault(exc):
            problem = device_fault(str(device), first_line)
        else:
            raise
        traceback.clear_frames(exc.__traceback__)
    if isinstance(problem, DeviceMemoryError) and device.type == "cuda":
        torch.cuda.empty_cache()  # what is cached in other sizes may serve the smaller batch
    raise problem


def _is_out_of_memory(exc: BaseException) -> bool:
    return isinstance(exc, torch.OutOfMemoryError | MemoryError) or is_out_of_memory(str(exc))


def _is_device_fault(exc: BaseException) -> bool:
    return isinstance(exc, torch.AcceleratorError) or is_device_fault(str(exc))
