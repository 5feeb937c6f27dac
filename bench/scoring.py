"""Scoring 680,000 trials, as many as ASVspoof 5 Track 1 evaluates: point estimates, intervals, files, memory.

    python bench/scoring.py [--trials 680000] [--replicates 1000] [--threads 2] [--official CLONE]

The point estimates are compared, in the same process, with `plain_loop` below, which walks over the thresholds one by
one, and with the official evaluation package if a clone of https://github.com/asvspoof-challenge/asvspoof5 is given
(it wants pandas). Times of estimates and files are CPU seconds of this process, the least of three.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxshard.scoring.detection import DetectionTrials, detection_metrics
from voxshard.scoring.intervals import bootstrap
from voxshard.scoring.score_files import read_keys, read_scores, scores_for

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=680_000)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--official", type=Path, help="clone of asvspoof-challenge/asvspoof5")
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores usable, ", end="")
    print(f"Python {platform.python_version()}, NumPy {np.__version__}; load {os.getloadavg()[0]:.1f}")

    random = np.random.default_rng(0)
    is_bonafide = random.random(arguments.trials) < 0.2
    scores = random.normal(size=arguments.trials) + 3 * is_bonafide
    print(f"{arguments.trials:,} trials, {is_bonafide.sum():,} of them bona fide\n")

    before = peak_mib()
    trials = DetectionTrials(scores, is_bonafide)
    speakers = random.integers(0, 700, arguments.trials)
    for what, groups in (("utterances", None), ("700 speakers", speakers)):
        started, started_cpu = time.perf_counter(), time.process_time()
        bootstrap(trials, groups=groups, num_replicates=arguments.replicates, num_threads=arguments.threads)
        elapsed, elapsed_cpu = time.perf_counter() - started, time.process_time() - started_cpu
        memory = f"peak memory {peak_mib():.0f} MiB, {before:.0f} before"
        note = f"{elapsed_cpu:.1f} s CPU, {arguments.threads} threads; {memory}"
        report(f"{arguments.replicates:,} replicates of {what}, all metrics", elapsed, note)

    ours_s, ours = best_of_three(lambda: detection_metrics(scores, is_bonafide))
    report("point estimates, voxshard", ours_s)
    others: list[tuple[str, Callable[[], dict[str, float]]]] = [
        ("point estimates, plain loop (ours, for comparison)", lambda: plain_loop(scores, is_bonafide))
    ]
    if arguments.official:
        others.append(("point estimates, official package", official(arguments.official, scores, is_bonafide)))
    for what, measure in others:
        other_s, found = best_of_three(measure)
        furthest = max(abs(found[name] - ours[name]) for name in found)
        report(what, other_s, f"{other_s / ours_s:.1f} x; largest difference {furthest:.0e}")

    report("score file and key file, read and matched", files(scores, is_bonafide))


def plain_loop(scores: Floats, is_bonafide: Bools) -> dict[str, float]:
    """The official definitions, one threshold after the other."""
    num_bonafide = int(is_bonafide.sum())
    num_spoof = len(scores) - num_bonafide
    order = np.concatenate((np.flatnonzero(is_bonafide), np.flatnonzero(~is_bonafide)))
    order = order[np.argsort(scores[order], kind="stable")]
    misses, false_alarms = 0, num_spoof
    closest, eer, min_cost = math.inf, math.nan, 0.5
    for bonafide in is_bonafide[order].tolist():
        if bonafide:
            misses += 1
        else:
            false_alarms -= 1
        miss, false_alarm = misses / num_bonafide, false_alarms / num_spoof
        if abs(miss - false_alarm) < closest:
            closest, eer = abs(miss - false_alarm), (miss + false_alarm) / 2
        min_cost = min(min_cost, 0.95 * miss + 0.5 * false_alarm)
    threshold = -math.log(1.9)
    losses, counts, errors = [0.0, 0.0], [num_spoof, num_bonafide], [0, 0]
    for score, bonafide in zip(scores.tolist(), is_bonafide.tolist(), strict=True):
        losses[bonafide] += math.log2(1 + math.exp(-score if bonafide else score))
        errors[bonafide] += (score >= threshold) != bonafide
    return {
        "eer": eer,
        "min_dcf": min_cost / 0.5,
        "act_dcf": (0.95 * errors[1] / counts[1] + 0.5 * errors[0] / counts[0]) / 0.5,
        "cllr": (losses[0] / counts[0] + losses[1] / counts[1]) / 2,
    }


def official(clone: Path, scores: Floats, is_bonafide: Bools) -> Callable[[], dict[str, float]]:
    """The package's own function for Track 1, on the same arrays."""
    sys.path.insert(0, str(clone / "evaluation-package"))
    import calculate_metrics

    keys = np.where(is_bonafide, "bonafide", "spoof")

    def measure() -> dict[str, float]:
        found = calculate_metrics.calculate_minDCF_EER_CLLR_actDCF(scores, keys, None, printout=False)
        return dict(zip(("min_dcf", "eer", "cllr", "act_dcf"), map(float, found), strict=True))

    return measure


def files(scores: Floats, is_bonafide: Bools) -> float:
    """Time to read and match both files."""
    with tempfile.TemporaryDirectory() as folder:
        score_file, key_file = Path(folder, "scores.tsv"), Path(folder, "keys.tsv")
        rows = np.random.default_rng(1).permutation(len(scores)).tolist()
        score_file.write_text("filename\tcm-score\n" + "".join(f"E_{row:010d}\t{scores[row]}\n" for row in rows))
        keys = np.where(is_bonafide, "bonafide", "spoof").tolist()
        key_file.write_text("filename\tcm-label\n" + "".join(f"E_{row:010d}\t{key}\n" for row, key in enumerate(keys)))
        return best_of_three(lambda: scores_for(read_keys(key_file), read_scores(score_file)))[0]


def best_of_three(work: Callable[[], Any]) -> tuple[float, Any]:
    times = []
    for _ in range(3):
        started = time.process_time()
        result = work()
        times.append(time.process_time() - started)
    return min(times), result


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(what: str, seconds: float, note: str = "") -> None:
    print(f"{what:55} {seconds:8.2f} s   {note}".rstrip(), flush=True)


if __name__ == "__main__":
    main()
