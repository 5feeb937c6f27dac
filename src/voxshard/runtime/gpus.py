"""GPUs that this process may use, asked of the driver's own tool, so that no framework is needed."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass

from voxshard.runtime.image_command import ENVIRONMENT_PREFIXES

_VARIABLE = "CUDA_VISIBLE_DEVICES"
_LISTED = re.compile(r"(?P<slice> *MIG )?.*\(UUID: (?P<uuid>(?:GPU|MIG)-[^)]+)\)")
_SLICE_GB = re.compile(r"MIG \d+\w*\.(\d+)gb")
"""The name of a MIG profile ends with its memory: 3g.20gb (NVIDIA, Multi-Instance GPU User Guide, Device Names)."""

MIN_DRIVERS = {"PyTorch": 580, "TensorFlow": 525}
"""Framework -> the oldest major version of NVIDIA's driver that its locked wheels run on: CUDA 13.0 and CUDA 12 with
minor-version compatibility (NVIDIA, CUDA Toolkit release notes, table of minimum driver versions)."""

ROOMY_GB = 9.0
"""Memory of a GPU on which the default batch of 320 padded seconds fits, in GB of 10^9 bytes: up to 6.5 for the tensors
of the largest published models (bench/memory.py), 0.5 for the CUDA context, a quarter more for the allocator."""


@dataclass(frozen=True)
class Gpu:
    """GPU, or a slice of one, that a process can be given."""

    uuid: str
    memory_gb: float


def usable_gpus() -> list[str]:
    """Return the names of the usable GPUs: those that CUDA_VISIBLE_DEVICES allows, else all that the driver lists.

    Those of the driver are UUIDs, since the driver and CUDA number GPUs in different orders. Of a GPU that is divided
    (MIG) each slice is one.
    """
    allowed = os.environ.get(_VARIABLE)
    return [gpu.uuid for gpu in listed_gpus()] if allowed is None else visible(allowed)


def visible(names: str) -> list[str]:
    """Return the GPUs that a value of CUDA_VISIBLE_DEVICES allows, as CUDA reads it.

    Numbers, UUIDs of GPUs, or of MIG slices, all of one kind. What comes after a name of another kind is ignored, and a
    name that appears twice makes the value void (CUDA C++ Programming Guide, CUDA Environment Variables).
    """
    found: list[str] = []
    kind = next((prefix for prefix in ("GPU-", "MIG-") if names.strip().startswith(prefix)), "")
    for name in (item.strip() for item in names.split(",")):
        if name in found:
            return []
        if not (name.startswith(kind) if kind else name.isdecimal()):
            break
        found.append(name)
    return found


def listed_gpus() -> list[Gpu]:
    """Return the GPUs and MIG slices of this machine, from the driver's tool; none if there is no driver."""
    sizes = [line.split(", ") for line in _smi("--query-gpu=uuid,memory.total", "--format=csv,noheader,nounits")]
    memory_mib = {line[0]: line[-1] for line in sizes}
    found: list[Gpu] = []
    for line in _smi("-L"):  # "No devices were found" comes with exit code 0
        match = _LISTED.match(line)
        if match is None:
            continue
        if match["slice"] is None:
            size = memory_mib.get(match["uuid"], "")
            found.append(Gpu(match["uuid"], int(size) * 2**20 / 1e9 if size.isdecimal() else 0.0))
            continue
        if found and found[-1].uuid.startswith("GPU-"):
            found.pop()  # a GPU that is divided cannot be used itself
        profile = _SLICE_GB.search(line)
        found.append(Gpu(match["uuid"], float(profile[1]) if profile else 0.0))
    return found


def driver_version() -> str | None:
    """Return the version of this machine's NVIDIA driver, such as `580.65.06`; None where there is none."""
    first = next(iter(_smi("--query-gpu=driver_version", "--format=csv,noheader")), "")
    return first if first.partition(".")[0].isdigit() else None


def only(gpu: str) -> dict[str, str]:
    """Return the environment in which a process sees one GPU, in an image too."""
    return {f"{prefix}{_VARIABLE}": gpu for prefix in ("", *ENVIRONMENT_PREFIXES)}


def _smi(*words: str) -> list[str]:
    """Return the lines that nvidia-smi prints; none if it does not work."""
    try:
        done = subprocess.run(
            ["nvidia-smi", *words], capture_output=True, text=True, timeout=30, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()
