"""What commands say about URLs, and what they check before they work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import voxshard
from support.bucket_corpora import CORPORA, folder_corpus, trained_classifier
from support.object_stores import ObjectStore
from support.onnx_models import save_speaker_model
from voxshard.cli import main
from voxshard.corpora.formats import FORMATS
from voxshard.diagnostics.doctor import check_publishing
from voxshard.errors import ObjectExistsError
from voxshard.experiment.schema import ExperimentConfig
from voxshard.locations import Url
from voxshard.uploads import publish


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_classifier(tmp_path_factory.mktemp("work"))


def failed(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and last line of a command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert isinstance(caught.value.code, int)
    return caught.value.code, capsys.readouterr().err.strip().splitlines()[-1]


def test_every_format_is_tested_in_buckets() -> None:
    assert {name.partition(",")[0] for name in CORPORA} == set(FORMATS)


def test_onnx_weights_in_a_bucket_give_the_numbers_of_the_local_ones(
    store: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_speaker_model(tmp_path / "model")
    store.put(folder, store.url("onnx"))
    samples = np.random.default_rng(0).standard_normal(12000).astype(np.float32) * 0.1
    local = voxshard.load_encoder("onnx", weights=str(folder))
    there = voxshard.load_encoder("onnx", weights=store.url("onnx"))
    assert there.info.fingerprint == local.info.fingerprint
    assert np.array_equal(there.embed(samples, sample_rate=16000), local.embed(samples, sample_rate=16000))
    folder_corpus(tmp_path / "corpus")
    voxshard.prepare("folder", tmp_path / "corpus", out=tmp_path / "m.parquet")
    url = store.url("onnx/model.onnx")
    words = ["extract", str(tmp_path / "m.parquet"), "--encoder", "onnx", "--set", f"weights={url}", "--out"]
    assert failed([*words, str(tmp_path / "set")], capsys) == (
        4, f"voxshard: {url}: a file; onnx expects the folder that has encoder.json, model.onnx in it"
    )  # fmt: skip


def test_rows_are_reused_from_a_set_in_a_bucket(store: ObjectStore, tmp_path: Path) -> None:
    folder_corpus(tmp_path / "corpus")
    voxshard.prepare("folder", tmp_path / "corpus", out=tmp_path / "m.parquet")
    old = voxshard.extract(tmp_path / "m.parquet", encoder="mfcc", out=tmp_path / "old", workers=1)
    publish(tmp_path / "old", Url(store.url("old")))
    for path in (tmp_path / "corpus").rglob("*.wav"):
        path.write_bytes(bytes(path.stat().st_size))  # so that nothing can be extracted again
    new = voxshard.extract(
        tmp_path / "m.parquet", encoder="mfcc", out=tmp_path / "new", workers=1, reuse=store.url("old")
    )
    assert np.array_equal(new.embeddings[:], old.embeddings[:])


def test_errors_name_the_url_and_not_its_copy(
    s3: ObjectStore, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mfcc", "run"):
        s3.put(work / name, s3.url("named here", name))
    run, features = s3.url("named here/run"), s3.url("named here/mfcc")
    for words, place in (
        (["export", run, "--format", "json", "--out", "a.json"], run),
        (["train", run, "--label", "label", "--classifier", "knn", "--out", "r"], run),
        (["evaluate", features, "--out", "e"], features),
        (["score", f"{run}/scores.tsv", f"{run}/metrics.json"], f"{run}/metrics.json"),
        (["extract", run, "--encoder", "mfcc", "--out", "f"], run),
    ):
        _, line = failed(words, capsys)
        assert line.startswith(f"voxshard: {place}: ")
        assert "cache" not in line


def test_a_file_and_a_folder_of_one_name_are_refused(store: ObjectStore, tmp_path: Path) -> None:
    """Of both, readers would see the file only."""
    (tmp_path / "set").mkdir()
    for path in (tmp_path / "set" / "a.txt", tmp_path / "a.txt"):
        path.write_text("a")
    publish(tmp_path / "set", Url(store.url("both/set")))
    publish(tmp_path / "a.txt", Url(store.url("both/file")))
    for replace in (False, True):
        with pytest.raises(ObjectExistsError, match="both/set: a folder has this name already, and a file cannot"):
            publish(tmp_path / "a.txt", Url(store.url("both/set")), replace=replace)
        with pytest.raises(ObjectExistsError, match="both/file: an object has this name already, and a folder cannot"):
            publish(tmp_path / "set", Url(store.url("both/file")), replace=replace)
    assert store.names("both", "set") == ["a.txt", "published.json"]


@pytest.mark.parametrize("command", ["prepare", "export", "train", "evaluate", "report"])
def test_the_bucket_of_an_output_is_looked_up_before_the_work(
    command: str, store: ObjectStore, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The work would fail as well: its input does not exist, or holds nothing."""
    (tmp_path / "empty").mkdir()
    place = str(tmp_path / "empty")
    words = {
        "prepare": ["folder", place],
        "export": [place, "--format", "npy"],
        "train": [place, "--label", "label", "--classifier", "knn"],
        "evaluate": [place],
        "report": [place],
    }[command]
    out = f"{store.scheme}://no-such-bucket/out"
    code, line = failed([command, *words, "--out", out], capsys)
    assert code == 4
    assert line.startswith(f"voxshard: {out}: no bucket 'no-such-bucket' at {store.scheme}://; check its name")


