"""What goes wrong with buckets: retried where it passes, one line and an exit code where it does not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiobotocore.session import AioSession

import voxshard
from support.bucket_corpora import tones
from support.fault_proxy import Fault, FaultProxy
from support.object_stores import SECRETS, ObjectStore
from voxshard import remote, urls
from voxshard.audio import read_with_retries
from voxshard.cli import main
from voxshard.encoders.base import ClipSettings
from voxshard.errors import (
    BackendUnavailableError,
    ChangedRecordingError,
    ConfigError,
    MissingRecordingError,
    NoSuchBucketError,
)

_XML = "<?xml version='1.0'?><Error><Code>{0}</Code><Message>{1}</Message></Error>"
_CLIP = ClipSettings()


def text(s3: ObjectStore, tmp_path: Path, name: str) -> str:
    (tmp_path / "a.txt").write_text("content")
    s3.put(tmp_path / "a.txt", s3.url(name))
    return s3.url(name)


_COMMANDS = """
import json, logging, sys
logging.basicConfig(level=logging.DEBUG)
from voxshard.cli import main
codes = []
for words in json.loads(sys.argv[1]):
    try:
        main(words)
        codes.append(0)
    except SystemExit as exc:
        codes.append(exc.code or 0)
print("codes", codes)
"""


def test_threads_that_begin_at_once_share_one_client(s3: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client costs 0.3 s of CPU time and 15 MB."""
    sessions = []

    def get_session() -> Any:
        sessions.append(AioSession())
        time.sleep(0.01)
        return sessions[-1]

    monkeypatch.setattr("aiobotocore.session.get_session", get_session)
    remote._file_system.cache_clear()
    begin = threading.Barrier(16)

    def listed(_: int) -> list[remote.RemoteObject]:
        begin.wait()
        return remote.listing(s3.url("no-such-folder"))

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(listed, range(16))) == [[]] * 16
    assert len(sessions) == 1
    remote._file_system.cache_clear()


@pytest.mark.parametrize("status", [429, 500, 503, 0])
def test_a_passing_fault_is_retried(status: int, proxy: FaultProxy, s3: ObjectStore, tmp_path: Path) -> None:
    url = text(s3, tmp_path, f"passing-{status}")
    proxy.faults = [Fault(f"passing-{status}", status, _XML.format("SlowDown", "Please wait"), times=2)]
    assert remote.read(url) == b"content"
    assert sum("passing" in request for request in proxy.requests) >= 3


