"""Checks of an encoder of another package: what it states of itself, and what its methods return or raise."""

from __future__ import annotations

import functools
import math
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint
from typing import Any, get_args

import numpy as np

from voxshard.encoders.base import BatchPolicy, Encoder, EncoderInfo, Output
from voxshard.errors import VoxshardError
from voxshard.plugins import broken
from voxshard.store.output_spec import GRANULARITIES

_OF_THE_MACHINE = (VoxshardError, MemoryError, OSError, ImportError)
"""Exceptions that say by themselves what is wrong, and are no bug of the encoder."""


def check_plugin(encoder: Encoder, point: EntryPoint) -> Encoder:
    """Return the encoder, its methods replaced by ones that check what they return.

    Raises
    ------
    BrokenPluginError : its `info` cannot be; its methods raise it for what they return, or for an exception of theirs.
    """
    if problem := info_problem(encoder.info):
        raise broken(point, f"its info: {problem}")
    encode, start, cost = encoder.encode, encoder.start, encoder.cost
    methods: dict[str, Callable[..., Any]]

    def checked_encode(features: Any, lengths: Any) -> list[Output]:
        return checked_outputs(encode(features, lengths), len(lengths))

    def checked_start(features: Any, lengths: Any) -> Callable[[], list[Output]]:
        wait = start(features, lengths)
        return _guarded(lambda: checked_outputs(wait(), len(lengths)), "start", point)

    def checked_outputs(outputs: Any, count: int) -> list[Output]:
        if problem := output_problem(encoder.info, outputs, count):
            raise broken(point, f"encode returned {problem}")
        return list(outputs)

    def checked_cost(length: int) -> float:
        found = cost(length)
        if not isinstance(found, int | float | np.number) or not math.isfinite(found) or found <= 0:
            raise broken(point, f"cost({length}) returned {found!r}, expected seconds above 0")
        return float(found)

    methods = {
        "encode": checked_encode, "start": checked_start, "cost": checked_cost, "load": encoder.load,
        "join": encoder.join,
    }  # fmt: skip
    for name, method in methods.items():
        setattr(encoder, name, _guarded(method, name, point))
    return encoder


def info_problem(info: EncoderInfo) -> str | None:
    """Return what is wrong with the facts that an encoder states of itself; None if nothing is."""
    choices = {"granularity": GRANULARITIES, "batch_policy": get_args(BatchPolicy)}
    for name, allowed in choices.items():
        if getattr(info, name) not in allowed:
            return f"{name} is {getattr(info, name)!r}, expected one of {', '.join(allowed)}"
    for name in ("sample_rate", "dim", "min_samples"):
        value = getattr(info, name)
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            return f"{name} is {value!r}, expected a whole number from 1"
    if info.granularity == "frames" and not info.frame_rate_hz:
        return "granularity frames needs frame_rate_hz"
    return None


def output_problem(info: EncoderInfo, outputs: Any, count: int) -> str | None:
    """Return what is wrong with the outputs of a batch of `count` utterances; None if nothing is."""
    if not isinstance(outputs, Sequence):
        return f"{_kind(outputs)}, expected a list with one dict per utterance"
    if len(outputs) != count:
        return f"{len(outputs)} outputs for {count} utterances"
    key = "embedding" if info.granularity == "utterance" else "frames"
    shape = info.row_shape if key == "embedding" else ("T", *info.row_shape)
    expected = f"expected {key!r}: float32 of shape ({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
    for output in outputs:
        if not isinstance(output, dict) or key not in output:
            return f"{'keys ' + ', '.join(output) if isinstance(output, dict) else _kind(output)}, {expected}"
        array = output[key]
        if not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, np.floating):
            return f"{_kind(array)} as {key!r}, {expected}"
        if array.ndim != len(shape) or array.shape[array.ndim - len(info.row_shape) :] != info.row_shape:
            return f"{key!r} of shape {array.shape}, {expected}"
    return None


def _kind(value: Any) -> str:
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__


def _guarded(method: Callable[..., Any], name: str, point: EntryPoint) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except _OF_THE_MACHINE:
            raise
        except (Exception, SystemExit) as exc:  # another package's code: anything can go wrong in it
            frame = traceback.extract_tb(exc.__traceback__)[-1]
            where = f"{frame.filename}, line {frame.lineno}"
            raise broken(point, f"{name} fails: {type(exc).__name__}: {exc} ({where})") from exc

    return call
