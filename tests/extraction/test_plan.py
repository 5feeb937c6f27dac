from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.toy_encoder import ToyEncoder, ToySettings
from voxshard.extraction import plan as planning
from voxshard.extraction.plan import make_plan
from voxshard.manifest import Manifest
from voxshard.store.layout import Plan


def manifest_of(durations: list[float | None], splits: list[str | None] | None = None) -> Manifest:
    rows = [
        {"utterance_id": f"u{n}", "path": f"u{n}", "duration_s": value, "split": splits[n] if splits else None}
        for n, value in enumerate(durations)
    ]
    return Manifest.from_rows(rows, root="corpus", corpus="folder")


INFO = ToyEncoder("toy", ToySettings(), {}).info
FRAMES = ToyEncoder("toy", ToySettings(granularity="frames"), {}).info
durations = st.lists(st.one_of(st.none(), st.floats(0, 5000)), min_size=1, max_size=200)


@settings(max_examples=60, deadline=None)
@given(durations, st.one_of(st.none(), st.integers(1, 50)), st.integers(1, 4))
def test_every_utterance_stands_in_exactly_one_shard_and_shards_are_contiguous(
    values: list[float | None], num_shards: int | None, num_splits: int
) -> None:
    splits: list[str | None] = [f"s{row * num_splits // len(values)}" for row in range(len(values))]
    plan = make_plan(manifest_of(values, splits), INFO, num_shards=num_shards)
    assert list(plan.utterance_ids) == [f"u{n}" for n in range(len(values))]
    assert plan.shard[0] == 0
    assert set(np.diff(plan.shard)) <= {0, 1}
    for shard in range(plan.num_shards):
        start, stop = plan.rows(shard)
        assert len(set(splits[start:stop])) == 1


def test_the_same_manifest_gives_the_same_plan() -> None:
    manifest = manifest_of([1.0, 200.0, 3000.0, 5.0, None])
    assert make_plan(manifest, INFO).digest() == make_plan(manifest, INFO).digest()


def test_a_cpu_encoder_gets_shards_of_about_twenty_minutes() -> None:
    plan = make_plan(manifest_of([60.0] * 1000), INFO)
    assert np.bincount(plan.shard).tolist() == [20] * 50


def test_shards_hold_about_the_same_amount_of_audio_however_uneven_the_recordings() -> None:
    rng = np.random.default_rng(0)
    values = rng.lognormal(2, 1.5, 2000).tolist()
    plan = make_plan(manifest_of(values), INFO, num_shards=20)
    work = np.bincount(plan.shard, values)
    assert plan.num_shards == 20
    assert work.max() - work.min() <= 2 * max(values)


@pytest.mark.parametrize(
    ("num_utterances", "seconds", "num_shards"),
    [
        (9, 3.0, 1),
        (40, 3.0, 4),
        (199, 3.0, 16),
        (200, 3.0, 16),
        (6_399, 1.0, 16),
        (6_400, 1.0, 64),
        (200, 0.5, 4),  # no shard of less than 30 s
        (10_000, 60.0, 500),  # 20 minutes each
    ],
)
def test_a_split_has_shards_enough_to_lose_little_by_a_kill(
    num_utterances: int, seconds: float, num_shards: int
) -> None:
    assert make_plan(manifest_of([seconds] * num_utterances), INFO).num_shards == num_shards


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize(
    ("num_recordings", "seconds"), [(100, 120.0), (50, 3600.0), (150, 10.0), (20, 600.0), (5, 3600.0), (200, 60.0)]
)
def test_a_kill_costs_a_sixteenth_of_a_few_long_recordings_or_one_of_them_or_two_minutes(
    num_recordings: int, seconds: float, on_gpu: bool
) -> None:
    plan = make_plan(manifest_of([seconds] * num_recordings), INFO, on_gpu=on_gpu)
    longest = np.bincount(plan.shard).max() * seconds
    assert longest <= max(1.05 * num_recordings * seconds / 16, 120.0, seconds)
    assert plan.num_shards <= max(24, num_recordings * seconds / 1200)


def test_a_few_unprobed_recordings_may_be_long() -> None:
    plan = make_plan(manifest_of([None] * 50), INFO)
    assert np.bincount(plan.shard).max() == 3
    assert make_plan(manifest_of([None] * 5), INFO).num_shards == 5


def test_every_split_has_its_least_number_of_shards() -> None:
    rows = [{"utterance_id": f"u{n}", "path": "x", "duration_s": 3.0, "split": "ab"[n // 200]} for n in range(400)]
    plan = make_plan(Manifest.from_rows(rows, root="/", corpus="folder"), INFO)
    assert plan.num_shards == 32


def test_the_device_decides_how_long_a_shard_is() -> None:
    manifest = manifest_of([3600.0] * 200)
    assert make_plan(manifest, INFO, on_gpu=True).num_shards == 50
    assert make_plan(manifest, INFO, on_gpu=False).num_shards == 200  # one recording each: no shard cuts one


def test_an_unprobed_corpus_does_not_become_thousands_of_shards() -> None:
    rows = [{"utterance_id": f"u{n}", "path": "x", "num_bytes": None} for n in range(100_000)]
    plan = make_plan(Manifest.from_rows(rows, root="/", corpus="folder"), INFO)
    assert plan.num_shards == 100


def test_no_shard_is_larger_than_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "MAX_SHARD_UTTERANCES", 30)
    plan = make_plan(manifest_of([1.0] * 100), INFO)
    assert np.bincount(plan.shard).max() <= 30
    monkeypatch.setattr(planning, "MAX_SHARD_BYTES", 100 * 2 * 4 * 10)  # ten seconds of frames
    plan = make_plan(manifest_of([1.0] * 100), FRAMES)
    assert np.bincount(plan.shard).max() <= 10


def test_an_unprobed_manifest_is_cut_by_size() -> None:
    rows = [{"utterance_id": f"u{n}", "path": f"u{n}", "num_bytes": 10 if n < 50 else 1000} for n in range(100)]
    plan = make_plan(Manifest.from_rows(rows, root="corpus", corpus="folder"), INFO, num_shards=5)
    first = plan.rows(0)
    assert first[1] - first[0] > 50


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan = make_plan(manifest_of([1.0, 2.0, 3.0]), INFO, num_shards=2)
    plan.write(tmp_path / "plan.parquet")
    assert Plan.read(tmp_path / "plan.parquet").digest() == plan.digest()
