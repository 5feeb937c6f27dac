"""What batches gain on short clips: an extraction as it is, beside one in which every clip is a batch by itself.

    python bench/short_clips.py ENCODER [--set NAME=VALUE ...] [--clips 600] [--lengths 8] [--seconds 0.3 1.5]

Clips of noise of a few lengths, in random order, in one shard. Whole processes alternate; the CPU seconds of an
extraction of one clip, which are those of start-up and model load, are taken off both. For encoders whose policy is
`windows` (batches across recordings) and `equal_length` (clips of one length meet across a shard).
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
ALONE_S = "0.001"
"""A budget below any clip's cost: each is a batch by itself."""


def make_manifest(folder: Path, num_clips: int, num_lengths: int, shortest_s: float, longest_s: float) -> Path:
    """Write clips of noise, 16 kHz, and their manifest."""
    rng = np.random.default_rng(0)
    lengths = rng.permutation(np.resize(np.linspace(shortest_s, longest_s, num_lengths) * RATE, num_clips).astype(int))
    (folder / "clips").mkdir(parents=True)
    for number, length in enumerate(lengths):
        soundfile.write(folder / f"clips/{number:05}.wav", rng.standard_normal(length) * 0.05, RATE)
    manifest = folder / "manifest.parquet"
    run("prepare", "folder", str(folder / "clips"), "--out", str(manifest))
    return manifest


def run(*arguments: str) -> float:
    """CPU seconds, user and system, of one command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "voxshard", *arguments], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the CPU seconds of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--lengths", type=int, default=8)
    parser.add_argument("--seconds", type=float, nargs=2, default=(0.3, 1.5))
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    settings = [word for value in given.set for word in ("--set", value)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        many = make_manifest(folder / "many", given.clips, given.lengths, *given.seconds)
        one = make_manifest(folder / "one", 1, 1, *given.seconds)

        def extract(manifest: Path, *options: str) -> float:
            shutil.rmtree(folder / "features", ignore_errors=True)
            out = ("--out", str(folder / "features"), "--shards", "1", "--device", "cpu", "--workers", "1")
            return run("extract", str(manifest), "--encoder", given.encoder, *settings, *out, *options)

        rounds = [
            (extract(one), extract(many), extract(many, "--batch-seconds", ALONE_S)) for _ in range(given.repeats)
        ]
    start, together, alone = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(
        f"{given.encoder}: {given.clips} clips of {given.lengths} lengths; CPU seconds without start-up ({start:.1f}):"
        f" {together - start:.2f} in batches, {alone - start:.2f} one by one; ratio"
        f" {(alone - start) / (together - start):.2f}"
    )


if __name__ == "__main__":
    main()
