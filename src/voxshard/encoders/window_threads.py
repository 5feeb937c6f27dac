"""Threads that share the windows of encoders computed in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import ThreadpoolController

from voxshard.cpus import available_cpus

Item = TypeVar("Item")
Result = TypeVar("Result")


class WindowThreads:
    """One thread for each CPU, each with a single thread of BLAS.

    The products of one window are too small to share: threads of BLAS would wait for each other all the time.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(available_cpus())
        self._blas = ThreadpoolController().select(user_api="blas")

    def map(self, compute: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Return the result of each item, in order."""
        with self._blas.limit(limits=1):
            return list(self._threads.map(compute, items))
