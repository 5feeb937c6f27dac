"""A SavedModel in a bucket gives the numbers of the local one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

import voxshard
from support.bucket_fixtures import cache, gcs, gcs_proxied, s3, s3_proxy, store
from support.object_stores import ObjectStore

__all__ = ["cache", "gcs", "gcs_proxied", "s3", "s3_proxy", "store"]


def test_a_saved_model_in_a_bucket_gives_the_numbers_of_the_local_one(
    store: ObjectStore, save_trillsson: Callable[..., Path]
) -> None:
    samples = np.random.default_rng(0).standard_normal(40000).astype(np.float32) * 0.1
    store.put(save_trillsson(), store.url("trillsson3"))
    local = voxshard.load_encoder("trillsson3", weights=str(save_trillsson()))
    there = voxshard.load_encoder("trillsson3", weights=store.url("trillsson3"))
    assert there.info.fingerprint == local.info.fingerprint
    assert np.array_equal(there.embed(samples, sample_rate=16000), local.embed(samples, sample_rate=16000))
