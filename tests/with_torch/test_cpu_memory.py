"""What PyTorch keeps of the shapes it has met on a CPU."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

MakeFolder = Callable[..., Path]

# Bytes that are allocated and not freed, counted by the C library itself: no resident memory, which wavers.
_LIVE_BYTES_AFTER_MANY_SHAPES = """
import ctypes, sys
import numpy as np
from voxshard.encoders.registry import create

class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Mallinfo
encoder = create("hf", {"weights": sys.argv[1]})
encoder.load("cpu")

def live_after(shapes):
    for samples in shapes:
        encoder.start(np.zeros((2, samples), np.float32), np.array([samples] * 2))()
    found = libc.mallinfo2()
    return found.uordblks + found.hblkhd

few = live_after(range(4000, 4800, 20))
print(live_after(range(4800, 6400, 20)) - few)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="only glibc 2.33 and later count live bytes")
def test_memory_does_not_grow_with_the_number_of_batch_shapes(
    make_model: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):  # set in this process by our own import
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = [sys.executable, "-c", _LIVE_BYTES_AFTER_MANY_SHAPES, str(make_model("wav2vec2-group"))]
    grown = int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    assert (
        grown < 4 << 20
    )  # a plan of one convolution takes 22 kB, and there are 8 per shape: 80 shapes would take 14 MB
