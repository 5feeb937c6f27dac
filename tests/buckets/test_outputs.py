"""What is written to a bucket is complete or absent, and no local file remains."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import voxshard
from support.bucket_corpora import folder_corpus, trained_classifier
from support.object_stores import ObjectStore
from voxshard import remote
from voxshard.cli import main
from voxshard.errors import IncompleteError, ObjectExistsError
from voxshard.locations import MARKER, Url, local_copy
from voxshard.manifest import Manifest
from voxshard.stages.publish import PublishConfig
from voxshard.stages.publish import run as publish_stage
from voxshard.uploads import publish

_UPLOAD = """
import sys
from pathlib import Path
from voxshard import remote, uploads
from voxshard.locations import Url
plain = remote.upload
def upload(*args, **options):
    plain(*args, **options)
    print("uploaded", flush=True)
remote.upload = upload
uploads._UPLOADS = 1
uploads.publish(Path(sys.argv[1]), Url(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_classifier(tmp_path_factory.mktemp("work"))


def test_every_command_that_makes_a_file_or_a_folder_writes_to_a_bucket(
    store: ObjectStore, work: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "empty"
    here.mkdir()
    monkeypatch.chdir(here)
    out = f"out-{store.scheme}"
    options = folder_corpus(tmp_path / "corpus")
    local = voxshard.prepare("folder", tmp_path / "corpus", out=tmp_path / "m.parquet", **options)
    voxshard.prepare("folder", tmp_path / "corpus", out=store.url(out, "m.parquet"), **options)
    assert Manifest.read(local_copy(Url(store.url(out, "m.parquet")))).table.equals(local.table)

    for kind, name in (("json", "a.json"), ("npy", "npy")):
        main(["export", str(work / "mfcc"), "--format", kind, "--out", str(tmp_path / name)])
        main(["export", str(work / "mfcc"), "--format", kind, "--out", store.url(out, name)])
    assert store.read(out, "a.json") == (tmp_path / "a.json").read_bytes()
    names = sorted(path.name for path in (tmp_path / "npy").iterdir())
    assert store.names(out, "npy") == sorted([*names, MARKER])
    assert all(store.read(out, "npy", name) == (tmp_path / "npy" / name).read_bytes() for name in names)

    trained = voxshard.train(
        work / "mfcc", label="label", classifier="logistic", out=store.url(out, "run"), replicates=20
    )
    expected = json.loads((work / "run" / "metrics.json").read_text())
    assert trained.metrics["metrics"] == expected["metrics"]
    evaluated = voxshard.evaluate(
        store.url(out, "run"), group_by="label", out=store.url(out, "evaluated"), replicates=20
    )
    assert evaluated.metrics["metrics"] == expected["metrics"]
    assert "by-label-test" in evaluated.tables()
    voxshard.report(store.url(out, "run"), out=store.url(out, "report.html"))
    assert {"report.html", "results.csv", "results.tex"} <= set(store.names(out))
    assert b"logistic" in store.read(out, "report.html")
    assert list(here.iterdir()) == [], "no folder named after a URL"
    assert list((cache / "outputs").iterdir()) == [], "nothing is left of what was uploaded"


def test_resumable_folders_refuse_a_url_and_name_publish(
    store: ObjectStore, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["extract", str(work / "mfcc" / "manifest.parquet"), "--encoder", "mfcc", "--out", store.url("features")])
    assert caught.value.code == 2
    assert "`voxshard publish PATH URL`" in capsys.readouterr().err
    with pytest.raises(voxshard.errors.ConfigError, match="publish: URL"):
        voxshard.extract(work / "mfcc" / "manifest.parquet", encoder="mfcc", out=store.url("features"))


def test_publishing_200_files_again_uploads_nothing_and_other_content_needs_replace(
    store: ObjectStore, tmp_path: Path
) -> None:
    folder = tmp_path / "exp"
    for number in range(200):
        path = folder / f"part{number % 7}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content {number}")
    url = Url(store.url(f"exp-{store.scheme}"))
    first = publish(folder, url)
    assert (first.num_uploaded, first.num_present) == (200, 0)
    again = publish(folder, url)
    assert (again.num_uploaded, again.num_present) == (0, 200)
    assert sorted(path.relative_to(local_copy(url)).as_posix() for path in local_copy(url).rglob("*.*")) == store.names(
        url.name
    )
    (folder / "part0" / "0.txt").write_text("changed")
    (folder / "part1" / "1.txt").unlink()
    with pytest.raises(ObjectExistsError, match=r"2 objects there with another content, such as .*--replace"):
        publish(folder, url)
    assert store.read(url.name, "part0/0.txt") == b"content 0"
    replaced = publish(folder, url, replace=True)
    assert (replaced.num_uploaded, replaced.num_present) == (1, 198)
    assert store.read(url.name, "part0/0.txt") == b"changed"
    assert len(store.names(url.name)) == 200, "199 files and the marker; what is gone locally is gone there"


def test_a_publication_killed_half_way_is_no_complete_folder_and_resumes(s3: ObjectStore, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.txt").write_text("x" * number)
    url = s3.url("killed")
    command = [sys.executable, "-c", _UPLOAD, str(folder), url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ) as child:
        assert child.stdout is not None
        for _ in range(5):
            assert child.stdout.readline() == b"uploaded\n"
        child.send_signal(signal.SIGKILL)
    there = s3.names("killed")
    assert 5 <= len(there) < 30
    assert MARKER not in there
    again = publish(folder, Url(url))
    assert again.num_present >= 4, "the first of the five is publishing.json"
    assert again.num_uploaded + again.num_present == 30
    assert MARKER in s3.names("killed")
    assert not list(folder.glob("*.tmp"))


def test_an_unmerged_feature_set_is_not_published(s3: ObjectStore, tmp_path: Path, work: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "identity.json").write_text((work / "mfcc" / "identity.json").read_text())
    with pytest.raises(IncompleteError, match="run `voxshard merge"):
        publish_stage(PublishConfig(path=folder, url=s3.url("unmerged")))
    assert s3.names("unmerged") == []


def test_of_two_writers_of_one_object_the_first_wins(s3: ObjectStore, tmp_path: Path) -> None:
    """S3 checks it in the request itself, so no writer has to look first."""
    sources = [tmp_path / str(number) for number in range(8)]
    for source in sources:
        source.write_text(source.name)
    refused: list[Path] = []

    def write(source: Path) -> None:
        try:
            remote.upload(source, s3.url("race"), if_absent=True)
        except FileExistsError:
            refused.append(source)

    threads = [threading.Thread(target=write, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7
    assert s3.read("race").decode() in {source.name for source in sources} - {source.name for source in refused}


def test_large_files_are_uploaded_in_parts_and_compared_by_the_digest_of_their_parts(
    s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PART_BYTES", 5 << 20)
    source = tmp_path / "large.bin"
    source.write_bytes(np.random.default_rng(0).bytes(12 << 20))
    url = Url(s3.url("large.bin"))
    assert publish(source, url).num_uploaded == 1
    assert remote.stat(url).version == f"etag:{remote.file_digests(source).parts}"
    assert publish(source, url).num_uploaded == 0
    assert local_copy(url).read_bytes() == source.read_bytes()


def test_the_cache_is_listed_and_cleared(
    s3: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    (tmp_path / "a.txt").write_text("a")
    for name in ("a.txt", "b.txt"):
        s3.put(tmp_path / "a.txt", s3.url("listed", name))
        local_copy(Url(s3.url("listed", name)))
    main(["cache", "list"])
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == [
        s3.url("listed/a.txt"),
        s3.url("listed/b.txt"),
    ]
    main(["cache", "clear", s3.url("listed/a.txt")])
    assert "1 copy removed" in capsys.readouterr().err
    main(["cache", "clear"])
    assert not list(cache.glob("objects/*"))


def test_run_publishes_as_its_last_step_and_again_uploads_nothing(s3: ObjectStore, tmp_path: Path) -> None:
    folder_corpus(tmp_path / "corpus")
    config = tmp_path / "exp.yaml"
    config.write_text(
        f"""
out: {tmp_path}/exp
prepare:
  format: folder
  root: {tmp_path}/corpus
  split_from: ["^train=train", "^test=test"]
  label_from: "/(?P<label>blues|jazz)/"
extract: {{mfcc: {{encoder: mfcc, workers: 1}}}}
train: {{label: label, classifier: logistic, replicates: 20}}
publish: {s3.url("experiment")}
"""
    )
    command = [sys.executable, "-m", "voxshard", "run", str(config)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True)
    names = s3.names("experiment")
    assert {
        "report.html",
        "config.yaml",
        "features/mfcc/features.h5",
        "runs/mfcc-logistic-0/metrics.json",
        MARKER,
    } <= set(names)
    assert not [name for name in names if name.startswith("jobs/") or "/progress/" in name]
    assert f"{len(names) - 1} objects uploaded" in done.stderr
    again = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True)
    assert f"0 objects uploaded (0.0 MB), {len(names) - 1} were there already" in again.stderr