def test_a_fault_that_stays_ends_with_one_line_and_exit_code_4(
    proxy: FaultProxy, s3: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = text(s3, tmp_path, "staying.csv")
    proxy.faults = [Fault("staying", 503, _XML.format("SlowDown", "Please reduce your request rate."))]
    with pytest.raises(SystemExit) as caught:
        main(["prepare", "table", url, "--out", str(tmp_path / "m.parquet")])
    assert caught.value.code == 4
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "staying.csv: the store keeps failing (HTTP 503, SlowDown)" in line
    assert "run the same command again later" in line
    assert sum("GET" in request for request in proxy.requests) == 4, "the retries are bounded"
    assert not (tmp_path / "m.parquet").exists()


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (400, "ExpiredToken")])
def test_refused_credentials_are_one_line_with_the_object_and_the_identity_and_are_not_retried(
    status: int, code: str, proxy: FaultProxy, s3: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = text(s3, tmp_path, f"{code}.csv")
    proxy.faults = [Fault(code, status, _XML.format(code, "Not for you"))]
    with pytest.raises(SystemExit) as caught:
        main(["prepare", "table", url, "--out", str(tmp_path / "m.parquet")])
    assert caught.value.code == 4
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message == (
        f"voxshard: {url}: access denied ({code}: Not for you); identity used: the AWS access key that ends in 0001 "
        "(AWS_ACCESS_KEY_ID); renew expired credentials, or ask the owner of the bucket for access, then run the same "
        "command again"
    )
    assert [request.split()[0] for request in proxy.requests if code in request] == ["PUT", "GET"]


def test_a_wrong_bucket_is_named(store: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"{store.scheme}://no-such-bucket/corpus"
    with pytest.raises(SystemExit) as caught:
        main(["prepare", "folder", url, "--out", str(tmp_path / "m.parquet")])
    assert caught.value.code == 4
    assert f"{url}: no bucket 'no-such-bucket' at {store.scheme}://" in capsys.readouterr().err
    with pytest.raises(NoSuchBucketError):
        remote.upload(Path(__file__), f"{url}/a", if_absent=True)


def test_missing_credentials_are_named(s3: ObjectStore, tmp_path: Path) -> None:
    """In its own process: clients keep the credentials they have found."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {"AWS_ENDPOINT_URL": s3.endpoint, "HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}
    command = [sys.executable, "-m", "voxshard", "prepare", "folder", s3.url("x"), "--out", str(tmp_path / "m.parquet")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert len(done.stderr.strip().splitlines()) <= 2
    assert "no usable credentials (NoCredentialsError" in done.stderr
    assert "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in done.stderr


def test_a_missing_package_ends_with_exit_code_4_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"utterance_id": f"u{n}", "path": f"u{n}.wav", "duration_s": 1.0} for n in range(30)]
    manifest = voxshard.manifest.Manifest.from_rows(rows, root="s3://voices/x", corpus="folder")
    manifest.write(tmp_path / "m.parquet")
    plain = urls.importlib.util.find_spec
    monkeypatch.setattr(urls.importlib.util, "find_spec", lambda name: None if name == "s3fs" else plain(name))
    with pytest.raises(
        BackendUnavailableError, match=r"s3:// needs s3fs, .*pip install 'voxshard\[buckets\]'"
    ) as caught:
        voxshard.extract(tmp_path / "m.parquet", encoder="mfcc", out=tmp_path / "out")
    assert caught.value.exit_code == 4
    assert not (tmp_path / "out").exists()


def test_an_object_that_is_gone_or_was_replaced_is_a_named_failure_of_its_recording(
    store: ObjectStore, tmp_path: Path
) -> None:
    place = f"moving-{store.scheme}"
    tones(tmp_path / "corpus", ["gone.wav", "new.wav", "same.wav"])
    store.put(tmp_path / "corpus", store.url(place))
    manifest = voxshard.prepare("folder", store.url(place), out=tmp_path / "m.parquet")
    store.remove(place, "gone.wav")
    store.put(tmp_path / "corpus" / "same.wav", store.url(place, "new.wav"))
    store.put(tmp_path / "corpus" / "same.wav", store.url(place, "same.wav"))  # the same content is no change

    def read(name: str) -> int:
        row = next(row for row in manifest.utterances() if row.utterance_id == name)
        assert row.object_version is not None
        url = urls.PinnedUrl(store.url(place, name), row.object_version)
        return len(read_with_retries(url, sample_rate=8000, clip=_CLIP, utterance_id=name).waveform)

    assert read("same.wav") == 1600
    with pytest.raises(MissingRecordingError, match="the object is gone"):
        read("gone.wav")
    with pytest.raises(ChangedRecordingError, match="replaced in its bucket since it was prepared"):
        read("new.wav")


def test_an_extraction_killed_half_way_gives_the_same_result_when_it_is_run_again(
    s3: ObjectStore, proxy: FaultProxy, tmp_path: Path
) -> None:
    tones(tmp_path / "corpus", [f"{n:02d}.wav" for n in range(40)])
    s3.put(tmp_path / "corpus", s3.url("half"))
    voxshard.prepare("folder", s3.url("half"), out=tmp_path / "m.parquet")
    local = voxshard.prepare("folder", tmp_path / "corpus", out=tmp_path / "local.parquet")
    assert len(local) == 40
    proxy.latency_s = 0.2
    out = tmp_path / "out"
    command = [sys.executable, "-m", "voxshard", "extract", str(tmp_path / "m.parquet"), "--encoder", "mfcc",
               "--out", str(out), "--workers", "1", "--shards", "20"]  # fmt: skip
    with subprocess.Popen(command, env=os.environ, stderr=subprocess.DEVNULL, start_new_session=True) as child:
        while not list(out.glob("shards/shard-*.h5")):
            assert child.poll() is None
            time.sleep(0.02)
        os.killpg(child.pid, signal.SIGKILL)
    assert len(list(out.glob("shards/shard-*.h5"))) < 20
    proxy.latency_s = 0.0
    features = voxshard.extract(tmp_path / "m.parquet", encoder="mfcc", out=out, workers=1, shards=20)
    expected = voxshard.extract(tmp_path / "local.parquet", encoder="mfcc", out=tmp_path / "ours", workers=1, shards=20)
    assert np.array_equal(features.embeddings[:], expected.embeddings[:])


def test_no_file_and_no_log_holds_a_secret(s3: ObjectStore, tmp_path: Path) -> None:
    """Not even with the debug logs of the clients."""
    tones(tmp_path / "corpus", ["train/a.wav", "train/b.wav"])
    s3.put(tmp_path / "corpus", s3.url("marked"))
    work = tmp_path / "work"
    work.mkdir()
    commands = [
        ["prepare", "folder", s3.url("marked"), "--out", "m.parquet", "--split-from", "train=train"],
        ["extract", "m.parquet", "--encoder", "mfcc", "--out", "set", "--workers", "1"],
        ["merge", "set"],
        ["publish", "set", s3.url("marked-set")],
        ["export", s3.url("marked-set"), "--format", "json", "--out", s3.url("marked.json")],
        ["prepare", "folder", s3.url("marked-nothing"), "--out", "n.parquet"],
    ]
    environment = {**os.environ, "VOXSHARD_CACHE": str(work / "cache"), "S3FS_LOGGING_LEVEL": "DEBUG"}
    command = [sys.executable, "-c", _COMMANDS, json.dumps(commands)]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "codes [0, 0, 0, 0, 0, 3]", done.stderr[-2000:]
    printed = done.stdout + done.stderr
    assert "DEBUG" in printed, "the debug logs are on"
    secrets = [value for name, value in SECRETS.items() if name != "AWS_ACCESS_KEY_ID"]
    assert not [secret for secret in secrets if secret in printed]
    written = [path for path in work.rglob("*") if path.is_file()]
    assert len(written) > 8
    assert not [path for path in written for secret in secrets if secret.encode() in path.read_bytes()]


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "HTTP_PROXY"])
def test_a_password_in_the_url_of_a_proxy_or_an_endpoint_is_not_printed(name: str, tmp_path: Path) -> None:
    """In its own process: clients keep the endpoint they were made for."""
    environment = {**os.environ, **SECRETS, "AWS_DEFAULT_REGION": "us-east-1"}
    environment |= {"AWS_ENDPOINT_URL": "http://store.invalid", name: "http://someone:hush@127.0.0.1:1"}
    commands = [["prepare", "table", "s3://voices/x.csv", "--out", "m.parquet"]]
    program = f"from voxshard import remote\nremote.RETRY_DELAYS_S = ()\n{_COMMANDS}"
    command = [sys.executable, "-c", program, json.dumps(commands)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "codes [4]\n"
    assert "s3://voices/x.csv: the store keeps failing" in done.stderr
    assert "hush" not in done.stderr


def test_credentials_in_a_url_are_refused_without_repeating_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        voxshard.prepare("folder", "s3://key:hush-hush@bucket/x", out=tmp_path / "m.parquet")
    assert "hush" not in str(caught.value)
