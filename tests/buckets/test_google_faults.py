"""Google Cloud Storage: what goes wrong is retried where it passes, one line and an exit code where it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.fault_proxy import Fault, FaultProxy
from support.object_stores import ObjectStore
from voxshard import remote
from voxshard.cli import main
from voxshard.errors import ChangedObjectError


def refusal(code: int, message: str) -> str:
    return json.dumps({"error": {"code": code, "message": message}})


def put(gcs: ObjectStore, tmp_path: Path, name: str) -> str:
    (tmp_path / "a.csv").write_text("path\nx.wav\n")
    gcs.put(tmp_path / "a.csv", gcs.url(name))
    return gcs.url(name)


@pytest.mark.parametrize("status", [429, 500, 503, 0])
def test_a_passing_fault_is_retried(status: int, gcs_proxy: FaultProxy, gcs: ObjectStore, tmp_path: Path) -> None:
    url = put(gcs, tmp_path, f"passing-{status}")
    gcs_proxy.faults = [Fault(f"passing-{status}", status, refusal(status, "Backend Error"), times=2)]
    assert remote.read(url) == b"path\nx.wav\n"


@pytest.mark.parametrize(
    ("status", "told", "line"),
    [
        (403, "someone@clinic.iam does not have storage.objects.get access",
         "access denied (403: Forbidden: "),
        (401, "Invalid Credentials", "access denied (401: Invalid Credentials"),
        (503, "Backend Error", "the store keeps failing (HTTP 503, Backend Error"),
    ],
)  # fmt: skip
def test_a_fault_that_stays_is_one_line_and_exit_code_4(
    status: int, told: str, line: str, gcs_proxy: FaultProxy, gcs: ObjectStore, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    url = put(gcs, tmp_path, f"staying-{status}.csv")
    gcs_proxy.requests.clear()
    gcs_proxy.faults = [Fault(f"staying-{status}", status, refusal(status, told))]
    with pytest.raises(SystemExit) as caught:
        main(["prepare", "table", url, "--out", str(tmp_path / "m.parquet")])
    assert caught.value.code == 4
    (message,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert message.startswith(f"voxshard: {url}: {line}")
    assert told in message
    if status != 503:
        assert "identity used: none (anonymous); renew expired credentials, or ask the owner of the bucket" in message
    assert len(gcs_proxy.requests) == (4 if status == 503 else 1), "a refusal is not repeated, retries are bounded"
    assert not (tmp_path / "m.parquet").exists()


def test_a_refused_upload_leaves_nothing(
    gcs_proxy: FaultProxy, gcs: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("a")
    gcs_proxy.faults = [Fault("POST .*upload", 403, refusal(403, "no storage.objects.create access"))]
    with pytest.raises(SystemExit) as caught:
        main(["publish", str(tmp_path / "a.txt"), gcs.url("refused.txt")])
    assert caught.value.code == 4
    assert "refused.txt: access denied (403" in capsys.readouterr().err
    assert "refused.txt" not in gcs.names()


def test_an_object_that_was_replaced_is_not_read_as_the_listed_one(gcs: ObjectStore, tmp_path: Path) -> None:
    url = put(gcs, tmp_path, "replaced.csv")
    before = remote.stat(url)
    (tmp_path / "a.csv").write_text("path\ny.wav\n")
    gcs.put(tmp_path / "a.csv", url)
    with pytest.raises(ChangedObjectError, match=r"replaced.csv: the object was replaced"):
        remote.read(url, version=before.version)
    with pytest.raises(ChangedObjectError, match="was replaced while it was downloaded"):
        remote.download(before, tmp_path / "copy")
