"""Two real object stores, started once, each test with a cache of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.object_stores import ObjectStore, gcs_store, s3_store
from voxshard import locations


@pytest.fixture(scope="session")
def s3() -> Iterator[ObjectStore]:
    with s3_store() as store:
        yield store


@pytest.fixture(scope="session")
def gcs() -> Iterator[ObjectStore]:
    with gcs_store() as store:
        yield store


@pytest.fixture(params=["s3", "gcs"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    chosen: ObjectStore = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv(locations.CACHE_VARIABLE, str(folder))
    locations._cached.cache_clear()
    yield folder
    locations._cached.cache_clear()
