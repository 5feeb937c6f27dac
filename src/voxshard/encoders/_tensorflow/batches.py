"""Apply a TensorFlow function to any number of rows in few shapes and bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from voxshard.encoders._tensorflow.device import problem_of
from voxshard.errors import DeviceMemoryError

LARGEST_BATCH = 64
"""Rows per call. With batches of 64, 32, ..., 2 TensorFlow meets six shapes, however many files pass through: for
every new shape it would keep another plan of its kernels, and its memory would grow with the corpus."""
IN_FLIGHT = 2
"""Calls begun before the first result is read: while a GPU computes one, the host prepares the next."""
SMALLEST_BATCH = 2
"""A row alone would go through matrix-vector kernels, which round otherwise than those that serve a batch."""


def in_batches(
    function: Callable[[tf.Tensor], tf.Tensor], rows: npt.NDArray[np.float32], order: npt.NDArray[np.int64]
) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
    """Apply `function` to chosen rows, batch by batch.

    Parameters
    ----------
    function : float32 (B, ...) to float32 (B, D), row by row.
    rows : float32 (N, ...); may be a strided view, only the batches in flight are copied.
    order : int64 (M,), which rows, in which order.

    Yields
    ------
    The batch's place in `order`, and its (b, D) results.

    Raises
    ------
    DeviceMemoryError : not even the smallest batch fits on the device.
    DeviceFaultError : the GPU or its driver fails.
    """
    size, done = LARGEST_BATCH, 0
    running: deque[tuple[slice, tf.Tensor]] = deque()
    while done < len(order) or running:
        try:
            if done < len(order) and len(running) < IN_FLIGHT:
                place = slice(done, min(done + size, len(order)))
                running.append((place, function(tf.constant(_padded(rows, order[place])))))
                done = place.stop
                continue
            place, tensor = running[0]
            result: npt.NDArray[Any] = tensor.numpy()
        except tf.errors.OpError as exc:
            problem = problem_of(exc)
            if problem is None:
                raise
            if not isinstance(problem, DeviceMemoryError):
                raise problem from exc
            if running:  # computed again in smaller batches, together with what was begun behind it
                done = running[0][0].start
                running.clear()
            if size <= SMALLEST_BATCH:
                raise DeviceMemoryError(
                    f"{SMALLEST_BATCH} inputs of shape {rows.shape[1:]} do not fit in the device's memory; is another"
                    " process on it?"
                ) from exc
            size //= 2
            continue
        running.popleft()
        yield place, result[: place.stop - place.start]


def _padded(rows: npt.NDArray[np.float32], chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    padded = max(SMALLEST_BATCH, 1 << (len(chosen) - 1).bit_length())
    batch = np.zeros((padded, *rows.shape[1:]), np.float32)
    batch[: len(chosen)] = rows[chosen]
    return batch
