"""A command that is killed while it uploads leaves nothing that a reader takes for complete, and no file here."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import voxshard
from support.bucket_corpora import folder_corpus, trained_classifier
from support.fault_proxy import STALL, Fault, FaultProxy
from support.object_stores import ObjectStore
from voxshard.cli import main
from voxshard.errors import CorruptFileError, MissingObjectError, TransientFaultError
from voxshard.locations import BEGUN, MARKER, Url, _cached, local_copy


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_classifier(tmp_path_factory.mktemp("work"))


COMMANDS = {
    "prepare": (["prepare", "folder", "{corpus}", "--out", "{out}/m.parquet"], "m.parquet"),
    "export-json": (["export", "{work}/mfcc", "--format", "json", "--out", "{out}/a.json"], "a.json"),
    "export-npy": (["export", "{work}/mfcc", "--format", "npy", "--out", "{out}/npy"], "npy/test_metadata.csv"),
    "train": (["train", "{work}/mfcc", "--label", "label", "--classifier", "logistic", "--out", "{out}/run"],
              "run/metrics.json"),
    "evaluate": (["evaluate", "{work}/run", "--out", "{out}/again"], "again/metrics.json"),
    "report": (["report", "{work}/run", "--out", "{out}/report.html"], "report.html"),
}  # fmt: skip
"""Command -> its words, and the object during whose upload it is killed."""


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_during_an_upload_and_run_again(
    name: str, s3: ObjectStore, proxy: FaultProxy, work: Path, tmp_path: Path, cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    folder_corpus(tmp_path / "corpus")
    words, victim = COMMANDS[name]
    place = f"kills-{name}"
    values = {"corpus": tmp_path / "corpus", "work": work, "out": s3.url(place)}
    command = [word.format(**values) for word in words]
    proxy.faults = [Fault(f"PUT .*{place}/{victim}", STALL)]
    with subprocess.Popen([sys.executable, "-m", "voxshard", *command], stderr=subprocess.DEVNULL) as child:
        while not any(request.startswith("PUT") and victim in request for request in proxy.requests):
            assert child.poll() is None, f"{name} ended"
            time.sleep(0.05)
        child.kill()
    proxy.faults = []
    target = Url(command[-1])
    is_folder = "/" in victim
    assert f"{place}/{victim}" not in s3.names()
    if is_folder:
        assert BEGUN in s3.names(place, target.name)
        assert MARKER not in s3.names(place, target.name)
    with pytest.raises(CorruptFileError if is_folder else MissingObjectError):
        local_copy(target)
    assert main(command) is None
    _cached.cache_clear()
    copy = local_copy(target)
    if is_folder:
        assert BEGUN not in s3.names(place, target.name)
        assert (copy / victim.partition("/")[2]).exists()
    assert list(here.iterdir()) == []
    assert list((cache / "outputs").iterdir()) == [], "nothing is left of what was uploaded"


def test_what_a_killed_command_has_left_here_is_no_part_of_another_result(
    s3: ObjectStore, work: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = cache / "saved"

    def fail(*_: Any, **__: Any) -> None:
        (cache / "outputs").rename(saved)
        raise TransientFaultError("no network")

    url = s3.url("mixed")
    with monkeypatch.context() as patch:
        patch.setattr("voxshard.uploads.publish", fail)
        with pytest.raises(SystemExit):
            main(["export", str(work / "mfcc"), "--format", "npy", "--split", "train", "--out", url])
    assert not list(cache.glob("outputs/*")), "a failure leaves nothing"
    saved.replace(cache / "outputs")
    assert list((cache / "outputs").glob("*/mixed/train.npy")), "a killed process leaves this"
    main(["export", str(work / "mfcc"), "--format", "npy", "--split", "test", "--out", url])
    assert s3.names("mixed") == sorted(
        [MARKER, "SHA256SUMS", "test.npy", "test_metadata.csv", "test_metadata.dtypes.json"]
    )


def test_a_reader_does_not_take_a_folder_for_complete_whose_replacement_was_interrupted(
    s3: ObjectStore, proxy: FaultProxy, work: Path, tmp_path: Path
) -> None:
    url = s3.url("replaced")
    main(["publish", str(work / "mfcc"), url])
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "features.h5").write_bytes(b"other")
    proxy.faults = [Fault("PUT .*replaced/features.h5", 403)]
    with pytest.raises(SystemExit):
        main(["publish", str(tmp_path / "x"), url, "--replace"])
    proxy.faults = []
    with pytest.raises(CorruptFileError, match="its upload is still running or was interrupted"):
        voxshard.open_features(url)
    main(["publish", str(work / "mfcc"), url, "--replace"])
    assert len(voxshard.open_features(url)) == 24
