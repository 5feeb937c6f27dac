"""Seeded trials on which the official scorers were run; the numbers they gave are in tests/scoring/data.

RandomState, for its streams never change from one NumPy to the next.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_SIZES = ((1, 1), (3, 5), (40, 7), (100, 400), (1, 1000), (1000, 1), (3000, 12000))
_BAYES_THRESHOLD = float(-np.log(1.9))  # of Track 1: scores can lie exactly on it


def _distinct(random: np.random.RandomState, num_bonafide: int, num_spoof: int) -> tuple[Floats, Floats]:
    return random.randn(num_bonafide) * 1.5 + 1, random.randn(num_spoof) - 1


_KINDS: dict[str, Callable[[Floats, Floats], tuple[Floats, Floats]]] = {
    "distinct": lambda bonafide, spoof: (bonafide, spoof),
    "some-ties": lambda bonafide, spoof: (np.round(bonafide, 1), np.round(spoof, 1)),
    "many-ties": lambda bonafide, spoof: (np.round(bonafide), np.round(spoof)),
    "two-values": lambda bonafide, spoof: (np.sign(bonafide), np.sign(spoof)),
    "constant": lambda bonafide, spoof: (bonafide * 0 + 0.25, spoof * 0 + 0.25),
    "on-the-bayes-threshold": lambda bonafide, spoof: (
        np.where(bonafide < 0, _BAYES_THRESHOLD, bonafide),
        np.where(spoof > 0, _BAYES_THRESHOLD, spoof),
    ),
    "separated": lambda bonafide, spoof: (np.abs(bonafide) + 1, -np.abs(spoof) - 1),
    "separated-the-wrong-way": lambda bonafide, spoof: (-np.abs(bonafide) - 1, np.abs(spoof) + 1),
    "touching": lambda bonafide, spoof: (np.maximum(bonafide, 0), np.minimum(spoof, 0)),
    "shifted": lambda bonafide, spoof: (bonafide + 3, spoof + 3),
    "far-out": lambda bonafide, spoof: (bonafide * 100, spoof * 100),
    "like-chance": lambda bonafide, spoof: (np.sin(bonafide * 1000), np.sin(spoof * 1000)),
}


def detection_cases() -> dict[str, tuple[Floats, Floats]]:
    """Name -> scores of bona fide and of spoof trials."""
    cases = {}
    for size_number, size in enumerate(_SIZES):
        for kind_number, (kind, change) in enumerate(_KINDS.items()):
            random = np.random.RandomState(1000 * size_number + kind_number)
            cases[f"{kind}-{size[0]}-{size[1]}"] = change(*_distinct(random, *size))
    return cases


def one_class_cases() -> dict[str, tuple[Floats, Floats]]:
    """Name -> scores of bona fide and of spoof trials, one of which there are none of."""
    scores = np.random.RandomState(7).randn(20)
    return {"no-bonafide": (scores[:0], scores), "no-spoof": (scores, scores[:0])}


def verification_cases() -> dict[str, tuple[Floats, Floats, Floats]]:
    """Name -> scores of target, non-target and spoof trials."""
    cases = {}
    for size_number, sizes in enumerate(((1, 1, 1), (4, 3, 6), (60, 200, 100), (2000, 5000, 3000))):
        for kind_number, (kind, decimals) in enumerate({"distinct": None, "some-ties": 1, "many-ties": 0}.items()):
            random = np.random.RandomState(50_000 + 1000 * size_number + kind_number)
            drawn = [random.randn(size) + shift for size, shift in zip(sizes, (2, -1, 0.5), strict=True)]
            rounded = [scores if decimals is None else np.round(scores, decimals) for scores in drawn]
            cases[f"{kind}-{'-'.join(map(str, sizes))}"] = (rounded[0], rounded[1], rounded[2])
    target, nontarget, spoof = cases["distinct-60-200-100"]
    cases["constant"] = (target * 0, nontarget * 0, spoof * 0)
    cases["separated"] = (np.abs(target) + 1, -np.abs(nontarget) - 1, -np.abs(spoof) - 1)
    cases["spoofs-accepted"] = (target, nontarget, np.abs(spoof) + 3)
    return cases
