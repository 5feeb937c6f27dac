"""Several batches at once on a CPU, each computed by its own threads.

The threads of one batch wait for each other after every operation; batches do not. Two batches on one thread each
need less of two cores than one batch on two threads, far less where cores are shared.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

from voxshard.cpus import available_cpus

MAX_STREAMS = 8
"""Every batch under way holds its activations; more cores than these go to the threads of each."""

T = TypeVar("T")


class Streams(Generic[T]):
    """Threads that each run one call at a time, on its share of the CPUs."""

    def __init__(self) -> None:
        num_threads = min(torch.get_num_threads(), available_cpus())
        self.count = min(num_threads, MAX_STREAMS)
        each = num_threads // self.count
        all_ready = threading.Barrier(self.count + 1)

        def begin() -> None:
            torch.get_num_threads()  # asked first, a thread takes the process's number, and keeps what is set then
            torch.set_num_threads(each)
            all_ready.wait()

        self._threads = ThreadPoolExecutor(self.count, thread_name_prefix="stream")
        for _ in range(self.count):
            self._threads.submit(begin)
        own = torch.get_num_threads()
        all_ready.wait()
        torch.set_num_threads(own)  # it is also what threads begun later start with

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Run `function` as soon as a thread is free, in the order of the calls."""
        return self._threads.submit(function)
