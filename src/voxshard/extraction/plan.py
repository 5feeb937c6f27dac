"""Plan of the shards: contiguous ranges of the manifest, of similar work, never across a split."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from voxshard.encoders.base import EncoderInfo
from voxshard.manifest import Manifest
from voxshard.store.layout import Plan, Texts

CPU_SHARD_S = 20 * 60.0
GPU_SHARD_S = 4 * 3600.0
MIN_SHARD_S = 30.0
"""Audio of a shard that is cut only so that a split has several: starting one costs more than shorter ones save."""
MAX_SHARD_BYTES = 1 << 30
MAX_SHARD_UTTERANCES = 32_768
MIN_UNPROBED = 1_000
"""Utterances of a shard where nothing was probed: their length is a guess, and thousands of tiny shards cost more than
few long ones."""
LEAST_SHARDS = ((6_400, 64), (0, 16))
"""A split of at least N utterances has at least M shards, so that an array of tasks has something to share."""
MAX_LOSS = 1.05 / 16
"""Part of its split that a shard may hold beyond `MAX_LOSS_S` of audio, unless it is one recording: about what a kill
costs. The 5 % save cutting shards of many short clips again because of one clip too many."""
MAX_LOSS_S = 120.0

_LEAST_WEIGHT = 1e-3  # however short, a recording has to be opened
_ASSUMED_S = 5.0  # per utterance, where nothing was probed: only the estimate of a shard's bytes rests on it


def make_plan(
    manifest: Manifest,
    info: EncoderInfo,
    *,
    num_shards: int | None = None,
    itemsize: int = 4,
    on_gpu: bool | None = None,
) -> Plan:
    """Cut a manifest into shards.

    Parameters
    ----------
    num_shards : approximate number of shards (each split has at least one); None: by the amount of audio.
    itemsize : bytes per stored number.
    on_gpu : whether it is encoded on a GPU, whose shards hold more audio; None: where the encoder usually runs.

    Returns
    -------
    A pure function of the manifest's rows, the encoder's output size and the arguments.
    """
    seconds = _column(manifest, "duration_s")
    weights = _weights(manifest, seconds)
    size = _bytes_per_row(info, seconds, itemsize)
    per_shard_s = GPU_SHARD_S if (info.needs_gpu if on_gpu is None else on_gpu) else CPU_SHARD_S
    scale = _seconds_per_weight(weights, seconds)
    is_probed = bool(np.isfinite(seconds).any())
    shard = np.zeros(len(manifest), np.int32)
    count = 0
    for start, stop in _split_runs(manifest):
        total = float(weights[start:stop].sum())
        if num_shards is not None:
            target, most = float(weights.sum()) / num_shards, math.inf
        else:
            total_s = max(total * scale, _LEAST_WEIGHT)
            target = total / _num_shards(stop - start, total_s, per_shard_s, is_probed=is_probed)
            most = total * max(MAX_LOSS, MAX_LOSS_S / total_s if is_probed else 0.0)
        for first, last in _cut(weights[start:stop], size[start:stop], target, most):
            shard[start + first : start + last] = count
            count += 1
    return Plan(Texts(manifest.table["utterance_id"].combine_chunks()), shard)


def _column(manifest: Manifest, name: str) -> npt.NDArray[np.float64]:
    values = pc.cast(manifest.table[name], "float64").to_numpy(zero_copy_only=False)
    return np.asarray(values, np.float64)


def _weights(manifest: Manifest, seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the work per row: seconds of audio; without a probe bytes; if those are unknown too, one each."""
    for weights in (seconds, _column(manifest, "num_bytes")):
        known = np.isfinite(weights)
        if known.any():
            typical = float(np.median(weights[known]))
            filled: npt.NDArray[np.float64] = np.where(known, weights, typical)
            if filled.sum() > 0:
                return np.maximum(filled, _LEAST_WEIGHT)
    return np.ones(len(manifest))


def _bytes_per_row(info: EncoderInfo, seconds: npt.NDArray[np.float64], itemsize: int) -> npt.NDArray[np.float64]:
    vectors: npt.NDArray[np.float64] | float = 1.0
    rate = info.frame_rate_hz or (1 / info.hop_s if info.hop_s else None)
    if info.granularity != "utterance" and rate:
        vectors = np.where(np.isfinite(seconds), seconds, _ASSUMED_S) * rate
    return np.broadcast_to(np.asarray(vectors * math.prod(info.row_shape) * itemsize), seconds.shape)


def _seconds_per_weight(weights: npt.NDArray[np.float64], seconds: npt.NDArray[np.float64]) -> float:
    """Return the seconds of audio per unit of work, measured if probed, else assumed."""
    known = np.isfinite(seconds)
    typical_s = float(np.median(seconds[known])) if known.any() else _ASSUMED_S
    return float(np.where(known, seconds, typical_s).sum()) / float(weights.sum()) if len(weights) else 1.0


def _num_shards(num_utterances: int, total_s: float, per_shard_s: float, *, is_probed: bool) -> float:
    """Return the number of shards of one split; without a probe, even a few recordings may last hours."""
    least = next(shards for utterances, shards in LEAST_SHARDS if num_utterances >= utterances)
    by_length = total_s / per_shard_s
    if not is_probed:
        return max(min(by_length, num_utterances / MIN_UNPROBED), min(least, num_utterances))
    return max(1.0, by_length, min(least, total_s / MIN_SHARD_S))


def _split_runs(manifest: Manifest) -> list[tuple[int, int]]:
    splits = manifest.table["split"].dictionary_encode().combine_chunks()
    codes = pc.fill_null(splits.indices, -1).to_numpy(zero_copy_only=False)
    borders = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
    return [(start, stop) for start, stop in itertools.pairwise(borders) if stop > start]


def _cut(
    weights: npt.NDArray[np.float64], size: npt.NDArray[np.float64], target: float, most: float
) -> list[tuple[int, int]]:
    """Cut one split's rows at equal steps of cumulative weight, then halve what is still too large."""
    count = max(1, min(len(weights), math.ceil(float(weights.sum()) / target - 1e-9)))
    ends = np.cumsum(weights)
    middle = ends - weights / 2
    borders = np.searchsorted(middle, np.arange(1, count) * ends[-1] / count).tolist()
    pieces = [(a, b) for a, b in zip([0, *borders], [*borders, len(weights)], strict=True) if b > a]
    finished = []
    while pieces:
        first, last = pieces.pop()
        rows = last - first
        too_large = (
            rows > MAX_SHARD_UTTERANCES
            or float(size[first:last].sum()) > MAX_SHARD_BYTES
            or float(weights[first:last].sum()) > most
        )
        if too_large and rows > 1:
            pieces += [(first, first + rows // 2), (first + rows // 2, last)]
        else:
            finished.append((first, last))
    return sorted(finished)
