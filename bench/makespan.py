"""How long an array takes against the ideal, the work divided by the tasks, on recordings of very uneven length.

    python bench/makespan.py [--tasks 8] [--work-s 1600]

Needs a SLURM (SLURM_CONF or the machine's own) whose site file is named by --site. The encoder sleeps for each
recording's length, so one task does one second of audio per second, whatever the machine. Makespan counts from the
first task's start to the last task's end, interpreters and decode workers starting included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import soundfile

from voxshard.encoders.base import Encoder, EncoderSettings, KnownHashes, Output, describe
from voxshard.slurm.record import Record
from voxshard.store.layout import Plan

RATE = 16000


class SleepingEncoder(Encoder):
    """Mean of a recording, after as many seconds as it lasts."""

    settings_model: ClassVar[type[EncoderSettings]] = EncoderSettings

    def __init__(self, name: str, settings: EncoderSettings, known_hashes: KnownHashes) -> None:
        self.info = describe(
            name=name, settings=settings, code_version=1, libraries=["numpy"], sample_rate=RATE, dim=1,
            granularity="utterance", batch_policy="single", min_samples=1,
        )  # fmt: skip

    def encode(self, features: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> list[Output]:
        time.sleep(float(lengths.sum()) / RATE)
        return [{"embedding": np.float32([row[:length].mean()])} for row, length in zip(features, lengths, strict=True)]


def write_corpus(folder: Path, work_s: float) -> list[float]:
    """Recordings of 0.3 to 60 s, log-normal, sorted so that neighbours are alike: shards come out uneven."""
    rng = np.random.default_rng(0)
    lengths: list[float] = []
    while sum(lengths) < work_s:
        lengths.append(float(np.clip(rng.lognormal(0.5, 1.2), 0.3, 60)))
    folder.mkdir()
    for number, length_s in enumerate(sorted(lengths)):
        samples = (0.1 * rng.standard_normal(int(length_s * RATE))).astype(np.float32)
        soundfile.write(folder / f"{number:05d}.wav", samples, RATE)
    return lengths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--work-s", type=float, default=1600.0, help="Seconds of audio, so of sleep, in all.")
    parser.add_argument("--shards", type=int, default=160)
    parser.add_argument("--site", default="test")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lengths = write_corpus(folder / "corpus", given.work_s)
        info = folder / "plugin" / "sleeping-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sleeping\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[voxshard.encoders]\nsleeping = makespan:SleepingEncoder\n")
        paths = [str(info.parent), str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        extract = {"encoder": "sleeping", "shards": given.shards, "workers": 1}
        config = {
            "out": str(folder / "exp"),
            "prepare": {"format": "folder", "root": str(folder / "corpus")},
            "extract": {"sleeping": extract},
            "jobs": {"extract": {"tasks": given.tasks, "partitions": "cpu"}},
        }
        (folder / "config.yaml").write_text(json.dumps(config))
        command = [sys.executable, "-m", "voxshard", "submit", str(folder / "config.yaml"), "--site", given.site]
        subprocess.run(command, env=environment, check=True)
        while not (folder / "exp" / "report.html").exists():
            time.sleep(1)
        tasks = list(Record(folder / "exp").tasks("extract-sleeping"))
        shards = Plan.read(folder / "exp" / "features" / "sleeping" / "plan.parquet").shard
        lengths_s = np.bincount(shards, weights=np.sort(lengths))
    makespan_s = max(task.updated for task in tasks) - min(task.started for task in tasks)
    ideal_s = sum(lengths) / given.tasks
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    print(f"{len(lengths)} recordings of {min(lengths):.1f} to {max(lengths):.1f} s, {len(lengths_s)} shards of "
          f"{lengths_s.min():.1f} to {lengths_s.max():.1f} s, {given.tasks} tasks")  # fmt: skip
    print(f"makespan {makespan_s:.1f} s, ideal {ideal_s:.1f} s: {makespan_s / ideal_s - 1:+.1%}")


if __name__ == "__main__":
    main()
