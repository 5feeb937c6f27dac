"""Fixtures of tests with object stores: two real ones, started once for all tests, and a cache for each test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from support.fault_proxy import FaultProxy, fault_proxy
from support.object_stores import ObjectStore, gcs_store, s3_store, variables
from voxshard import locations, remote
from voxshard.corpora.remote_folder import objects_below


@pytest.fixture(scope="session")
def s3_proxy() -> Iterator[tuple[ObjectStore, FaultProxy]]:
    """All requests to S3 go through one proxy: clients keep the endpoint they were made for."""
    with s3_store() as store, fault_proxy(store.endpoint) as proxy, variables({"AWS_ENDPOINT_URL": proxy.endpoint}):
        yield replace(store, endpoint=proxy.endpoint), proxy


@pytest.fixture
def s3(s3_proxy: tuple[ObjectStore, FaultProxy]) -> ObjectStore:
    return s3_proxy[0]


@pytest.fixture
def proxy(s3_proxy: tuple[ObjectStore, FaultProxy], monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The proxy of S3, and short waits between attempts."""
    monkeypatch.setattr(remote, "RETRY_DELAYS_S", (0.05, 0.05, 0.05))
    yield from _as_new(s3_proxy[1])


@pytest.fixture(scope="session")
def gcs_proxied() -> Iterator[tuple[ObjectStore, FaultProxy]]:
    """All requests to Google Cloud Storage, through a proxy as well."""
    with (
        gcs_store() as store,
        fault_proxy(store.endpoint) as proxy,
        variables({"STORAGE_EMULATOR_HOST": proxy.endpoint}),
    ):
        yield replace(store, endpoint=proxy.endpoint), proxy


@pytest.fixture
def gcs(gcs_proxied: tuple[ObjectStore, FaultProxy]) -> ObjectStore:
    return gcs_proxied[0]


@pytest.fixture
def gcs_proxy(gcs_proxied: tuple[ObjectStore, FaultProxy], monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The proxy of Google Cloud Storage; gcsfs makes one attempt, and ours are close together."""
    import gcsfs

    monkeypatch.setattr(gcsfs.GCSFileSystem, "_request", gcsfs.GCSFileSystem._request.__wrapped__)
    monkeypatch.setattr(remote, "_GCS_RETRY_DELAYS_S", (0.05, 0.05, 0.05))
    yield from _as_new(gcs_proxied[1])


def _as_new(proxy: FaultProxy) -> Iterator[FaultProxy]:
    proxy.requests.clear()
    yield proxy
    proxy.faults, proxy.latency_s = [], 0.0


@pytest.fixture(params=["s3", "gcs"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    chosen: ObjectStore = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and no listing of an earlier test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv(locations.CACHE_VARIABLE, str(folder))
    locations._cached.cache_clear()
    objects_below.cache_clear()
    yield folder
    locations._cached.cache_clear()
