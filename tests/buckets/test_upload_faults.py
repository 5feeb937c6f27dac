"""An upload that fails is tried again; one that keeps failing leaves nothing, and the same command resumes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.bucket_corpora import tones
from support.fault_proxy import STALL, Fault, FaultProxy
from support.object_stores import ObjectStore
from voxshard import remote
from voxshard.cli import main
from voxshard.locations import MARKER, Url, local_copy

FAULTS = {"503": 503, "reset": 0, "time-out": STALL}
_TIMEOUT_S = 3


@pytest.fixture
def faulty(store: ObjectStore, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The proxy of the store; where it is to stall, clients wait a few seconds for an answer."""
    proxy: FaultProxy = request.getfixturevalue({"s3": "proxy", "gs": "gcs_proxy"}[store.scheme])
    if request.node.callspec.params.get("fault", "time-out") == "time-out":
        monkeypatch.setattr(remote, "_READ_TIMEOUT_S", _TIMEOUT_S)
        remote._file_system.cache_clear()
    yield proxy
    remote._file_system.cache_clear()


def path_of(store: ObjectStore, name: str) -> str:
    """Requests that upload an object: of S3 its path, of Google a path of all uploads."""
    return f"PUT .*{name}" if store.scheme == "s3" else "POST .*upload"


def folder_of_files(folder: Path) -> Path:
    folder.mkdir()
    for name in ("a.txt", "b.txt", "metrics.json"):
        (folder / name).write_text(name * 100)
    return folder


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_is_retried_and_the_object_is_right(
    fault: str, store: ObjectStore, faulty: FaultProxy, tmp_path: Path
) -> None:
    name = f"once-{fault}.bin"
    content = bytes(range(256)) * 500
    (tmp_path / name).write_bytes(content)
    faulty.faults = [Fault(path_of(store, name), FAULTS[fault], times=1)]
    main(["publish", str(tmp_path / name), store.url(name)])
    assert faulty.faults[0].times == 0, "the fault was met"
    assert store.read(name) == content


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_leaves_no_complete_folder_and_no_local_file_and_the_command_resumes(
    fault: str, store: ObjectStore, faulty: FaultProxy, tmp_path: Path, cache: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for delays in ("RETRY_DELAYS_S", "_GCS_RETRY_DELAYS_S"):
        monkeypatch.setattr(remote, delays, (0.05,))
    name = f"stays-{fault}"
    folder = folder_of_files(tmp_path / "results")
    faulty.faults = [Fault(path_of(store, f"{name}/b.txt"), FAULTS[fault])]
    with pytest.raises(SystemExit) as caught:
        main(["publish", str(folder), store.url(name)])
    assert caught.value.code == 4
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"voxshard: {store.url(name)}/")
    assert "the store keeps failing (" in line
    assert line.endswith("); what is finished is kept, run the same command again later")
    assert not {"b.txt", "metrics.json", MARKER} & set(store.names(name))
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    faulty.faults = []
    main(["publish", str(folder), store.url(name)])
    copy = local_copy(Url(store.url(name)))
    assert {path.name: path.read_text() for path in copy.iterdir() if path.name != MARKER} == {
        path.name: path.read_text() for path in folder.iterdir()
    }


def test_a_command_whose_upload_fails_leaves_no_local_file(
    store: ObjectStore, faulty: FaultProxy, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for delays in ("RETRY_DELAYS_S", "_GCS_RETRY_DELAYS_S"):
        monkeypatch.setattr(remote, delays, ())
    tones(tmp_path / "corpus", ["a.wav"])
    words = ["prepare", "folder", str(tmp_path / "corpus"), "--out", store.url("failing.parquet")]
    faulty.faults = [Fault(path_of(store, "failing.parquet"), 503)]
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 4
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    assert "failing.parquet" not in store.names()
    faulty.faults = []
    main(words)
    assert "failing.parquet" in store.names()


def test_a_store_that_accepts_a_request_and_never_answers_is_a_time_out(
    store: ObjectStore, faulty: FaultProxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.csv").write_text("path\na.wav\n")
    url = store.url("silent.csv")
    store.put(tmp_path / "x.csv", url)
    assert remote.read(url) == b"path\na.wav\n"
    faulty.faults = [Fault("GET .*silent", STALL, times=1)]
    assert remote.read(url) == b"path\na.wav\n", "tried again"
    faulty.faults = [Fault("(GET|HEAD) .*silent", STALL)]
    with pytest.raises(SystemExit) as caught:
        main(["export", url, "--format", "json", "--out", str(tmp_path / "a.json")])
    assert caught.value.code == 4
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"voxshard: {url}: the store keeps failing (")
    assert "imeout" in line
