"""Timers of one task, and one sentence of advice on its speed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from voxshard.progress import counted

WORTH_SAYING = 0.1
"""Share of the time from which on a wait is worth a word."""
MOSTLY_PREPARING = 0.05
"""Below this share the encoder itself hardly counts: it does its work in the decode workers."""


@dataclass
class Timers:
    """Seconds of wall time of one task's main loop, and its decode workers' busy seconds."""

    load_s: float = 0.0
    wait_decode_s: float = 0.0
    fill_s: float = 0.0
    """Part of `wait_decode_s` until the first block came, less the work on it; workers start meanwhile."""
    encode_s: float = 0.0
    wait_write_s: float = 0.0
    write_s: float = 0.0
    """Seconds spent on writing, in the background, concurrently with the others."""
    decode_busy_s: float = 0.0
    """Seconds summed over workers."""

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time of the block to timer `name`."""
        since = time.monotonic()
        try:
            yield
        finally:
            setattr(self, name, getattr(self, name) + time.monotonic() - since)

    def since(self, earlier: Timers) -> Timers:
        """Return what was added after `earlier` was copied."""
        return Timers(**{name: value - getattr(earlier, name) for name, value in asdict(self).items()})

    def copy(self) -> Timers:
        return Timers(**asdict(self))

    def as_dict(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in asdict(self).items()}


def advice(timers: Mapping[str, float], *, num_workers: int, device: str) -> str:
    """Return one sentence about a change that would make the extraction faster.

    Parameters
    ----------
    timers : seconds by name, as `Timers.as_dict` gives them, possibly summed over tasks.
    num_workers : decode workers of one task.
    device : "cpu" or "cuda...".
    """
    busy = timers["encode_s"]
    wait_decode, wait_write = timers["wait_decode_s"], timers["wait_write_s"]
    total = busy + wait_decode + wait_write
    if total <= 0:
        return "Nothing was encoded."
    if busy / total < MOSTLY_PREPARING:
        workers = counted(num_workers, "worker")
        return f"Decoding and preparing took all the time, on {workers}: more CPUs make it faster."
    who = "GPU" if device.startswith("cuda") else "encoder"
    if wait_decode / total >= WORTH_SAYING:
        # Decoding at the speed of the encoder needs the workers' present rate times total / busy.
        more = math.ceil(num_workers * wait_decode / busy)
        more = min(more, 4 * num_workers)
        return f"{who} waited {wait_decode / total:.0%} for decoding: ask for {counted(more, 'more CPU')}."
    if wait_write / total >= WORTH_SAYING:
        return f"{who} waited {wait_write / total:.0%} for writing: put --out on faster storage."
    return f"{who} was busy {busy / total:.0%} of the time."


def summed(timers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Add up the timers of several tasks or shards; a timer that none of them has is 0."""
    names = dict.fromkeys([*Timers().as_dict(), *(name for item in timers for name in item)])
    return {name: sum(item.get(name, 0.0) for item in timers) for name in names}
