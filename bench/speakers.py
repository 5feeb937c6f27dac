"""How well embeddings tell speakers apart: equal error rate of all pairs of recordings, with an interval.

    python bench/speakers.py [--standardize] FEATURES...

Every pair of recordings is a trial, its score the cosine of the two embeddings; with `--standardize` each dimension is
brought to mean 0 and deviation 1 over the set first, without labels. An interval draws recordings, not pairs, with
replacement: a pair counts as often as the product of its two recordings.
"""

from __future__ import annotations

import argparse
import re

import numpy as np

import voxshard
from voxshard.scoring.detection import DetectionTrials

LARGEST_DRAW = 8  # replicates measured at once


def equal_error_rate(
    embeddings_ND: np.ndarray, speakers_N: np.ndarray, num_replicates: int
) -> tuple[float, float, float]:
    """Value, and the bounds of a 95 % percentile interval."""
    unit_ND = embeddings_ND / np.linalg.norm(embeddings_ND, axis=1, keepdims=True)
    first, second = np.triu_indices(len(unit_ND), 1)
    trials = DetectionTrials((unit_ND @ unit_ND.T)[first, second], speakers_N[first] == speakers_N[second])
    value = float(trials.measure(np.ones((1, len(first)), np.int64))["eer"][0])
    rng = np.random.default_rng(0)
    drawn: list[float] = []
    while len(drawn) < num_replicates:
        counts_RN = np.stack(
            [
                np.bincount(rng.integers(0, len(unit_ND), len(unit_ND)), minlength=len(unit_ND))
                for _ in range(LARGEST_DRAW)
            ]
        )
        drawn += trials.measure(counts_RN[:, first] * counts_RN[:, second])["eer"].tolist()
    low, high = np.percentile(drawn, [2.5, 97.5])
    return value, float(low), float(high)


def main() -> None:
    """Print one line for each feature set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", nargs="+")
    parser.add_argument("--column", default="speaker")
    parser.add_argument("--strip", default="", help="regular expression removed from the values of the column")
    parser.add_argument("--where", help="COLUMN=VALUE of the recordings to take")
    parser.add_argument("--standardize", action="store_true")
    parser.add_argument("--replicates", type=int, default=200)
    options = parser.parse_args()
    for folder in options.features:
        features = voxshard.open_features(folder)
        table = features.table
        rows = np.arange(len(features.ids))
        if options.where:
            column, _, value = options.where.partition("=")
            rows = np.flatnonzero(np.array(table[column].to_pylist()) == value)
        speakers = np.array([re.sub(options.strip, "", str(name)) for name in table[options.column].to_pylist()])[rows]
        embeddings = np.asarray(features.embeddings[:], np.float64)[rows]
        if options.standardize:
            embeddings = (embeddings - embeddings.mean(0)) / (embeddings.std(0) + 1e-9)
        value, low, high = equal_error_rate(embeddings, speakers, options.replicates)
        print(
            f"{folder}: {len(rows)} recordings, {len(set(speakers))} speakers,"
            f" EER {100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
        )


if __name__ == "__main__":
    main()
