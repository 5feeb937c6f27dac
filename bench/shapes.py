"""How many shapes of batches a task meets on a GPU, whose libraries plan convolutions and attention for each new one.

    python bench/shapes.py [--hours 12] [--against SRC]

Durations are drawn as those of three kinds of speech corpora, and batches are made as an extraction makes them: shard
by shard, longest first, four budgets gathered at a time. SRC is the `src` of another checkout, such as an earlier
version, which makes its batches of the same durations.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

RATE = 16_000
BUDGET_S, POOLED_BATCHES = 320.0, 4
SHARD_S = 4 * 3600.0
ATTENTION_COST_FRAMES = 6144
"""Of wav2vec 2.0 large and its like, see `attention_cost_frames`."""
Seconds = npt.NDArray[np.float64]
CORPORA: dict[str, Callable[[np.random.Generator, int], Seconds]] = {
    "spoofed speech, median 7 s": lambda rng, count: np.clip(rng.lognormal(np.log(7), 0.5, count), 1, 60),
    "commands of 0.6 to 3 s": lambda rng, count: rng.uniform(0.6, 3, count),
    "read speech of 2 to 35 s": lambda rng, count: np.clip(rng.normal(12.3, 3.9, count), 2, 35),
}


def cost(length: int) -> float:
    """Of one waveform, in seconds, as the encoder `hf` counts."""
    return length / RATE * (1 + length / 320 / ATTENTION_COST_FRAMES)


def batches(durations: Seconds) -> Iterator[list[int]]:
    """Lengths in samples, batch by batch."""
    from voxshard.encoders.batching import make_batches

    ends = np.cumsum(durations)
    for start in np.arange(0, ends[-1], SHARD_S):
        pending: list[int] = []
        for duration in sorted(durations[(ends > start) & (ends <= start + SHARD_S)], reverse=True):
            pending.append(int(duration * RATE))
            if sum(map(cost, pending)) >= POOLED_BATCHES * BUDGET_S:
                made = make_batches(pending, "padded", cost, BUDGET_S)
                kept = made.pop() if len(made) > 1 else []
                yield from ([pending[place] for place in batch] for batch in made)
                pending = [pending[place] for place in kept]
        made = make_batches(pending, "padded", cost, BUDGET_S)
        yield from ([pending[place] for place in batch] for batch in made)


def measure(hours: float) -> dict[str, dict[str, float]]:
    """Of each corpus: batches, shapes, and the part of what is computed that is padding."""
    from voxshard.encoders.batching import collate

    found = {}
    for name, draw in CORPORA.items():
        rng = np.random.default_rng(0)
        durations = draw(rng, int(hours * 3600))
        durations = durations[: np.searchsorted(np.cumsum(durations), hours * 3600)]
        shapes: list[tuple[int, ...]] = []
        valid = computed = 0
        for lengths in batches(durations):
            batch, _ = collate([np.zeros(length, np.int8) for length in lengths], "padded")
            shapes.append(batch.shape)
            valid, computed = valid + sum(lengths), computed + batch.size
        found[name] = {"batches": len(shapes), "shapes": len(set(shapes)), "padding": 1 - valid / computed}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=12.0)
    parser.add_argument("--against", metavar="SRC")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    found = {"here": measure(given.hours)}
    if given.json:
        print(json.dumps(found["here"]))
        return
    if given.against:
        command = [sys.executable, __file__, "--json", "--hours", str(given.hours)]
        environment = {**os.environ, "PYTHONPATH": given.against}
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        found = {given.against: json.loads(done.stdout), **found}
    print("| durations | version | batches | shapes | padding |\n| --- | --- | --- | --- | --- |")
    for name in CORPORA:
        for version, figures in found.items():
            row = figures[name]
            print(f"| {name} | {version} | {row['batches']} | {row['shapes']} | {row['padding']:.1%} |")


if __name__ == "__main__":
    main()
