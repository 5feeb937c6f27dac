"""Number of CPUs that this process may use, and a check that its address space suffices for them."""

from __future__ import annotations

import math
import os
import resource
from pathlib import Path

from voxshard.errors import EnvironmentProblemError

_BASE_BYTES = 640 << 20
_BYTES_PER_THREAD = 64 << 20
_MAX_THREADS = 64
"""Address space of the libraries without work, measured at 2 CPUs, and per thread of OpenBLAS, which has at most 64."""


def available_cpus() -> int:
    """Return the CPUs that SLURM gave this task, or that affinity and the cgroup's quota leave; at least 1."""
    from_slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if from_slurm.isdigit() and int(from_slurm) > 0:
        return int(from_slurm)
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(affinity, math.ceil(quota)) if quota else affinity)


def _cgroup_quota() -> float | None:
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if limit == "max" else int(limit) / int(period)


def decode_workers(*, encodes_in_prepare: bool) -> int:
    """Return the default number of decode workers: all CPUs if they do all the work, else all but two."""
    cpus = available_cpus()
    return cpus if encodes_in_prepare else max(1, cpus - 2)


def check_address_space() -> None:
    """Check that `ulimit -v` leaves what the libraries need before any work.

    OpenBLAS asks for its buffers in an endless loop when it is loaded and there are none, so that a command would
    neither work nor end.

    Raises
    ------
    EnvironmentProblemError : the limit is below that.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    needed = _BASE_BYTES + _BYTES_PER_THREAD * min(affinity, _MAX_THREADS)
    if limit != resource.RLIM_INFINITY and limit < needed:
        raise EnvironmentProblemError(
            f"`ulimit -v` leaves this process {limit >> 10:,} kB of address space; loading the numerical libraries on "
            f"{affinity} CPUs takes {needed >> 10:,} kB. Raise the limit (`ulimit -v unlimited`, or more --mem)"
        )
