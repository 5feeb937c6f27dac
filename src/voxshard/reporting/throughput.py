"""Throughput (seconds of audio per second of wall time) over time, computed from the shards' headers."""

from __future__ import annotations

from datetime import datetime

import h5py
import numpy as np

from voxshard.reporting.report_data import Series
from voxshard.store import hdf5
from voxshard.store.layout import FeatureDir

MIN_SHARDS = 8
"""Fewer make no curve."""
MAX_SHARDS = 5000
"""Opening more would take minutes on a parallel file system."""
_NUM_BINS = 60
_MAX_HOSTS = 5


def throughput(folder: FeatureDir) -> list[Series]:
    """Return the throughput of all tasks together and, if there are only a few hosts, of each host.

    A shard's audio is spread over the seconds of decoding and encoding before it was published. Empty where the shards
    are gone, too few or too many, or all from one minute.
    """
    paths = sorted(folder.shards.glob("shard-*.h5")) if folder.shards.is_dir() else []
    if not MIN_SHARDS <= len(paths) <= MAX_SHARDS:
        return []
    found = []
    for path in paths:
        with hdf5.reading(path) as file:
            found.append(_made(file))
    end, length, audio = (np.array(column, np.float64) for column in zip(*(item[:3] for item in found), strict=True))
    hosts = [item[3] for item in found]
    start = end - np.maximum(length, 1.0)
    edges = np.linspace(start.min(), end.max(), _NUM_BINS + 1)
    if edges[-1] - edges[0] < 60:
        return []

    def series(name: str, chosen: np.ndarray) -> Series:
        # Audio done by each edge: every shard's share grows linearly from its start to its end.
        share = np.clip((edges[:, None] - start[chosen]) / (end - start)[chosen], 0, 1)
        rate = np.diff((share * audio[chosen]).sum(axis=1)) / np.diff(edges)
        middle = (edges[:-1] + edges[1:]) / 2 - edges[0]
        return Series(quantity="throughput", unit="x real time", name=name, time_s=middle, values=rate)

    names = sorted(set(hosts))
    curves = [series("all tasks", np.ones(len(found), bool))]
    if 1 < len(names) <= _MAX_HOSTS:
        curves += [series(name, np.array([host == name for host in hosts])) for name in names]
    return curves


def _made(file: h5py.File) -> tuple[float, float, float, str]:
    """Return a shard's time of publication (seconds since 1970), its duration of work, its seconds of audio, and its
    host."""
    attributes = file.attrs
    created = datetime.fromisoformat(attributes["created"]).timestamp()
    return created, attributes["decode_s"] + attributes["encode_s"], attributes["audio_s"], attributes["host"]
