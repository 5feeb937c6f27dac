"""What a report reads of a feature set: counts, failures, costs, throughput, device load and the map."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxshard.manifest import Manifest
from voxshard.progress import Silent
from voxshard.reporting.feature_summaries import load_feature_set
from voxshard.reporting.report_data import FeatureSetReport
from voxshard.reporting.sampling import project
from voxshard.store.layout import FeatureDir, Identity, Plan
from voxshard.store.merge import MergeConfig, merge
from voxshard.store.shard import Failure, ShardHeader, write_shard

NUM_SHARDS, PER_SHARD = 10, 6
START = datetime(2026, 1, 1, tzinfo=UTC)


def make_set(path: Path, *, published: int = NUM_SHARDS, merged: bool = True, frames: bool = False) -> FeatureDir:
    """Ten shards of six utterances; the first of each has failed; a shard is published every 100 s."""
    generator = np.random.default_rng(0)
    count = NUM_SHARDS * PER_SHARD
    rows = [
        {
            "utterance_id": f"u{row:02d}", "path": f"u{row:02d}.wav", "split": "train" if row < 42 else "eval",
            "speaker": f"s{row % 3}", "digit": row % 4,
        }
        for row in range(count)
    ]  # fmt: skip
    manifest = Manifest.from_rows(rows, root="/corpus", corpus="folder")
    plan = Plan(manifest.ids, np.arange(count, dtype=np.int32) // PER_SHARD)
    identity = Identity(
        encoder="mfcc", fingerprint="f" * 64, provenance={}, manifest_hash=manifest.content_digest(),
        plan_hash=plan.digest(), num_shards=NUM_SHARDS, num_utterances=count,
        granularity="frames" if frames else "utterance", dim=3, num_layers=None,
        sample_rate=16000, frame_rate_hz=None, window_s=None, hop_s=None, weights_folder=None, weight_files=(),
    )  # fmt: skip
    folder = FeatureDir(path)
    folder.shards.mkdir(parents=True)
    folder.progress.mkdir()
    identity.write(folder.identity)
    plan.write(folder.plan)
    manifest.write(folder.manifest)
    for index in range(published):
        header = ShardHeader(
            encoder="mfcc", fingerprint="f" * 64, plan_hash=plan.digest(), shard_index=index, num_shards=NUM_SHARDS,
            granularity=identity.granularity, sample_rate=16000, dim=3, software={"numpy": "2.4.0"},
            host=f"node{index % 2}", created=(START + timedelta(seconds=100 * (index + 1))).isoformat(),
            audio_s=5000.0, encode_s=80.0, decode_s=20.0,
        )  # fmt: skip
        first, *others = plan.ids(index)
        shape, key = ((4, 3), "frames") if frames else ((3,), "embedding")
        outputs = [(name, {key: generator.standard_normal(shape).astype(np.float32)}) for name in others]
        failure = Failure(first, "EmptyAudioError" if index else "TooShortError", f"0 samples in {first}")
        write_shard(folder.shard(index, NUM_SHARDS), header, outputs, [failure])
    if merged:
        merge(MergeConfig(features=path, max_failure_fraction=1.0), Silent(), lambda: None)
    return folder


def advise(timers: Mapping[str, float], *, num_workers: int, device: str) -> str:
    return f"{timers['encode_s']:.0f} s on {device} with {num_workers}"


def load(path: Path, labels: tuple[str, ...] = ("digit",)) -> FeatureSetReport:
    return load_feature_set(path, "mfcc", labels=labels, advise=advise)


def heartbeat(folder: FeatureDir, task: int, **changes: Any) -> None:
    state = {
        "task": task, "num_workers": 3, "device": "cuda:0", "host": "node0", "audio_s": 36000.0, "started": 1000.0,
        "updated": 2800.0, "timers": {"encode_s": 900.0}, "gpu": {}, **changes,
    }  # fmt: skip
    (folder.progress / f"task-{task:05d}-of-00002.json").write_text(json.dumps(state))


def test_every_row_is_counted_by_split_and_every_failure_by_reason(tmp_path: Path) -> None:
    make_set(tmp_path / "mfcc")
    found = load(tmp_path / "mfcc")
    counts = [(item.split, item.num_total, item.num_ok, item.num_failed, item.num_pending) for item in found.accounts]
    assert counts == [("train", 42, 35, 7, 0), ("eval", 18, 15, 3, 0)]
    assert [(reason.kind, reason.count) for reason in found.failures] == [("EmptyAudioError", 9), ("TooShortError", 1)]
    assert found.failures[0].examples[:2] == [("u06", "0 samples in u06"), ("u12", "0 samples in u12")]
    assert len(found.failures[0].examples) == 3
    assert found.versions == {"numpy": "2.4.0"}


def test_splits_that_nobody_has_begun_are_still_to_do(tmp_path: Path) -> None:
    make_set(tmp_path / "mfcc", published=7)
    eval_split = load(tmp_path / "mfcc").accounts[1]
    assert (eval_split.split, eval_split.num_ok, eval_split.num_pending) == ("eval", 0, 18)


def test_a_set_that_is_not_merged_says_what_to_do(tmp_path: Path) -> None:
    make_set(tmp_path / "mfcc", published=4, merged=False)
    found = load(tmp_path / "mfcc")
    assert found.accounts == []
    assert found.not_counted == (
        f"4 of 10 shards are done, nothing is merged yet: run `voxshard merge {tmp_path}/mfcc`."
    )
    assert found.embedding_map is None
    assert "no merged feature set here" in found.no_map


def test_costs_add_up_over_the_tasks(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "mfcc")
    heartbeat(folder, 0, gpu={"energy_j": 3.6e6, "time": [1000.0, 1060.0], "utilisation": [0.5, 0.75]})
    heartbeat(folder, 1, updated=4600.0)
    (folder.progress / "task-00002-of-00002.json").write_text('{"half a')
    found = load(tmp_path / "mfcc")
    assert found.costs == {
        "tasks": "2", "audio, h": "20.00", "task time, h": "1.500", "GPU hours": "1.500", "CPU hours": "6.000",
        "GPU energy, kWh": "1.000", "x real time, per task": "13",
    }  # fmt: skip
    assert found.advice == "1800 s on cuda:0 with 3"
    (load_line,) = [series for series in found.timelines if series.quantity == "GPU utilisation"]
    assert (load_line.name, load_line.unit) == ("task 0 on node0", "%")
    assert load_line.time_s.tolist() == [0.0, 60.0]
    assert load_line.values.tolist() == [50.0, 75.0]


def test_a_set_without_heartbeats_has_no_costs(tmp_path: Path) -> None:
    make_set(tmp_path / "mfcc")
    found = load(tmp_path / "mfcc")
    assert found.costs == {}
    assert found.advice == ""


def test_throughput_is_the_audio_of_the_shards_over_wall_time_and_the_hosts_add_up(tmp_path: Path) -> None:
    make_set(tmp_path / "mfcc")
    every, *hosts = load(tmp_path / "mfcc").timelines
    assert [series.name for series in (every, *hosts)] == ["all tasks", "node0", "node1"]
    assert every.values == pytest.approx(
        np.full(len(every.values), 50.0)
    )  # one shard of 5,000 s after the other, 100 s each
    assert hosts[0].values + hosts[1].values == pytest.approx(every.values)


def test_the_map_shows_a_label_and_a_group_and_is_the_same_every_time(tmp_path: Path) -> None:
    make_set(tmp_path / "mfcc")
    first, second = load(tmp_path / "mfcc").embedding_map, load(tmp_path / "mfcc").embedding_map
    assert first is not None
    assert second is not None
    assert list(first.columns) == ["digit", "speaker"]
    assert first.points.shape == (50, 2)
    assert first.num_total == 50
    assert np.array_equal(first.points, second.points)
    unlabelled = load(tmp_path / "mfcc", labels=()).embedding_map
    assert unlabelled is not None
    assert list(unlabelled.columns) == ["digit", "speaker"]


def test_frames_are_averaged_per_utterance_for_the_map(tmp_path: Path) -> None:
    make_set(tmp_path / "frames", frames=True)
    found = load(tmp_path / "frames").embedding_map
    assert found is not None
    assert found.points.shape == (50, 2)


def test_the_projection_finds_the_direction_of_largest_variance_whatever_the_scale() -> None:
    generator = np.random.default_rng(0)
    common, own = generator.normal(size=500), generator.normal(size=(500, 3))
    vectors = np.column_stack(
        [1000 * (common + 0.1 * own[:, 0]), common + 0.1 * own[:, 1], 0.001 * own[:, 2], np.ones(500)]
    )
    points, explained = project(vectors)
    assert abs(np.corrcoef(points[:, 0], common)[0, 1]) > 0.99
    assert explained[0] == pytest.approx(2 / 3, abs=0.02)
    assert points[np.abs(points).argmax(axis=0), [0, 1]].min() > 0


def test_embeddings_that_are_all_alike_give_one_point() -> None:
    points, explained = project(np.ones((12, 5)))
    assert not points.any()
    assert explained == (0.0, 0.0)
