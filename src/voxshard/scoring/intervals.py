"""Bootstrap confidence intervals and paired comparisons for any metric of weighted trials.

A replicate draws as many utterances (or groups: speakers, ...) as there are, with replacement, from the complete set,
not per class: how many trials of each class there are is part of what another sample would change (Ferrer & Riera,
Confidence Intervals for evaluation in machine learning, https://github.com/luferrer/ConfidenceIntervals). A draw is
given as weights, how often each trial came up, so that nothing is copied or sorted again. Array suffixes: N trials, R
replicates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

import numpy as np
import numpy.typing as npt

from voxshard.cpus import available_cpus
from voxshard.errors import ScoreError
from voxshard.scoring.ranking import Floats, Ints

# Weights drawn at once, to amortize the cost of a call over small sets and stay in cache on large ones. It decides
# which random stream a replicate belongs to, hence is not derived from the machine.
_WEIGHTS_AT_ONCE = 1 << 18
_MOST_THREADS = 8


class Trials(Protocol):
    """Protocol of trials whose metrics can be computed for any weighting."""

    num_trials: int

    def measure(self, weights_RN: Ints) -> dict[str, Floats]:
        """Compute metrics, float64 (R,) each, with trials weighted by `weights_RN`; nan if undefined."""


@dataclass(frozen=True)
class Interval:
    """A metric with its confidence interval; None if it cannot be computed."""

    value: float | None
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, float | None]:
        """Return the form in metrics.json."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Difference:
    """First system minus second system on the same trials, with the p-value of the hypothesis that they are equally
    good."""

    interval: Interval
    p_value: float | None
    """Two-sided p-value, which is below 1 - level if the interval excludes 0."""


def point_estimates(trials: Trials) -> dict[str, float]:
    """Return the metrics of unweighted trials; nan if undefined."""
    metrics = trials.measure(np.ones((1, trials.num_trials), dtype=np.int64))
    return {name: float(values[0]) for name, values in metrics.items()}


def bootstrap(
    trials: Trials,
    *,
    groups: npt.ArrayLike | None = None,
    num_replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    num_threads: int | None = None,
) -> dict[str, Interval]:
    """Compute confidence intervals of every metric of some trials.

    Parameters
    ----------
    groups : (N,), what each trial belongs to, such as a speaker: complete groups are drawn, for trials of one group are
        not independent. None draws single trials.
    num_replicates : draws; 0 for values without bounds.
    level : probability that an interval covers the true value.
    seed : same seed, same intervals, whatever the number of threads.
    num_threads : default one per available core, at most 8; each holds some ten arrays of N numbers.

    Returns
    -------
    metric -> Interval. Without bounds where half the replicates or more have no value (a rare class that was not
    drawn), or where there are fewer than two things to draw from.

    Raises
    ------
    ScoreError : as many groups as trials are wanted, each of them known.
    """
    values = point_estimates(trials)
    replicates = _replicates([trials], groups, num_replicates, seed, num_threads)
    return {name: _interval(value, replicates[0].get(name), level, correct_bias=True) for name, value in values.items()}


def paired_bootstrap(
    first: Trials,
    second: Trials,
    *,
    groups: npt.ArrayLike | None = None,
    num_replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    num_threads: int | None = None,
) -> dict[str, Difference]:
    """Compare two systems on the same trials, in the same order; arguments as for `bootstrap`.

    Every replicate draws the same trials for both, so what makes a trial hard for both cancels.

    Returns
    -------
    metric -> Difference, for the metrics that both have.

    Raises
    ------
    ScoreError : the systems have different numbers of trials.
    """
    if first.num_trials != second.num_trials:
        raise ScoreError(
            f"systems to compare must have scored the same trials, found {first.num_trials} and {second.num_trials}"
        )
    values = point_estimates(first), point_estimates(second)
    replicates = _replicates([first, second], groups, num_replicates, seed, num_threads)
    result = {}
    for name in values[0].keys() & values[1].keys():
        difference = values[0][name] - values[1][name]
        drawn = replicates[0][name] - replicates[1][name] if replicates[0] else None
        result[name] = Difference(_interval(difference, drawn, level, correct_bias=False), _p_value(difference, drawn))
    return {name: result[name] for name in values[0] if name in result}


