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
    return done.stdout.split()


def only(gpu: str) -> dict[str, str]:
    """The environment in which a process sees one GPU, in an image too."""
    return {f"{prefix}{_VARIABLE}": gpu for prefix in ("", *ENVIRONMENT_PREFIXES)}
