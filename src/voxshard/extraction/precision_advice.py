"""Advice on precision: speed and deviation of another precision on this device, from a short measurement."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from voxshard.encoders.base import Encoder, Features, Output, Precision
from voxshard.encoders.batching import collate, make_batches
from voxshard.errors import DeviceMemoryError
from voxshard.extraction.encode import deviation_rms

CANDIDATE: Precision = "tf32"
"""The range of float32 with products rounded to 10 bits, so that nothing overflows."""
SAMPLE_S = 80.0
"""Padded seconds that are encoded four times: as much work as one batch in float32, of the 80 of a task of six hours.
Enough to fill a GPU."""
AFTER_BATCHES = 20
"""Batches of a task before anything is measured; in shorter ones it would take a part of the time worth speaking of."""
WORTH_SAYING = 1.2
"""Times as fast from which on the line is printed."""


def precision_advice(
    encoder: Encoder, features: Sequence[Features], *, clock: Callable[[], float] = time.perf_counter
) -> str | None:
    """Encode some utterances in float32 and in tf32, and return one line of advice.

    Parameters
    ----------
    features : utterances, of which one batch of at most `SAMPLE_S` is used; at least one.

    Returns
    -------
    One sentence with the gain and the largest deviation; None where tf32 gains little, or does not fit in memory.
    """
    policy = encoder.info.batch_policy
    chosen, *_ = make_batches([len(item) for item in features], policy, encoder.cost, SAMPLE_S)
    arrays = collate([features[position] for position in chosen], policy)
    try:
        exact_s, exact = _timed(lambda: encoder.encode(*arrays), clock)
        fast_s, fast = _timed(lambda: encoder.encode_in(CANDIDATE, *arrays), clock)
    except DeviceMemoryError:
        return None
    gain = exact_s / fast_s
    if gain < WORTH_SAYING:
        return None
    deviation = max(deviation_rms(*pair, CANDIDATE) for pair in zip(fast, exact, strict=True))
    return (
        f"precision={CANDIDATE} would be about {gain:.1f} x as fast here, with numbers that differ by up to "
        f"{deviation:.1g} x rms from float32 (measured on {len(chosen)} utterances); the two do not mix in one set"
    )


def _timed(encode: Callable[[], list[Output]], clock: Callable[[], float]) -> tuple[float, list[Output]]:
    """Return the seconds and the outputs of a second call, after one that may compile and plan."""
    encode()
    since = clock()
    outputs = encode()
    return clock() - since, outputs
