"""Manifest -> shards: contiguous runs of the manifest, of about equal work, never across a split."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from voxshard.encoders.base import EncoderInfo
from voxshard.manifest import Manifest
from voxshard.store.layout import Plan, Texts

CPU_SHARD_S = 20 * 60.0
GPU_SHARD_S = 4 * 3600.0
MAX_SHARD_BYTES = 1 << 30
MAX_SHARD_UTTERANCES = 32_768
MANY_UTTERANCES, MANY_SHARDS = 6_400, 64
"""From so many utterances on there are at least so many shards, so that an array of tasks has something to share."""

_LEAST_WEIGHT = 1e-3  # however short, a recording has to be opened
_ASSUMED_S = 5.0  # per utterance, where nothing was probed: only the estimate of a shard's bytes rests on it


def make_plan(manifest: Manifest, info: EncoderInfo, *, num_shards: int | None = None, itemsize: int = 4) -> Plan:
    """Cut a manifest into shards.

    Parameters
    ----------
    num_shards : about so many shards in all (each split has at least one); None: by the amount of audio.
    itemsize : bytes per stored number.

    Returns
    -------
    A pure function of the manifest's rows, the encoder's output size and the arguments.
    """
    seconds = _column(manifest, "duration_s")
    weights = _weights(manifest, seconds)
    size = _bytes_per_row(info, seconds, itemsize)
    target = _target(weights, seconds, info, num_shards)
    shard = np.zeros(len(manifest), np.int32)
    count = 0
    for start, stop in _split_runs(manifest):
        for first, last in _cut(weights[start:stop], size[start:stop], target):
            shard[start + first : start + last] = count
            count += 1
    return Plan(Texts(manifest.table["utterance_id"].combine_chunks()), shard)


@dataclass(frozen=True)
class ShardTable:
    """What a task keeps of plan and manifest while it works: a few facts per shard, nothing per utterance."""

    starts: Sequence[int]
    """First manifest row of each shard, and the end."""
    splits: Sequence[str | None]
    """Of each shard."""
    audio_s: Sequence[float] | None
    """Seconds of audio of each shard; None where nothing was probed."""

    @classmethod
    def of(cls, plan: Plan, manifest: Manifest) -> ShardTable:
        """Gather the facts."""
        starts = plan.starts
        splits = manifest.table["split"].take(pa.array(starts[:-1])).to_pylist()
        audio_s = None
        if manifest.table["duration_s"].null_count < len(manifest):
            audio_s = np.add.reduceat(np.nan_to_num(_column(manifest, "duration_s")), starts[:-1]).tolist()
        return cls(starts.tolist(), splits, audio_s)

    def __len__(self) -> int:
        return len(self.splits)

    def rows(self, shard: int) -> tuple[int, int]:
        """First manifest row of a shard, and the one after its last."""
        return self.starts[shard], self.starts[shard + 1]

    def num_utterances(self, shards: Sequence[int]) -> int:
        """Of all these shards."""
        return sum(self.starts[shard + 1] - self.starts[shard] for shard in shards)

    def total_audio_s(self, shards: Sequence[int]) -> float | None:
        """Seconds of audio of all these shards; None where nothing was probed."""
        return None if self.audio_s is None else sum(self.audio_s[shard] for shard in shards)


def _column(manifest: Manifest, name: str) -> npt.NDArray[np.float64]:
    values = pc.cast(manifest.table[name], "float64").to_numpy(zero_copy_only=False)
    return np.asarray(values, np.float64)


def _weights(manifest: Manifest, seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Work per row: seconds of audio; where nothing was probed, bytes; where not even those are known, one each."""
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
    return np.broadcast_to(np.asarray(vectors * info.dim * (info.num_layers or 1) * itemsize), seconds.shape)


def _target(
    weights: npt.NDArray[np.float64], seconds: npt.NDArray[np.float64], info: EncoderInfo, num_shards: int | None
) -> float:
    """Weight of one shard."""
    total = float(weights.sum())
    if num_shards is not None:
        return total / num_shards
    per_shard_s = GPU_SHARD_S if info.needs_gpu else CPU_SHARD_S
    known = np.isfinite(seconds)
    typical_s = float(np.median(seconds[known])) if known.any() else _ASSUMED_S
    total_s = float(np.where(known, seconds, typical_s).sum())
    shards = max(1.0, total_s / per_shard_s)
    if len(weights) >= MANY_UTTERANCES:
        shards = max(shards, MANY_SHARDS)
    return total / shards


def _split_runs(manifest: Manifest) -> list[tuple[int, int]]:
    splits = manifest.table["split"].dictionary_encode().combine_chunks()
    codes = pc.fill_null(splits.indices, -1).to_numpy(zero_copy_only=False)
    borders = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
    return [(start, stop) for start, stop in itertools.pairwise(borders) if stop > start]


def _cut(weights: npt.NDArray[np.float64], size: npt.NDArray[np.float64], target: float) -> list[tuple[int, int]]:
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
        too_large = rows > MAX_SHARD_UTTERANCES or float(size[first:last].sum()) > MAX_SHARD_BYTES
        if too_large and rows > 1:
            pieces += [(first, first + rows // 2), (first + rows // 2, last)]
        else:
            finished.append((first, last))
    return sorted(finished)
