"""Fetching weights from a server on this machine that behaves like a model hub on its good and bad days."""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from voxshard.errors import ConfigError, CorruptFileError, MissingWeightsError, TransientFaultError
from voxshard.weights import fetch
from voxshard.weights.catalogue import Source, WeightSet, hub_url, weight_set
from voxshard.weights.download import download


@dataclass
class Hub:
    """A server: what it holds, how it misbehaves, what it was asked."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    refuse: dict[str, int] = field(default_factory=dict)
    """Status to answer with, by path."""
    cut_after: list[int] = field(default_factory=list)
    """Bytes after which each of the next answers breaks off."""
    digests: dict[str, str] = field(default_factory=dict)
    """What the hub says of a file, where that is not its true SHA-256."""
    redirect: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


def handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            hub.asked.append((self.path, dict(self.headers)))
            if self.path in hub.redirect:
                self.answer(302, {"Location": hub.redirect[self.path], **self.described()})
            elif self.path in hub.refuse:
                self.answer(hub.refuse[self.path], {})
            elif self.path not in hub.files:
                self.answer(404, {})
            else:
                self.give(hub.files[self.path])

        def described(self) -> dict[str, str]:
            return {"X-Linked-Etag": f'"{hub.digests[self.path]}"'} if self.path in hub.digests else {}

        def give(self, content: bytes) -> None:
            etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            headers = {"ETag": etag, "X-Repo-Commit": "c0ffee", **self.described()}
            start = 0
            if self.headers.get("Range") and self.headers.get("If-Range") == etag:
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
                if start >= len(content):
                    return self.answer(416, {})
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            body = content[start:]
            sent = body[: hub.cut_after.pop(0)] if hub.cut_after else body
            self.answer(206 if start else 200, {**headers, "Content-Length": str(len(body))})
            self.wfile.write(sent)
            if len(sent) < len(body):
                self.close_connection = True
            return None

        def answer(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

    return Handler


def serving(hub: Hub) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(hub))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return server


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    found = Hub()
    server = serving(found)
    monkeypatch.setenv("HF_ENDPOINT", found.address)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield found
    server.shutdown()
    server.server_close()


CONTENT = bytes(range(256)) * 4000


def get(hub: Hub, target: Path, path: str = "/model", **expected: Any) -> Any:
    return download(f"{hub.address}{path}", target, wait_s=0.0, **expected)


def test_a_file_arrives_whole_readable_by_the_group_and_nothing_else_stays(hub: Hub, tmp_path: Path) -> None:
    hub.files["/model"] = CONTENT
    received = get(hub, tmp_path / "model", sha256=hashlib.sha256(CONTENT).hexdigest(), num_bytes=len(CONTENT))
    assert (tmp_path / "model").read_bytes() == CONTENT
    assert received.num_bytes == len(CONTENT)
    assert received.revision == "c0ffee"
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) & 0o440 == 0o440
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_transfer_that_is_cut_off_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.files["/model"] = CONTENT
    hub.cut_after = [300_000, 5]
    get(hub, tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == CONTENT
    assert [headers.get("Range") for _, headers in hub.asked] == [None, "bytes=300000-", "bytes=300005-"]


def test_cut_off_every_time_it_says_so_and_the_next_run_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.files["/model"] = CONTENT
    hub.cut_after = [1000, 1000, 1000, 1000]
    message = (
        f"{hub.address}/model: cut off after 4,000 bytes (4 attempts, 4,000 bytes here); run the same command again to"
        " go on. Compute nodes often have no internet: use a login node, or fetch elsewhere and copy the folder"
    )
    with pytest.raises(TransientFaultError, match=f"^{re.escape(message)}$"):
        get(hub, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    get(hub, tmp_path / "model")
    assert hub.asked[-1][1]["Range"] == "bytes=4000-"
    assert (tmp_path / "model").read_bytes() == CONTENT


def test_a_file_that_changed_at_the_origin_is_not_mixed_with_what_is_here(hub: Hub, tmp_path: Path) -> None:
    hub.files["/model"] = CONTENT
    hub.cut_after = [1000, 0, 0, 0]
    with pytest.raises(TransientFaultError):
        get(hub, tmp_path / "model")
    hub.files["/model"] = CONTENT[::-1]
    get(hub, tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("told_by", ["catalogue", "hub"])
def test_a_wrong_digest_keeps_nothing(told_by: str, hub: Hub, tmp_path: Path) -> None:
    hub.files["/model"] = CONTENT
    expected = {"sha256": "0" * 64} if told_by == "catalogue" else {}
    if told_by == "hub":
        hub.digests["/model"] = "0" * 64
    found = hashlib.sha256(CONTENT).hexdigest()
    message = f"{hub.address}/model: SHA-256 is {found}, expected {'0' * 64}; nothing was kept."
    with pytest.raises(CorruptFileError, match=f"^{re.escape(message)}"):
        get(hub, tmp_path / "model", **expected)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_size_keeps_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.files["/model"] = b"<html>sorry</html>"
    with pytest.raises(CorruptFileError, match="18 bytes, expected 9,343; nothing was kept"):
        get(hub, tmp_path / "model", num_bytes=9343)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (
            401,
            "401 Unauthorized: no such model, or one whose terms must be accepted first: do that on its page, `export ",
        ),
        (403, "403 Forbidden: no such model, or one whose terms must be accepted first"),
        (404, "404 Not Found: no such file; check the name of the model and the revision"),
    ],
)
def test_a_refusal_is_not_tried_again_and_says_what_to_do(status: int, message: str, hub: Hub, tmp_path: Path) -> None:
    hub.refuse["/model"] = status
    with pytest.raises(MissingWeightsError, match=f"^{re.escape(f'{hub.address}/model: {message}')}"):
        get(hub, tmp_path / "model")
    assert len(hub.asked) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_busy_server_is_tried_again(hub: Hub, tmp_path: Path) -> None:
    hub.refuse["/model"] = 503
    with pytest.raises(TransientFaultError, match=r"503 Service Unavailable \(4 attempts, 0 bytes here\)"):
        get(hub, tmp_path / "model")
    assert len(hub.asked) == 4
    assert list(tmp_path.iterdir()) == []


def test_no_network_says_where_to_go(tmp_path: Path) -> None:
    with pytest.raises(TransientFaultError, match=r"Connection refused.*Compute nodes often have no internet"):
        download("http://127.0.0.1:9/model", tmp_path / "model", wait_s=0.0)


def test_the_token_goes_to_the_hub_and_not_where_it_redirects(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Hub()
    server = serving(storage)
    storage.files["/blob"] = CONTENT
    hub.redirect["/org/name/resolve/main/model"] = f"{storage.address}/blob"
    hub.digests["/org/name/resolve/main/model"] = hashlib.sha256(CONTENT).hexdigest()
    monkeypatch.setenv("HF_TOKEN", "secret")
    wanted = WeightSet("set", "here", "any", "1 MB", (Source("model", hub_url("org/name", "model")),))
    folder = fetch.fetch(wanted, tmp_path, wait_s=0.0)
    server.shutdown()
    server.server_close()
    assert hub.asked[0][1]["Authorization"] == "Bearer secret"
    assert "Authorization" not in storage.asked[0][1]
    assert fetch.read_record(folder)[0].checked_against == "published"


def test_other_origins_never_see_the_token(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("HF_ENDPOINT", "http://elsewhere.invalid")
    hub.files["/file"] = b"x"
    fetch.fetch(WeightSet("set", "here", "any", "1 B", (Source("file", f"{hub.address}/file"),)), tmp_path)
    assert "Authorization" not in hub.asked[0][1]


MODEL = "/org/name/resolve/main"


def test_a_model_of_the_hub_is_fetched_recorded_and_not_fetched_twice(hub: Hub, tmp_path: Path) -> None:
    hub.files = {
        f"{MODEL}/{name}": name.encode() for name in ("config.json", "preprocessor_config.json", "model.safetensors")
    }
    folder = fetch.fetch(weight_set("hf/org/name"), tmp_path)
    assert folder == tmp_path / "hf/org/name"
    record = json.loads((folder / "weights.json").read_text())
    assert (record["name"], record["licence"]) == ("hf/org/name", "see the model's page")
    by_name = {item["name"]: item for item in record["files"]}
    assert by_name["config.json"]["sha256"] == hashlib.sha256(b"config.json").hexdigest()
    assert by_name["model.safetensors"]["revision"] == "c0ffee"
    assert by_name["model.safetensors"]["checked_against"] == "nothing"
    count = len(hub.asked)
    fetch.fetch(weight_set("hf/org/name"), tmp_path)
    assert len(hub.asked) == count
    (folder / "model.safetensors").write_bytes(b"model.safetensorz")
    fetch.fetch(weight_set("hf/org/name"), tmp_path)
    assert hub.paths()[count:] == [f"{MODEL}/model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == b"model.safetensors"


def test_a_model_saved_in_several_files_comes_whole(hub: Hub, tmp_path: Path) -> None:
    index = json.dumps(
        {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}
    )
    names = ["config.json", "preprocessor_config.json", "model-1.safetensors", "model-2.safetensors"]
    hub.files = {f"{MODEL}/{name}": name.encode() for name in names}
    hub.files[f"{MODEL}/model.safetensors.index.json"] = index.encode()
    folder = fetch.fetch(weight_set("hf/org/name"), tmp_path)
    assert {entry.name for entry in fetch.read_record(folder)} == {*names, "model.safetensors.index.json"}


def test_an_index_cannot_reach_outside_its_folder(hub: Hub, tmp_path: Path) -> None:
    hub.files = {f"{MODEL}/{name}": b"{}" for name in ("config.json", "preprocessor_config.json")}
    hub.files[f"{MODEL}/model.safetensors.index.json"] = b'{"weight_map": {"a": "../../../evil"}}'
    with pytest.raises(
        CorruptFileError, match=r"names the file '\.\./\.\./\.\./evil', which lies outside the model's folder"
    ):
        fetch.fetch(weight_set("hf/org/name"), tmp_path)


def test_a_revision_is_asked_for_by_name(hub: Hub, tmp_path: Path) -> None:
    path = "/org/name/resolve/v2"
    hub.files = {f"{path}/{name}": b"x" for name in ("config.json", "preprocessor_config.json", "pytorch_model.bin")}
    folder = fetch.fetch(weight_set("hf/org/name", "v2"), tmp_path)
    assert (folder / "pytorch_model.bin").exists()


def test_a_model_without_a_checkpoint_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files = {f"{MODEL}/{name}": b"x" for name in ("config.json", "preprocessor_config.json")}
    with pytest.raises(MissingWeightsError, match=r"pytorch_model\.bin\.index\.json: 404 Not Found: no such file"):
        fetch.fetch(weight_set("hf/org/name"), tmp_path)


def archive(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in members.items():
            item = tarfile.TarInfo(name.replace("__", "/"))
            item.size, item.mode = len(content), 0o600
            tar.addfile(item, io.BytesIO(content))
    return stream.getvalue()


def archived(hub: Hub) -> WeightSet:
    return WeightSet("set", "here", "any", "1 B", (Source("set.tar.gz", f"{hub.address}/archive", is_archive=True),))


def test_an_archive_is_unpacked_and_what_it_held_is_recorded(hub: Hub, tmp_path: Path) -> None:
    hub.files["/archive"] = archive(saved_model=b"graph", variables__index=b"index")
    folder = fetch.fetch(archived(hub), tmp_path)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert names == ["saved_model", "variables/index", "weights.json"]
    assert stat.S_IMODE((folder / "variables/index").stat().st_mode) & 0o440 == 0o440
    fetch.fetch(archived(hub), tmp_path)
    assert len(hub.asked) == 1


def test_an_archive_that_leads_outside_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files["/archive"] = archive(**{"..__..__evil": b"x"})
    with pytest.raises(CorruptFileError, match=r"not a tar archive that can be unpacked: .*outside the destination"):
        fetch.fetch(archived(hub), tmp_path / "root")
    assert not (tmp_path / "evil").exists()
    assert [path.name for path in (tmp_path / "root/set").iterdir()] == []


def test_an_error_page_in_place_of_an_archive_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files["/archive"] = b"<html>please log in</html>"
    with pytest.raises(CorruptFileError, match="not a tar archive that can be unpacked"):
        fetch.fetch(archived(hub), tmp_path)


def test_folders_are_open_to_the_group_whatever_the_umask(hub: Hub, tmp_path: Path) -> None:
    import os

    hub.files["/a/b"] = b"x"
    before = os.umask(0o077)
    try:
        fetch.fetch(WeightSet("hf/org/name", "", "", "", (Source("deep/b", f"{hub.address}/a/b"),)), tmp_path / "new")
    finally:
        os.umask(before)
    for path in (tmp_path / "new").rglob("*"):
        wanted = 0o050 if path.is_dir() else 0o040
        assert stat.S_IMODE(path.stat().st_mode) & wanted == wanted, path


def test_verify_finds_changed_missing_and_unknown_files(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"/a": b"a", "/b": b"b", "/c": b"c"}
    sources = tuple(Source(name, f"{hub.address}/{name}") for name in "abc")
    folder = fetch.fetch(WeightSet("vggish", "", "", "", sources), tmp_path)
    (folder / "b").write_bytes(b"B")
    (folder / "c").unlink()
    by_hand = tmp_path / "metis8d"
    (by_hand / "w2v-bert-2.0").mkdir(parents=True)
    (by_hand / "w2v-bert-2.0/config.json").write_bytes(b"{}")
    (by_hand / "wav2vec2bert_stats.pt").write_bytes(b"another")
    found = {item.path.relative_to(tmp_path).as_posix(): item.state for item in fetch.verify(tmp_path, [])}
    assert found == {
        "vggish/a": "ok",
        "vggish/b": "changed",
        "vggish/c": "missing",
        "metis8d/w2v-bert-2.0/config.json": "unknown",
        "metis8d/wav2vec2bert_stats.pt": "changed",
    }


def test_where_weights_go_must_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VOXSHARD_WEIGHTS", raising=False)
    with pytest.raises(ConfigError, match=r"^where do weights go\? `export VOXSHARD_WEIGHTS=FOLDER`"):
        fetch.weights_root(None)


def test_weights_nobody_knows_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^no weights called 'wav2vec2'; there are metis8d, ecapa, .*vggish, and hf/ORG/NAME$"
    ):
        weight_set("wav2vec2")
    with pytest.raises(ConfigError, match=r"^--revision goes with hf/ORG/NAME; ecapa is fixed$"):
        weight_set("ecapa", "main")
