"""Files that `torch.save` wrote, read as tensors by name and as nothing else."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch

from voxshard.encoders.device_request import is_out_of_memory
from voxshard.encoders.weight_files import refused_pickle
from voxshard.errors import CorruptFileError


def read_tensors(path: Path, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Read a state dict.

    Raises
    ------
    CorruptFileError : damaged, or anything but tensors by name.
    ImportError, MemoryError, OSError : a package, memory or storage is missing; no verdict on the file.
    """
    try:
        found = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as exc:
        raise refused_pickle(path) from exc
    except (ImportError, MemoryError):
        raise
    except Exception as exc:  # torch.load raises whatever its unpickler meets
        reason = (str(exc) or type(exc).__name__).splitlines()[0]
        if is_out_of_memory(str(exc)):
            raise MemoryError(f"{path}: {reason}") from exc
        if isinstance(exc, OSError) and exc.errno is not None:
            raise
        raise CorruptFileError(f"{path}: not a readable checkpoint: {reason}; fetch it again") from exc
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(item, torch.Tensor) for name, item in found.items()
    ):
        raise CorruptFileError(f"{path}: not a state dict, tensors by name")
    return found
