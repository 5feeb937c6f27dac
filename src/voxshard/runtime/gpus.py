"""Which GPUs this machine lets us use; asked of the driver's own tool, so that no framework is needed."""

from __future__ import annotations

import os
import subprocess

from voxshard.runtime.image_command import ENVIRONMENT_PREFIXES

_VARIABLE = "CUDA_VISIBLE_DEVICES"
_QUERY = ("nvidia-smi", "--query-gpu=index", "--format=csv,noheader")


def usable_gpus() -> list[str]:
    """Names of the GPUs, as CUDA_VISIBLE_DEVICES takes them: what it allows, else all that the driver lists."""
    allowed = os.environ.get(_VARIABLE)
    if allowed is not None:
        names = [name.strip() for name in allowed.split(",")]
        return [] if "-1" in names else [name for name in names if name]
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, timeout=30, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return []
    # "No devices were found" comes with exit code 0.
    return [line.strip() for line in done.stdout.splitlines() if line.strip().isdigit()]


MIN_DRIVERS = {"PyTorch": 580, "TensorFlow": 525}
"""Framework -> the oldest major version of NVIDIA's driver that its locked wheels run on: CUDA 13.0 and CUDA 12 with
minor-version compatibility (NVIDIA, CUDA Toolkit release notes, table of minimum driver versions)."""


def driver_version() -> str | None:
    """Return the version of this machine's NVIDIA driver, such as `580.65.06`; None where there is none."""
    query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return None
    first = (done.stdout.split() or [""])[0]
    return first if first.partition(".")[0].isdigit() else None


def only(gpu: str) -> dict[str, str]:
    """The environment in which a process sees one GPU, in an image too."""
    return {f"{prefix}{_VARIABLE}": gpu for prefix in ("", *ENVIRONMENT_PREFIXES)}
