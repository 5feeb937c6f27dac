"""Rows through a TensorFlow function: every one once, in few shapes, in less memory where memory is short."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from voxshard.encoders._tensorflow import saved_model
from voxshard.encoders._tensorflow.batches import in_batches
from voxshard.errors import DeviceFaultError, DeviceMemoryError


class Doubling:
    """Doubles rows; out of memory beyond `most` of them."""

    def __init__(self, most: int = 10**6) -> None:
        self.most = most
        self.sizes: list[int] = []

    def __call__(self, batch: tf.Tensor) -> tf.Tensor:
        if len(batch) > self.most:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        self.sizes.append(len(batch))
        return batch * 2


def apply(function: Callable[[tf.Tensor], Any], order: list[int]) -> np.ndarray:
    rows = np.arange(1000, dtype=np.float32)[:, None]
    found = np.full((len(order), 1), np.nan, np.float32)
    for place, result in in_batches(function, rows, np.array(order)):
        assert np.isnan(found[place]).all()
        found[place] = result
    return found[:, 0]


@settings(max_examples=40, deadline=None)
@given(order=st.lists(st.integers(0, 999), min_size=1, max_size=200), most=st.sampled_from([2, 5, 16, 64, 10**6]))
def test_every_row_comes_back_once_in_its_place(order: list[int], most: int) -> None:
    function = Doubling(most)
    np.testing.assert_array_equal(apply(function, order), 2.0 * np.array(order))
    assert set(function.sizes) <= {2, 4, 8, 16, 32, 64}


def test_a_row_alone_travels_in_company() -> None:
    function = Doubling()
    assert apply(function, [7]).tolist() == [14.0]
    assert function.sizes == [2]


def test_too_little_memory_for_the_smallest_batch_is_an_error() -> None:
    expected = "2 inputs of shape (1,) do not fit in the device's memory; is another process on it?"
    with pytest.raises(DeviceMemoryError, match=f"^{re.escape(expected)}$"):
        apply(Doubling(1), [1, 2, 3])


class Late:
    """A result whose computation fails when it is read, as on a GPU."""

    def __init__(self, batch: tf.Tensor, most: int) -> None:
        self.batch, self.most = batch, most

    def numpy(self) -> np.ndarray:
        if len(self.batch) > self.most:
            raise tf.errors.InternalError(None, None, "Failed call to cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY")
        return (self.batch * 2).numpy()


@pytest.mark.parametrize("most", [2, 8, 64])
def test_memory_that_is_missed_when_a_result_is_read_costs_no_row(most: int) -> None:
    order = list(range(300))
    assert apply(lambda batch: Late(batch, most), order).tolist() == [2.0 * row for row in order]


def test_the_next_batch_is_begun_before_a_result_is_read() -> None:
    events: list[str] = []

    class Recorded(Late):
        def numpy(self) -> np.ndarray:
            events.append("read")
            return super().numpy()

    def function(batch: tf.Tensor) -> Recorded:
        events.append("begin")
        return Recorded(batch, 64)

    apply(function, list(range(192)))
    assert events == ["begin", "begin", "read", "begin", "read", "read"]


def test_other_internal_errors_are_not_taken_for_lack_of_memory() -> None:
    def function(batch: tf.Tensor) -> tf.Tensor:
        raise tf.errors.InternalError(None, None, "the graph is broken")

    with pytest.raises(tf.errors.InternalError, match="the graph is broken"):
        apply(function, [1, 2, 3])


FAULTS = [
    tf.errors.InternalError(None, None, "CUDA_ERROR_ECC_UNCORRECTABLE: uncorrectable ECC error encountered"),
    tf.errors.InternalError(None, None, "Failed to create cuBLAS handle: CUBLAS_STATUS_NOT_INITIALIZED"),
    tf.errors.UnknownError(None, None, "Failed to get convolution algorithm: cuDNN failed to initialize"),
    tf.errors.UnimplementedError(None, None, "DNN library is not found."),
]


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: error.message[:20])
def test_a_gpu_that_fails_is_a_fault_of_the_machine(error: tf.errors.OpError) -> None:
    def function(batch: tf.Tensor) -> tf.Tensor:
        raise error

    with pytest.raises(DeviceFaultError, match="the GPU or its driver fails"):
        apply(function, [1, 2, 3])


@pytest.mark.parametrize("error", FAULTS[:1])
def test_a_gpu_that_fails_while_a_model_is_loaded_is_no_damaged_file(
    monkeypatch: pytest.MonkeyPatch, error: tf.errors.OpError
) -> None:
    """A damaged file would end the chain of an experiment; another machine can load this one."""

    def fails(path: str) -> None:
        raise error

    model = saved_model.ClipModel(Path("folder"), "trillsson3", ("saved_model.pb",), 1024)
    monkeypatch.setattr(saved_model.tf.saved_model, "load", fails)
    with pytest.raises(DeviceFaultError, match="uncorrectable ECC error"):
        saved_model.load(model, 1024)
    monkeypatch.setattr(saved_model.tf.saved_model, "load", lambda path: lambda clips: fails(path))
    with pytest.raises(DeviceFaultError, match="uncorrectable ECC error"):
        saved_model.load(model, 1024)


def test_a_package_that_is_missing_while_a_model_is_loaded_is_no_damaged_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: str) -> None:
        raise ModuleNotFoundError("No module named 'made_up'")

    monkeypatch.setattr(saved_model.tf.saved_model, "load", fails)
    with pytest.raises(ModuleNotFoundError, match="made_up"):
        saved_model.load(saved_model.ClipModel(Path("folder"), "trillsson3", ("saved_model.pb",), 1024), 1024)


def test_a_convolution_without_room_for_any_algorithm_is_tried_in_smaller_batches() -> None:
    def function(batch: tf.Tensor) -> tf.Tensor:
        if len(batch) > 8:
            raise tf.errors.NotFoundError(None, None, "No algorithm worked!  Error messages: ...")
        return batch * 2

    assert apply(function, list(range(100))).tolist() == [2.0 * row for row in range(100)]
