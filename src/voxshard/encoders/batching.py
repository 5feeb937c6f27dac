"""Utterances into batches: which ones go together, and the arrays that encoders take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from voxshard.encoders.base import BatchPolicy, Features


def collate(features: Sequence[Features], policy: BatchPolicy) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Put the features of several utterances into the arrays `Encoder.encode` takes.

    Parameters
    ----------
    features : one array per utterance, its length on the first axis.

    Returns
    -------
    For `windows` the concatenation (sum of P, ...), else (B, L, ...) right-padded with zeros, to one of a few lengths
    where the utterances' differ; and the int64 (B,) lengths.
    """
    lengths = np.array([len(item) for item in features], np.int64)
    if policy == "windows":
        return np.concatenate(features), lengths
    if len(features) == 1:
        return features[0][None], lengths
    longest = int(lengths.max())
    padded = longest if (lengths == longest).all() else _next_of_few(longest)
    batch = np.zeros((len(features), padded, *features[0].shape[1:]), features[0].dtype)
    for row, item in zip(batch, features, strict=True):
        row[: len(item)] = item
    return batch, lengths


def _next_of_few(length: int) -> int:
    """Return the next of 16 lengths per doubling, at most 6 % more (1 % more work on speech, see docs/performance.md).

    Libraries plan and compile operations for every shape they meet and keep them, and memory that is given back in ever
    other sizes falls to pieces: with few shapes neither grows with the corpus. The padded length also decides how many
    rows a full batch has, so that each length comes with one number of rows.
    """
    step = 1 << max(0, length.bit_length() - 5)
    return -(-length // step) * step


def make_batches(
    lengths: Sequence[int], policy: BatchPolicy, cost: Callable[[int], float], budget: float
) -> list[list[int]]:
    """Group utterances so that each batch costs at most `budget`, longest first.

    Parameters
    ----------
    lengths : feature length of each utterance.
    cost : cost of one utterance at a padded length, in seconds of audio; grows with it.
    budget : cost of a batch: what its utterances cost at the length that its longest is padded to (`windows`: at their
        own). An utterance over the budget is a batch by itself.

    Returns
    -------
    Positions in `lengths`, every one exactly once; deterministic.
    """
    order = sorted(range(len(lengths)), key=lambda position: (-lengths[position], position))
    batches: list[list[int]] = []
    start = 0
    while start < len(order):
        size = _batch_size([lengths[position] for position in order[start:]], policy, cost, budget)
        batches.append(order[start : start + size])
        start += size
    return batches


def _batch_size(lengths: Sequence[int], policy: BatchPolicy, cost: Callable[[int], float], budget: float) -> int:
    """Return how many utterances, longest first, the next batch takes; at least one."""
    unit = cost(lengths[0])
    if policy == "single" or unit > budget:
        return 1
    if policy == "padded":
        return max(1, min(len(lengths), int(budget * (1 + 1e-12) / cost(_next_of_few(lengths[0])))))
    spent, size = 0.0, 0
    for length in lengths:
        spent += cost(length)
        if spent > budget or (policy == "equal_length" and length != lengths[0]):
            break
        size += 1
    return size
