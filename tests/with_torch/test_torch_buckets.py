"""Weights, label groups and checkpoints in a bucket give the numbers of local ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from support.bucket_fixtures import cache, gcs, gcs_proxied, s3, s3_proxy, store
from support.network_trials import network_config, tone_corpus
from support.object_stores import ObjectStore
from support.vggish_reference import random_weights

torch = pytest.importorskip("torch")

import voxshard  # noqa: E402
from voxshard.locations import Url, cache_entries  # noqa: E402
from voxshard.stages import train  # noqa: E402
from voxshard.stages.base import Task  # noqa: E402

__all__ = ["cache", "gcs", "gcs_proxied", "s3", "s3_proxy", "store"]


def samples(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(12000).astype(np.float32) * 0.1


def test_weights_in_a_bucket_give_the_numbers_of_the_local_ones(
    store: ObjectStore, make_model: Callable[..., Path], make_ecapa: Callable[..., Path]
) -> None:
    for name, folder in (("hf", make_model("wav2vec2-layer")), ("ecapa", make_ecapa())):
        store.put(folder, store.url("weights", name))
        local = voxshard.load_encoder(name, weights=str(folder))
        there = voxshard.load_encoder(name, weights=store.url("weights", name))
        assert there.info.fingerprint == local.info.fingerprint
        assert np.array_equal(there.embed(samples(), sample_rate=16000), local.embed(samples(), sample_rate=16000))
    assert [entry.url for entry in cache_entries()] == [store.url("weights", name) for name in ("ecapa", "hf")]


def test_a_weights_file_in_a_bucket_gives_the_numbers_of_the_local_one(store: ObjectStore, tmp_path: Path) -> None:
    """Of vggish, which takes a folder or a file."""
    path = tmp_path / "vggish.safetensors"
    save_file(random_weights(2), path)
    store.put(path, store.url("single/vggish.safetensors"))
    local = voxshard.load_encoder("vggish", weights=str(path))
    there = voxshard.load_encoder("vggish", weights=store.url("single/vggish.safetensors"))
    assert there.info.fingerprint == local.info.fingerprint
    waveform = np.tile(samples(), 2)
    assert np.array_equal(there.embed(waveform, sample_rate=16000), local.embed(waveform, sample_rate=16000))


def test_label_groups_manifest_and_network_of_a_training_are_in_a_bucket(store: ObjectStore, tmp_path: Path) -> None:
    manifest = tone_corpus(tmp_path / "tones")
    (tmp_path / "groups.txt").write_text("high\n\nloud\n")
    groups, place = store.url("nets/groups.txt"), store.url("nets/tones")
    store.put(tmp_path / "groups.txt", groups)
    store.put(tmp_path / "tones" / "audio", f"{place}/audio")
    there = voxshard.prepare("folder", f"{place}/audio", out=tmp_path / "there.parquet")
    columns = voxshard.manifest.Manifest.read(manifest).table
    there = voxshard.manifest.Manifest.from_table(columns, root=there.root, corpus="table")
    there.write(tmp_path / "there.parquet")
    store.put(tmp_path / "there.parquet", store.url("nets/there.parquet"))
    ours = train.run(network_config(manifest, tmp_path / "ours", label=(), labels_file=tmp_path / "groups.txt"), Task())
    config = network_config(manifest, tmp_path / "x", label=(), labels_file=Url(groups))
    config = config.model_copy(
        update={"manifest": Url(store.url("nets/there.parquet")), "out": Url(store.url("nets/run"))}
    )
    theirs = train.run(config, Task())
    assert ours is not None
    assert theirs is not None
    assert theirs.metrics["metrics"] == ours.metrics["metrics"]
    assert np.array_equal(theirs.scores()["score_high"], ours.scores()["score_high"])
    expected = voxshard.load_encoder("checkpoint", weights=str(ours.path), embedding="ft")
    encoder = voxshard.load_encoder("checkpoint", weights=store.url("nets/run"), embedding="ft")
    assert np.array_equal(encoder.embed(samples(), sample_rate=8000), expected.embed(samples(), sample_rate=8000))
    evaluated = voxshard.evaluate(ours, on=[manifest], out=tmp_path / "evaluated")
    place = store.url("nets/there.parquet")
    found = voxshard.evaluate(store.url("nets/run"), on=[place], out=store.url("nets/evaluated"))
    assert found.metrics["metrics"] == evaluated.metrics["metrics"]
