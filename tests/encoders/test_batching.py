from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxshard.encoders.base import BatchPolicy
from voxshard.encoders.batching import collate, make_batches

lengths = st.lists(st.integers(1, 500), max_size=80)
policies = st.sampled_from(["padded", "windows", "equal_length", "single"])


def batch_cost(batch: list[int], sizes: list[int], policy: BatchPolicy) -> int:
    own = [sizes[position] for position in batch]
    return max(own) * len(own) if policy == "padded" else sum(own)


@given(lengths, policies, st.integers(1, 2000))
def test_batches_cover_everything_once_and_keep_to_the_budget(
    sizes: list[int], policy: BatchPolicy, budget: int
) -> None:
    batches = make_batches(sizes, policy, float, budget)
    assert sorted(position for batch in batches for position in batch) == list(range(len(sizes)))
    for batch in batches:
        assert len(batch) == 1 or batch_cost(batch, sizes, policy) <= budget
        if policy == "equal_length":
            assert len({sizes[position] for position in batch}) == 1
        if policy == "single":
            assert len(batch) == 1


def test_batches_are_deterministic_and_the_longest_come_first() -> None:
    assert make_batches([3, 9, 9, 1], "padded", float, 18) == [[1, 2], [0, 3]]


def test_a_quadratic_cost_makes_batches_of_long_utterances_smaller() -> None:
    batches = make_batches([10] * 8 + [20] * 8, "padded", lambda length: length + length**2 / 10, 80)
    assert [len(batch) for batch in batches] == [1] * 8 + [4, 4]


@pytest.mark.parametrize("policy", ["padded", "equal_length", "single"])
def test_collate_pads_with_zeros_on_the_right(policy: BatchPolicy) -> None:
    batch, sizes = collate([np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)], policy)
    assert batch.shape == (2, 4, 3)
    assert sizes.tolist() == [2, 4]
    assert batch[0, :2].all()
    assert not batch[0, 2:].any()


def test_windows_are_laid_one_after_the_other() -> None:
    batch, sizes = collate([np.full((2, 5), 1.0), np.full((3, 5), 2.0)], "windows")
    assert batch.shape == (5, 5)
    assert sizes.tolist() == [2, 3]


@given(st.lists(st.integers(1, 400_000), min_size=2, max_size=2))
def test_utterances_of_different_lengths_are_padded_by_little_to_one_of_few_lengths(sizes: list[int]) -> None:
    batch, _ = collate([np.ones(size, np.float32) for size in sizes], "padded")
    longest = max(sizes)
    if sizes[0] == sizes[1]:
        assert batch.shape[1] == longest
    else:
        assert longest <= batch.shape[1] <= longest * 17 / 16
        assert batch.shape[1] % (1 << max(0, longest.bit_length() - 5)) == 0


def test_a_task_on_speech_meets_few_shapes() -> None:
    """Half as many as with a padded length and a row count of its own for nearly every batch (101 of 156)."""
    rng = np.random.default_rng(0)
    shapes: list[tuple[int, int]] = []
    for _ in range(3):  # shards of 4 h, longest first, as a task on a GPU sees them
        seconds = np.clip(rng.lognormal(np.log(7), 0.5, 20000), 1, 60)
        sizes = (seconds[: np.searchsorted(np.cumsum(seconds), 4 * 3600)] * 100).astype(int).tolist()
        for rows in make_batches(sizes, "padded", lambda length: length / 100, 320):
            batch, _ = collate([np.zeros(sizes[row], np.int8) for row in rows], "padded")
            shapes.append((batch.shape[0], batch.shape[1]))
    assert len(shapes) > 120
    assert len(set(shapes)) < 0.45 * len(shapes)
