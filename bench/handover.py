"""How many utterances a second the extraction passes from its decode workers to an encoder that costs nothing.

    python bench/handover.py [--seconds 2] [--workers 1 2] [--shards 12] [--base SRC]

The pipeline, pool and workers are those of an extraction. Decoding gives the same clip of noise again and again and
encoding gives zeros, so that what is measured is everything between them: dispatching, handing over, batching, the
check of a few utterances alone, collecting. The first shard is not counted. CPU microseconds are those of the process
that feeds the device, and of its workers, for each utterance; on a machine with other work they count, not the rate.
`--base` names the `src` folder of another version, measured in the same run.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from voxshard.encoders.base import ClipSettings
from voxshard.extraction import decode, pipeline
from voxshard.extraction.pool import DecodePool
from voxshard.extraction.telemetry import Timers
from voxshard.manifest import Utterance
from voxshard.progress import Silent

RATE = 16_000
SHARD = 2_048
"""Utterances of a shard."""


class InstantDecoder(decode.Decoder):
    """Decodes every utterance to the same noise."""

    def decode(self, utterance: Utterance) -> Any:
        """The noise, as long as the utterance."""
        kind = getattr(decode, "PreparedUtterance", None) or decode.Decoded  # type: ignore[attr-defined]
        return kind([_noise(self.min_samples)], self.min_samples / RATE)


@cache
def _noise(samples: int) -> Any:
    return np.random.default_rng(0).standard_normal(samples).astype(np.float32)


class FreeEncoder:
    """Gives zeros for each utterance of a padded batch."""

    in_flight = 1

    def __init__(self) -> None:
        self.info: Any = type("Info", (), {"batch_policy": "padded", "sample_rate": RATE, "encodes_in_prepare": False})

    def cost(self, num_frames: int) -> float:
        """Seconds of audio."""
        return num_frames / RATE

    def encode(self, features: Any, lengths: Any) -> Any:
        """Zeros."""
        return [{"embedding": row} for row in np.zeros((len(features), 16), np.float32)]

    def start(self, features: Any, lengths: Any) -> Any:
        """The same, later."""
        return lambda: self.encode(features, lengths)


def measure(seconds: float, workers: int, shards: int) -> None:
    """Print utterances a second, and CPU microseconds for each here and in the workers."""
    import handover  # workers find the decoder by the name of this module

    samples = int(seconds * RATE)
    decoder = handover.InstantDecoder("/", RATE, samples, None, ClipSettings(), None, ())
    encoder: Any = FreeEncoder()
    works = [
        pipeline.ShardWork(shard, [Utterance(f"{shard}/{row}", "x", duration_s=seconds) for row in range(SHARD)])
        for shard in range(shards + 1)
    ]
    marks: list[tuple[float, float, float]] = []
    with DecodePool(decoder, workers) as pool:

        def mark(result: Any) -> None:
            used = resource.getrusage(resource.RUSAGE_SELF)
            theirs = sum(_cpu_s(worker.process.pid) for worker in pool._workers)
            marks.append((time.perf_counter(), used.ru_utime + used.ru_stime, theirs))

        def each() -> Iterator[pipeline.ShardWork]:
            yield from works

        pipeline.Pipeline(
            encoder, pool, decoder, precision="float32", store_dtype="float32", batch_seconds=320.0, write=mark,
            timers=Timers(), progress=Silent(),
        ).run(each())  # fmt: skip
    wall, here, there = (last - first for first, last in zip(marks[0], marks[-1], strict=True))
    count = SHARD * shards
    print(f"{count / wall:.0f} {here / count * 1e6:.0f} {there / count * 1e6:.0f}")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a clip, at 16 kHz")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--shards", type=int, default=12, help=f"of {SHARD:,} utterances")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--base", help="src folder of another version")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.seconds, arguments.workers[0], arguments.shards)
        return
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}; clips of {arguments.seconds:g} s")
    here = Path(__file__).parent
    sources = {"before": arguments.base, "now": str(here.parent / "src")}
    for workers in arguments.workers:
        found: dict[str, list[list[int]]] = {name: [] for name, source in sources.items() if source}
        for _ in range(arguments.repeats):  # in turn: other work on the machine hits all alike
            for name in found:
                command = [
                    sys.executable, __file__, "--measure", "--seconds", str(arguments.seconds),
                    "--workers", str(workers), "--shards", str(arguments.shards),
                ]  # fmt: skip
                environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(here), sources[name]))}
                words = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
                found[name].append([int(word) for word in words.split()])
        for name, results in found.items():
            rate, cpu, worker_cpu = max(results)[0], min(row[1] for row in results), min(row[2] for row in results)
            print(
                f"{workers} workers, {name:6s}: {rate:7,d} utterances a second; {cpu} us CPU each in the process that "
                f"feeds the device, {worker_cpu} us in the workers",
                flush=True,
            )


if __name__ == "__main__":
    main()
