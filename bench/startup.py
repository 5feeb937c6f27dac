"""What starting a task costs in an image, beside the same task in a virtual environment, in turns.

    python bench/startup.py venv:.venv-torch image:voxshard-pytorch.sif
    python bench/startup.py venv:.venv-tf image:voxshard-tensorflow.sif --encoder trillsson3 --weights FOLDER

A task of one recording of one second: what it takes is starting, importing, loading the model and ending.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from voxshard.manifest import Manifest
from voxshard.runtime import runtime
from voxshard.runtime.binds import RequiredPath
from voxshard.slurm.task_count import START_SHARE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runtimes", nargs="+", metavar="RUNTIME", help="the first is what the others are held against")
    parser.add_argument("--encoder", default="mfcc")
    parser.add_argument("--weights", type=Path, help="the encoder's weights")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = 0.1 * np.random.default_rng(0).standard_normal(16000).astype(np.float32)
        soundfile.write(folder / "one.wav", samples, 16000)
        rows = [{"utterance_id": "one", "path": "one.wav", "duration_s": 1.0, "num_bytes": 32044}]
        Manifest.from_rows(rows, root=folder, corpus="folder").write(folder / "manifest.parquet")
        took: dict[str, list[float]] = {name: [] for name in given.runtimes}
        for turn in range(given.rounds + 1):
            for name in given.runtimes:
                seconds = task(name, folder, folder / f"{turn}-{len(took)}-{given.runtimes.index(name)}", given)
                if turn:  # the first reads the files from disk, and compiles
                    took[name].append(seconds)
    base = statistics.median(took[given.runtimes[0]])
    for name, seconds in took.items():
        middle = statistics.median(seconds)
        print(f"{name}: {middle:.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), {middle / base:.2f} x the first; "
              f"under {START_SHARE:.0%} of a task of {middle / START_SHARE / 60:.0f} min or more")  # fmt: skip
    print(json.dumps(took))


def task(name: str, folder: Path, out: Path, given: argparse.Namespace) -> float:
    """Seconds of one task."""
    words = ["extract", str(folder / "manifest.parquet"), "--encoder", given.encoder, "--out", str(out)]
    words += ["--device", "cpu", "--workers", "1"]
    needs = [RequiredPath(folder, "the benchmark")]
    if given.weights:
        words += ["--set", f"weights={given.weights.absolute()}"]
        needs.append(RequiredPath(given.weights.absolute(), "weights"))
    found = runtime.command(name, words, needs=needs, kept=folder / "kept")
    since = time.perf_counter()
    subprocess.run(found.words, env={**os.environ, **found.environment}, check=True, capture_output=True)
    return time.perf_counter() - since


if __name__ == "__main__":
    main()