def _replicates(
    systems: Sequence[Trials],
    groups: npt.ArrayLike | None,
    num_replicates: int,
    seed: int,
    num_threads: int | None,
) -> list[dict[str, Floats]]:
    num_trials = systems[0].num_trials
    group_N, num_units = _groups(groups, num_trials)
    if num_units < 2 or num_replicates == 0:
        return [{} for _ in systems]
    at_once = min(max(_WEIGHTS_AT_ONCE // num_trials, 1), num_replicates)
    sizes = [min(at_once, num_replicates - start) for start in range(0, num_replicates, at_once)]

    def chunk(number: int) -> list[dict[str, Floats]]:
        generator = np.random.default_rng([seed, number])
        weights_RN = _draw(generator, sizes[number], num_units)
        if group_N is not None:
            weights_RN = np.take(weights_RN, group_N, axis=1)
        return [system.measure(weights_RN) for system in systems]

    with ThreadPoolExecutor(num_threads or min(available_cpus(), _MOST_THREADS)) as pool:
        chunks = list(pool.map(chunk, range(len(sizes))))
    return [
        {name: np.concatenate([parts[index][name] for parts in chunks]) for name in chunks[0][index]}
        for index in range(len(systems))
    ]


def _draw(generator: np.random.Generator, num_replicates: int, num_units: int) -> Ints:
    drawn = generator.integers(0, num_units, size=(num_replicates, num_units))
    drawn += np.arange(num_replicates)[:, None] * num_units
    counts = np.bincount(drawn.ravel(), minlength=num_replicates * num_units)
    return counts.reshape(num_replicates, num_units)


def _groups(groups: npt.ArrayLike | None, num_trials: int) -> tuple[Ints | None, int]:
    if groups is None:
        return None, num_trials
    names = np.asarray(groups)
    if names.shape != (num_trials,):
        raise ScoreError(f"one group per trial wanted: {num_trials} trials, groups of shape {names.shape}")
    unknown = [row for row, name in enumerate(names.tolist()) if name is None or name != name]
    if unknown:
        raise ScoreError(
            f"{len(unknown)} of {num_trials} trials belong to no group (first at position {unknown[0]}); "
            "give every trial its group, or draw single trials"
        )
    numbers: dict[object, int] = {}
    group_N = np.fromiter((numbers.setdefault(name, len(numbers)) for name in names.tolist()), np.int64, num_trials)
    return group_N, len(numbers)


_NORMAL = NormalDist()


def _interval(value: float, replicates_R: Floats | None, level: float, *, correct_bias: bool) -> Interval:
    """Return the percentile interval of the replicates, bias-corrected for a metric but not for a difference.

    A minimum over thresholds is optimistic on any sample, and more so on a resample of it: where the replicates lie
    mostly below the value, the percentiles move up. Between two systems that cancels.

    References
    ----------
    Efron & Tibshirani, An Introduction to the Bootstrap (1993), section 14.3, with acceleration 0.
    """
    if math.isnan(value):
        return Interval(None, None, None)
    defined_R = _defined(replicates_R)
    if defined_R is None:
        return Interval(value, None, None)
    shares = [(1 - level) / 2, (1 + level) / 2]
    if correct_bias:
        below = np.count_nonzero(defined_R < value) + np.count_nonzero(defined_R == value) / 2
        # Half a replicate away from 0 and 1 is all that this number of replicates can show.
        bias = _NORMAL.inv_cdf(min(max(below, 0.5), len(defined_R) - 0.5) / len(defined_R))
        shares = [_NORMAL.cdf(2 * bias + _NORMAL.inv_cdf(share)) for share in shares]
    low, high = np.quantile(defined_R, shares)
    return Interval(value, float(low), float(high))


def _p_value(difference: float, replicates_R: Floats | None) -> float | None:
    """Return the two-sided p-value: twice the fraction of replicates on the other side of 0, counting one additional
    replicate."""
    defined_R = _defined(replicates_R)
    if math.isnan(difference) or defined_R is None:
        return None
    other_side = min(np.count_nonzero(defined_R <= 0), np.count_nonzero(defined_R >= 0))
    return min(1.0, 2 * (other_side + 1) / (len(defined_R) + 1))


def _defined(replicates_R: Floats | None) -> Floats | None:
    if replicates_R is None:
        return None
    defined_R = replicates_R[~np.isnan(replicates_R)]
    return defined_R if 2 * len(defined_R) > len(replicates_R) else None