def test_doctor_asks_whether_the_bucket_of_a_config_answers(store: ObjectStore) -> None:
    content = {
        "out": "exp", "prepare": {"format": "folder", "root": "audio"}, "extract": {"mfcc": {"encoder": "mfcc"}},
    }  # fmt: skip
    for bucket, verdict in ((store.url("results"), "PASS"), (f"{store.scheme}://no-such-bucket/results", "FAIL")):
        config = ExperimentConfig.model_validate({**content, "publish": bucket})
        (finding,) = check_publishing(config)
        assert finding.verdict == verdict
        assert finding.what.startswith(f"{bucket}: ")


_BLOCKED = """
import json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("fsspec", "s3fs", "gcsfs"):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Blocked())
from voxshard.cli import main
for words in json.loads(sys.argv[1]):
    try:
        main(words)
        print(0)
    except SystemExit as exc:
        print(exc.code)
"""


def test_where_an_import_of_the_packages_fails_every_command_ends_with_exit_code_4(work: Path, tmp_path: Path) -> None:
    """In its own process, in which they cannot be imported."""
    folder_corpus(tmp_path / "corpus")
    here = tmp_path / "here"
    here.mkdir()
    url, run, features = "s3://voices/x", str(work / "run"), str(work / "mfcc")
    commands = [
        ["prepare", "folder", url, "--out", "m.parquet"],
        ["prepare", "folder", str(tmp_path / "corpus"), "--out", url],
        ["prepare", "folder", str(tmp_path / "corpus"), "--labels", url, "--out", "m.parquet"],
        ["extract", url, "--encoder", "mfcc", "--out", "f"],
        ["train", url, "--label", "label", "--classifier", "knn", "--out", "r"],
        ["train", features, "--label", "label", "--classifier", "knn", "--out", url],
        ["evaluate", url, "--out", "r"],
        ["evaluate", run, "--out", url],
        ["report", run, "--out", url],
        ["export", features, "--format", "npy", "--out", url],
        ["publish", run, url],
        ["score", url, url],
        ["run", url],
        ["submit", url, "--site", url],
        ["ingest", f"train={url}", "--out", "i"],
    ]
    command = [sys.executable, "-c", _BLOCKED, json.dumps(commands)]
    done = subprocess.run(command, cwd=here, env=os.environ, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4"] * len(commands)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == len(commands)
    for line in lines:
        assert "s3:// needs fsspec and s3fs, not installed in this environment: `pip install 'voxshard[" in line
    assert list(here.iterdir()) == []
