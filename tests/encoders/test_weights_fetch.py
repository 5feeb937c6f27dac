"""Fetching weights from a server on this machine that behaves like a model hub on its good and bad days."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.archives import archive, special
from support.hub_server import ODD_HEADERS, Hub, serving
from voxshard.errors import ConfigError, CorruptFileError, MissingWeightsError, TransientFaultError
from voxshard.weights import archives, fetch, web
from voxshard.weights.catalogue import WeightSet, WeightSource, hub_source, weight_set
from voxshard.weights.web import download


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub()) as found:
        monkeypatch.setenv("HF_ENDPOINT", found.address)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield found


CONTENT = bytes(range(256)) * 4000


def get(hub: Hub, target: Path, path: str = "/model", sha256: str | None = None, num_bytes: int | None = None) -> str:
    return download(f"{hub.address}{path}", target, sha256=sha256, num_bytes=num_bytes, wait_s=0.0)


def fetched(wanted: WeightSet, root: Path) -> Path:
    return fetch.fetch(wanted, root, wait_s=0.0)


def from_web(hub: Hub, path: str = "/model", **values: Any) -> WeightSet:
    return WeightSet("set", "here", "any", "1 MB", (WeightSource("model", f"{hub.address}{path}", **values),))


def test_a_file_arrives_complete_readable_by_the_group_and_nothing_else_stays(hub: Hub, tmp_path: Path) -> None:
    hub.files["/model"] = CONTENT
    digest = hashlib.sha256(CONTENT).hexdigest()
    folder = fetched(from_web(hub, sha256=digest, num_bytes=len(CONTENT)), tmp_path)
    assert (folder / "model").read_bytes() == CONTENT
    assert stat.S_IMODE((folder / "model").stat().st_mode) & 0o440 == 0o440
    assert sorted(path.name for path in folder.iterdir()) == ["model", "weights.json"]
    assert fetch.read_record(folder)[0].checked_against == "published"


def test_a_server_that_does_not_stop_is_left(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files["/model"] = CONTENT
    hub.headers = {"Content-Length": ""}
    monkeypatch.setattr(web, "MAX_BYTES", len(CONTENT) - 1)
    with pytest.raises(CorruptFileError, match=r"/model: more than the 1,023,999 bytes that were expected at most"):
        get(hub, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_transfer_that_is_cut_off_is_tried_again(hub: Hub, tmp_path: Path) -> None:
    hub.files["/model"] = CONTENT
    hub.cut_after = [300_000, 5]
    assert get(hub, tmp_path / "model") == hashlib.sha256(CONTENT).hexdigest()
    assert (tmp_path / "model").read_bytes() == CONTENT


def test_cut_off_every_time_it_is_one_line_and_nothing_is_kept(hub: Hub, tmp_path: Path) -> None:
    hub.files["/model"] = CONTENT
    hub.cut_after = [1000] * 4
    with pytest.raises(TransientFaultError, match=r"/model: .*\(4 attempts\); run the same command again\. Compute"):
        get(hub, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_digest_keeps_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.files["/model"] = CONTENT
    found = hashlib.sha256(CONTENT).hexdigest()
    message = f"{hub.address}/model: SHA-256 is {found}, expected {'0' * 64}; nothing was kept."
    with pytest.raises(CorruptFileError, match=f"^{re.escape(message)}"):
        get(hub, tmp_path / "model", sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_size_keeps_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.files["/model"] = b"<html>sorry</html>"
    with pytest.raises(CorruptFileError, match="18 bytes, expected 9,343; nothing was kept"):
        get(hub, tmp_path / "model", num_bytes=9343)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "401 Unauthorized; download it in a browser"),
        (403, "403 Forbidden; download it in a browser"),
        (404, "404 Not Found: no such file; the origin has moved or removed it"),
    ],
)
def test_a_refusal_is_not_tried_again_and_states_what_to_do(
    status: int, message: str, hub: Hub, tmp_path: Path
) -> None:
    hub.refuse["/model"] = status
    with pytest.raises(MissingWeightsError, match=f"^{re.escape(f'{hub.address}/model: {message}')}"):
        get(hub, tmp_path / "model")
    assert len(hub.asked) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_busy_server_is_tried_again(hub: Hub, tmp_path: Path) -> None:
    hub.refuse["/model"] = 503
    with pytest.raises(TransientFaultError, match=r"503 Service Unavailable \(4 attempts\)"):
        get(hub, tmp_path / "model")
    assert len(hub.asked) == 4


def test_no_network_says_where_to_go(tmp_path: Path) -> None:
    with pytest.raises(TransientFaultError, match=r"refused.*Compute nodes often have no internet"):
        download("http://127.0.0.1:9/model", tmp_path / "model", sha256=None, num_bytes=None, wait_s=0.0)


@pytest.mark.parametrize("headers", ODD_HEADERS, ids=lambda headers: "".join(headers) + str(list(headers.values())))
@pytest.mark.parametrize("origin", ["web", "hub"])
def test_headers_that_make_no_sense_are_one_line_or_do_no_harm(
    headers: dict[str, str], origin: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.headers = headers
    if origin == "web":
        hub.files["/model"] = CONTENT
        wanted = from_web(hub, sha256=hashlib.sha256(CONTENT).hexdigest())
    else:
        hub.models["org/name@main"] = {"model.safetensors": CONTENT}
        wanted = WeightSet("set", "here", "any", "1 MB", (hub_source("model.safetensors", "org/name"),))
    try:
        folder = fetched(wanted, tmp_path)
    except (TransientFaultError, CorruptFileError, MissingWeightsError):
        assert [path.name for path in (tmp_path / "set").iterdir()] == [".fetching"]
    else:
        assert (folder / wanted.sources[0].name).read_bytes() == CONTENT


NAMES = ("config.json", "preprocessor_config.json", "model.safetensors")


def model_of(*names: str, text: str = "") -> dict[str, bytes]:
    return {name: f"{name} {text}".encode() for name in names}


def test_the_token_goes_to_the_hub_and_not_where_it_redirects(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.models["org/name@main"] = {"model.safetensors": CONTENT}
    monkeypatch.setenv("HF_TOKEN", "secret")
    wanted = WeightSet("set", "here", "any", "1 MB", (hub_source("model.safetensors", "org/name"),))
    with serving(Hub()) as storage:
        storage.files["/blob"] = CONTENT
        path = f"/org/name/resolve/{hub.commit('org/name@main')}/model.safetensors"
        hub.redirect[path] = f"{storage.address}/blob".replace("127.0.0.1", "localhost")
        folder = fetched(wanted, tmp_path)
    assert all(headers.get("authorization") == "Bearer secret" for _, headers in lower(hub.asked))
    assert storage.asked
    assert not any("authorization" in headers for _, headers in lower(storage.asked))
    assert fetch.read_record(folder)[0].checked_against == "published"


def lower(asked: list[tuple[str, dict[str, str]]]) -> list[tuple[str, dict[str, str]]]:
    return [(path, {name.lower(): value for name, value in headers.items()}) for path, headers in asked]


def test_other_origins_never_see_the_token(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("HF_ENDPOINT", "http://elsewhere.invalid")
    hub.files["/model"] = b"x"
    fetched(from_web(hub), tmp_path)
    assert "authorization" not in lower(hub.asked)[0][1]


def test_a_model_of_the_hub_is_fetched_recorded_and_not_fetched_twice(hub: Hub, tmp_path: Path) -> None:
    hub.models["org/name@main"] = model_of(*NAMES)
    commit = hub.commit("org/name@main")
    folder = fetched(weight_set("hf/org/name"), tmp_path)
    assert folder == tmp_path / "hf/org/name"
    assert sorted(path.name for path in folder.iterdir()) == sorted([*NAMES, "weights.json"])
    record = json.loads((folder / "weights.json").read_text())
    assert (record["name"], record["licence"]) == ("hf/org/name", "see the model's page")
    by_name = {item["name"]: item for item in record["files"]}
    assert by_name["config.json"]["sha256"] == hashlib.sha256(b"config.json ").hexdigest()
    assert by_name["model.safetensors"]["revision"] == commit
    assert {item["checked_against"] for item in record["files"]} == {"published"}
    count = len(hub.asked)
    fetched(weight_set("hf/org/name"), tmp_path)
    assert len(hub.asked) == count
    (folder / "model.safetensors").write_bytes(b"model.safetensorz")
    fetched(weight_set("hf/org/name"), tmp_path)
    assert {path.rpartition("/")[2] for path in hub.paths()[count:]} == {"main", "model.safetensors"}
    assert (folder / "model.safetensors").read_bytes() == b"model.safetensors "


def test_a_transfer_from_the_hub_that_was_cut_off_is_finished(hub: Hub, tmp_path: Path) -> None:
    hub.models["org/name@main"] = {"model.safetensors": CONTENT}
    wanted = WeightSet("set", "here", "any", "1 MB", (hub_source("model.safetensors", "org/name"),))
    hub.cut_after = [len(CONTENT), 300_000, 5]  # the description, then the file twice
    assert (fetched(wanted, tmp_path) / "model.safetensors").read_bytes() == CONTENT
    assert hub.cut_after == []


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_content_that_is_not_what_the_hub_describes_is_refused(file: str, hub: Hub, tmp_path: Path) -> None:
    hub.models["org/name@main"] = model_of(*NAMES)
    path = f"/org/name/resolve/{hub.commit('org/name@main')}/{file}"
    hub.instead[path] = b"X" * len(hub.models["org/name@main"][file])
    with pytest.raises(CorruptFileError, match=rf"{file}: .*(SHA-256|digest) is .*, expected .*; nothing was kept"):
        fetched(weight_set("hf/org/name"), tmp_path)
    assert not (tmp_path / "hf/org/name" / file).exists()
    assert not (tmp_path / "hf/org/name/weights.json").exists()


def test_another_revision_replaces_the_files_and_goes_back(hub: Hub, tmp_path: Path) -> None:
    hub.models = {"org/name@main": model_of(*NAMES, text="one"), "org/name@v2": model_of(*NAMES, text="two")}
    for revision, text in ((None, "one"), ("v2", "two"), (None, "one"), ("v2", "two"), ("main", "one")):
        folder = fetched(weight_set("hf/org/name", revision), tmp_path)
        assert (folder / "model.safetensors").read_bytes() == f"model.safetensors {text}".encode()
        commit = hub.commit(f"org/name@{revision or 'main'}")
        assert {entry.revision for entry in fetch.read_record(folder)} == {commit}
        assert all(item.state == "ok" for item in fetch.verify(tmp_path, ["hf/org/name"]))


def test_a_branch_that_moved_is_fetched_again_where_it_is_asked_for_by_name(hub: Hub, tmp_path: Path) -> None:
    hub.models["org/name@v2"] = model_of(*NAMES, text="one")
    fetched(weight_set("hf/org/name", "v2"), tmp_path)
    hub.models["org/name@v2"] = model_of(*NAMES, text="two")
    folder = fetched(weight_set("hf/org/name", "v2"), tmp_path)
    assert (folder / "config.json").read_bytes() == b"config.json two"


def test_a_revision_that_does_not_exist_is_refused_and_changes_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.models["org/name@main"] = model_of(*NAMES)
    folder = fetched(weight_set("hf/org/name"), tmp_path)
    before = (folder / "weights.json").read_bytes()
    with pytest.raises(
        MissingWeightsError, match=r"/org/name at v9: no such revision; name a branch, a tag or a commit"
    ):
        fetched(weight_set("hf/org/name", "v9"), tmp_path)
    assert (folder / "weights.json").read_bytes() == before


def test_a_model_that_does_not_exist_or_is_closed(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match=r"org/name at main: no such model, or one whose terms must be"):
        fetched(weight_set("hf/org/name"), tmp_path)


def test_a_model_saved_in_several_files_comes_complete(hub: Hub, tmp_path: Path) -> None:
    index = json.dumps(
        {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}
    )
    names = ["config.json", "preprocessor_config.json", "model-1.safetensors", "model-2.safetensors"]
    hub.models["org/name@main"] = {**model_of(*names), "model.safetensors.index.json": index.encode()}
    folder = fetched(weight_set("hf/org/name"), tmp_path)
    assert {entry.name for entry in fetch.read_record(folder)} == {*names, "model.safetensors.index.json"}


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b'{"weight_map": {"a": "../../../evil"}}', "names the file '../../../evil', which is outside the model's"),
        (b'{"weight_map": {"a": "/evil"}}', "names the file '/evil', which is outside"),
        (b'{"weight_map": {"a": 7}}', "not the index of a model in several files"),
        (b'{"weight_map": ["a"]}', "not the index of a model in several files"),
        (b"{}", "not the index of a model in several files"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_an_index_cannot_reach_outside_its_folder(index: bytes, message: str, hub: Hub, tmp_path: Path) -> None:
    hub.models["org/name@main"] = {**model_of(*NAMES[:2]), "model.safetensors.index.json": index}
    with pytest.raises(CorruptFileError, match=re.escape(message)):
        fetched(weight_set("hf/org/name"), tmp_path)


def test_a_model_without_a_checkpoint_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.models["org/name@main"] = model_of(*NAMES[:2])
    with pytest.raises(
        MissingWeightsError, match=r"pytorch_model\.bin\.index\.json: no such file; the model has config"
    ):
        fetched(weight_set("hf/org/name"), tmp_path)


def test_the_same_set_is_fetched_once_at_a_time(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with (
        fetch._alone(tmp_path / "set"),
        pytest.raises(TransientFaultError, match="another process is fetching these weights; wait for it"),
    ):
        fetched(from_web(hub), tmp_path)


def archived(hub: Hub) -> WeightSet:
    return WeightSet(
        "set", "here", "any", "1 B", (WeightSource("set.tar.gz", f"{hub.address}/archive", is_archive=True),)
    )


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz", "w"])
def test_an_archive_is_unpacked_and_what_it_held_is_recorded(mode: str, hub: Hub, tmp_path: Path) -> None:
    hub.files["/archive"] = archive({"saved_model": b"graph", "./variables/index": b"index"}, mode)
    folder = fetched(archived(hub), tmp_path)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert names == ["saved_model", "variables/index", "weights.json"]
    assert stat.S_IMODE((folder / "variables/index").stat().st_mode) & 0o440 == 0o440
    fetched(archived(hub), tmp_path)
    assert len(hub.asked) == 1


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"../../evil": b"x"}, "the name '../../evil' would be outside the destination"),
        ({"/evil": b"x"}, "the name '/evil' would be outside"),
        ({"a/../../evil": b"x"}, "the name 'a/../../evil' would be outside"),
        ({"a\\..\\evil": b"x"}, "or is no plain name"),
        ({"\x1b[2Jevil": b"x"}, "or is no plain name"),
        ({"weights.json": b"x"}, "the name 'weights.json' is reserved"),
        ({".fetching/x": b"x"}, "the name '.fetching/x' is reserved"),
        ({"a": special(tarfile.SYMTYPE, "..")}, "'a' is a link, a device or a sparse file"),
        ({"a": b"x", "b": special(tarfile.LNKTYPE, "a")}, "'b' is a link, a device or a sparse file"),
        ({"a": special(tarfile.FIFOTYPE)}, "'a' is a link, a device or a sparse file"),
        ({"a": special(tarfile.CHRTYPE)}, "'a' is a link, a device or a sparse file"),
        ({"a": b"x", "./a": b"y"}, "File exists"),
        ({"a": b"x", "a/b": b"y"}, "not a tar archive that can be unpacked"),
        ({"n" * 300: b"x"}, "File name too long"),
        ({"bomb": bytes(80 << 20)}, "it holds more than 67,108,864 bytes"),
        ({}, "an archive without files"),
    ],
)
def test_an_archive_that_is_no_plain_set_of_files_is_refused(
    members: dict[str, Any], message: str, hub: Hub, tmp_path: Path
) -> None:
    hub.files["/archive"] = archive(members)
    with pytest.raises(CorruptFileError, match=re.escape(message)):
        fetched(archived(hub), tmp_path / "root/deep")
    kept = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert kept == ["root", "root/deep", "root/deep/set", "root/deep/set/.fetching"]


def test_a_chain_of_links_longer_than_the_system_resolves_writes_nothing_outside(hub: Hub, tmp_path: Path) -> None:
    """The names of CVE-2025-4517: links whose expansion is longer than PATH_MAX, and a file behind them."""
    name = "d" * 247
    members: dict[str, Any] = {}
    path = ""
    for step in "abcdefghijklmnop":
        members[f"{path}{name}"] = special(tarfile.DIRTYPE)
        members[f"{path}{step}"] = special(tarfile.SYMTYPE, name)
        path += f"{step}/"
    members[f"{path}{'l' * 254}"] = special(tarfile.SYMTYPE, "../" * 16)
    members["escape"] = special(tarfile.SYMTYPE, f"{path}{'l' * 254}/../../evil")
    members["escape/evil"] = b"x"
    hub.files["/archive"] = archive(members)
    with pytest.raises(CorruptFileError, match="is a link, a device or a sparse file"):
        fetched(archived(hub), tmp_path / "root/deep")
    assert not list(tmp_path.rglob("evil"))


def test_an_archive_of_too_many_members_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    (tmp_path / "x.tar").write_bytes(archive({str(number): b"" for number in range(4)}))
    with pytest.raises(CorruptFileError, match=r"^it: not a tar archive that can be unpacked: more than 3 members"):
        archives.unpack(tmp_path / "x.tar", tmp_path / "out", where="it")


@pytest.mark.parametrize("content", [b"<html>please log in</html>", b"", b"\x1f\x8b", archive({"a": CONTENT})[:900]])
def test_an_error_page_or_a_truncated_archive_is_refused(content: bytes, hub: Hub, tmp_path: Path) -> None:
    hub.files["/archive"] = content
    with pytest.raises(CorruptFileError, match=r"not a tar archive that can be unpacked|an archive without files"):
        fetched(archived(hub), tmp_path)


def test_folders_are_open_to_the_group_whatever_the_umask(hub: Hub, tmp_path: Path) -> None:
    hub.files["/a/b"] = b"x"
    before = os.umask(0o077)
    try:
        fetched(WeightSet("hf/org/name", "", "", "", (WeightSource("deep/b", f"{hub.address}/a/b"),)), tmp_path / "new")
    finally:
        os.umask(before)
    for path in (tmp_path / "new").rglob("*"):
        wanted = 0o050 if path.is_dir() else 0o040
        assert stat.S_IMODE(path.stat().st_mode) & wanted == wanted, path


def test_verify_finds_changed_missing_and_unknown_files(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"/a": b"a", "/b": b"b", "/c": b"c"}
    sources = tuple(WeightSource(name, f"{hub.address}/{name}") for name in "abc")
    folder = fetched(WeightSet("vggish", "", "", "", sources), tmp_path)
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
        ConfigError,
        match=r"^no weights called 'panns'; available: metis8d, .*vggish, ge2e, musicnn, onnx/.*, hf/ORG/NAME$",
    ):
        weight_set("panns")
    with pytest.raises(ConfigError, match=r"did you mean hf/facebook/wav2vec2-base, or another hf/ORG/NAME\?$"):
        weight_set("wav2vec2")
    with pytest.raises(ConfigError, match=r"^--revision goes with hf/ORG/NAME; ecapa is fixed$"):
        weight_set("ecapa", "main")
