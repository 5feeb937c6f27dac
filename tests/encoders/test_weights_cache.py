"""Models that are in the hub's cache on this machine already are taken from there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.hub_server import LARGE, Hub, git_blob, serving
from support.trees import Notes
from voxshard.errors import TransientFaultError
from voxshard.weights import fetch
from voxshard.weights.catalogue import weight_set

FILES = {
    "config.json": b"{}", "preprocessor_config.json": b"{ }", "model.safetensors": b"weights",
}  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub()) as found:
        found.models["org/name@main"] = dict(FILES)
        monkeypatch.setenv("HF_ENDPOINT", found.address)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.delenv("HF_HUB_CACHE", raising=False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        cached(tmp_path / "home" / "hub", found.commit("org/name@main"))
        yield found


def cached(cache: Path, commit: str) -> None:
    """A model as huggingface_hub keeps it: files are links to blobs that are named after their digests."""
    folder = cache / "models--org--name"
    for path in (folder / "blobs", folder / "refs", folder / "snapshots" / commit):
        path.mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    for name, content in FILES.items():
        digest = hashlib.sha256(content).hexdigest() if name.endswith(LARGE) else git_blob(content)
        (folder / "blobs" / digest).write_bytes(content)
        (folder / "snapshots" / commit / name).symlink_to(Path("../../blobs") / digest)


def fetched(tmp_path: Path, revision: str | None = None) -> tuple[Path, list[str]]:
    notes = Notes()
    folder = fetch.fetch(weight_set("hf/org/name", revision), tmp_path / "weights", progress=notes, wait_s=0.0)
    return folder, notes.lines


def check_is_complete(folder: Path) -> None:
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    assert {entry.checked_against for entry in fetch.read_record(folder)} == {"published"}
    assert {item.state for item in fetch.verify(folder.parents[2], ["hf/org/name"])} == {"ok"}


def test_what_is_in_the_cache_is_copied_and_not_fetched(hub: Hub, tmp_path: Path) -> None:
    folder, notes = fetched(tmp_path)
    check_is_complete(folder)
    assert not any("/resolve/" in path for path in hub.paths())
    assert any(line.startswith("model.safetensors: copied from the hub's cache, ") for line in notes)


@pytest.mark.parametrize("revision", [None, "commit"])
def test_without_the_hub_the_cache_will_do(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    commit = hub.commit("org/name@main")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    folder, notes = fetched(tmp_path, commit if revision else None)
    check_is_complete(folder)
    where = commit if revision else "main"
    assert notes[0] == (
        f"org/name: the hub cannot be reached; commit {commit[:12]} of {where} is taken from its cache on this machine"
    )
    with pytest.raises(TransientFaultError):
        fetched(tmp_path, "v2")


def test_damage_in_the_cache_is_noticed(hub: Hub, tmp_path: Path) -> None:
    blob = next((tmp_path / "home").rglob(hashlib.sha256(b"weights").hexdigest()))
    blob.write_bytes(b"weightz")
    folder, _ = fetched(tmp_path)
    check_is_complete(folder)
    assert any(path.endswith("/model.safetensors") for path in hub.paths())


def test_another_commit_in_the_cache_is_not_taken(hub: Hub, tmp_path: Path) -> None:
    hub.models["org/name@main"] = {**FILES, "model.safetensors": b"newer weights"}
    folder, _ = fetched(tmp_path)
    assert (folder / "model.safetensors").read_bytes() == b"newer weights"
