"""Any number of rows through a TensorFlow function in few shapes and bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from voxshard.encoders.device_request import device_fault
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
        except (tf.errors.ResourceExhaustedError, tf.errors.InternalError) as exc:
            if not _is_out_of_memory(exc):
                _raise_for_device(exc)
                raise
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


def _raise_for_device(exc: tf.errors.OpError) -> None:
    """Raise DeviceFaultError if an error of TensorFlow reports a GPU, a driver or a library of CUDA that fails."""
    text = str(exc)
    if any(sign in text for sign in ("CUDA_ERROR_", "CUDA error", "CUBLAS_STATUS_", "CUDNN_STATUS_")):
        raise device_fault("GPU", text.splitlines()[0]) from exc


def _is_out_of_memory(exc: tf.errors.OpError) -> bool:
    """Return whether an error reports lack of memory: CUDA's libraries report theirs as internal errors."""
    signs = ("out of memory", "OUT_OF_MEMORY", "failed to allocate", "ALLOC_FAILED")
    return isinstance(exc, tf.errors.ResourceExhaustedError) or any(sign.lower() in str(exc).lower() for sign in signs)
