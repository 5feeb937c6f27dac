"""Every input can be a URL; the result is the one of the local input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import voxshard
from support.archives import archive
from support.bucket_corpora import CORPORA, GENRES, RATE, folder_corpus, tar_corpus, tones, trained_classifier
from support.object_stores import ObjectStore
from voxshard import audio, locations, remote, urls
from voxshard.cli import main
from voxshard.errors import ChangedRecordingError, UnreadableAudioError
from voxshard.experiment import schema
from voxshard.manifest import OBJECT_VERSION, Manifest
from voxshard.slurm import site as sites


@pytest.mark.parametrize("corpus", CORPORA)
def test_a_corpus_in_a_bucket_gives_the_manifest_and_the_samples_of_the_local_one(
    corpus: str, store: ObjectStore, tmp_path: Path
) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    options = CORPORA[corpus](folder)
    name, place = corpus.partition(",")[0], f"inputs/{corpus}"
    store.put(folder, store.url(place))
    below = options.pop("root", "")
    local = voxshard.prepare(name, folder / below, out=tmp_path / "local.parquet", **options)
    there = voxshard.prepare(name, locations.Url(store.url(place)) / below, out=tmp_path / "there.parquet", **options)
    assert there.root.startswith(store.url(place))
    assert all(there.table[OBJECT_VERSION].is_valid().to_pylist())
    assert there.table.drop_columns([OBJECT_VERSION]).to_pylist() == local.table.to_pylist()
    for ours, theirs in zip(local.utterances(), there.utterances(), strict=True):
        expected = audio.read(audio.resolve(local.root, ours.path), sample_rate=RATE)
        assert np.array_equal(audio.read(audio.resolve(there.root, theirs.path), sample_rate=RATE), expected)


def test_members_of_archives_are_read_by_requests_for_their_part(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one whose archive was written again is a failure."""
    (tmp_path / "corpus").mkdir()
    tar_corpus(tmp_path / "corpus")
    url = store.url("archives")
    store.put(tmp_path / "corpus", url)
    local = voxshard.prepare("tar", tmp_path / "corpus", out=tmp_path / "local.parquet")
    there = voxshard.prepare("tar", url, out=tmp_path / "there.parquet")
    spans: list[tuple[int, int] | None] = []
    plain = remote.read

    def read(place: str, **options: Any) -> bytes:
        spans.append(options.get("span"))
        return plain(place, **options)

    with monkeypatch.context() as patch:
        patch.setattr(remote, "read", read)
        for row in there.utterances():
            audio.read(audio.resolve(there.root, row.path), sample_rate=RATE)
    sizes = [end - start for start, end in filter(None, spans)]
    assert sizes == [512 + (row.num_bytes or 0) for row in local.utterances()]
    ours = voxshard.extract(tmp_path / "local.parquet", encoder="mfcc", out=tmp_path / "ours", workers=1)
    theirs = voxshard.extract(tmp_path / "there.parquet", encoder="mfcc", out=tmp_path / "theirs", workers=1)
    assert np.array_equal(ours.embeddings[:], theirs.embeddings[:])
    (tmp_path / "corpus" / "train-000.tar").write_bytes(archive({"a.wav": bytes(600)}, "w:"))
    store.put(tmp_path / "corpus" / "train-000.tar", f"{url}/train-000.tar")
    row = next(row for row in there.utterances() if "train-000" in row.utterance_id)
    assert row.object_version is not None
    place = audio.resolve(there.root, row.path)
    assert isinstance(place, str)
    with pytest.raises(ChangedRecordingError if store.scheme == "s3" else UnreadableAudioError):
        audio.read(urls.PinnedUrl(place, row.object_version), sample_rate=RATE)


def test_rows_of_a_local_table_can_be_urls(store: ObjectStore, tmp_path: Path) -> None:
    """Their sizes and versions are recorded as well."""
    tones(tmp_path, [f"{n}.wav" for n in range(3)])
    for n in range(2):
        store.put(tmp_path / f"{n}.wav", store.url(f"rows-{n}", f"{n}.wav"))
    rows = [store.url("rows-0/0.wav"), store.url("rows-1/1.wav"), "2.wav", store.url("rows-1/none.wav")]
    (tmp_path / "clips.csv").write_text("path\n" + "".join(f"{row}\n" for row in rows))
    found = voxshard.prepare("table", tmp_path / "clips.csv", out=tmp_path / "m.parquet").table.to_pylist()
    assert [row["num_bytes"] for row in found] == [(tmp_path / f"{n}.wav").stat().st_size for n in range(3)] + [None]
    assert [row[OBJECT_VERSION] is not None for row in found] == [True, True, False, False]
    assert [row["problem"] for row in found[:3]] == [None] * 3
    assert found[3]["problem"].startswith("MissingRecordingError")


def test_recordings_in_a_bucket_are_extracted_in_place(
    store: ObjectStore, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """By one request each."""
    proxy = request.getfixturevalue({"s3": "s3_proxy", "gs": "gcs_proxied"}[store.scheme])[1]
    options = folder_corpus(tmp_path / "corpus")
    store.put(tmp_path / "corpus", store.url("in-place"))
    voxshard.prepare("folder", tmp_path / "corpus", out=tmp_path / "local.parquet", **options)
    voxshard.prepare("folder", store.url("in-place"), out=tmp_path / "there.parquet", **options)
    ours = voxshard.extract(tmp_path / "local.parquet", encoder="mfcc", out=tmp_path / "ours", workers=1)
    store.put(tmp_path / "there.parquet", store.url("there.parquet"))
    proxy.requests.clear()
    theirs = voxshard.extract(store.url("there.parquet"), encoder="mfcc", out=tmp_path / "theirs", workers=1)
    assert np.array_equal(ours.embeddings[:], theirs.embeddings[:])
    of_recordings = [line for line in proxy.requests if ".wav" in line]
    assert len(of_recordings) == len(set(of_recordings)) == len(ours.embeddings)
    assert {line.split()[0] for line in of_recordings} == {"GET"}
    assert [entry.url for entry in locations.cache_entries()] == [store.url("there.parquet")]


def test_split_and_label_files_configs_and_sites_are_read_from_a_bucket(store: ObjectStore, tmp_path: Path) -> None:
    root = tmp_path / "corpus"
    tones(root, [f"{n}.wav" for n in range(4)])
    (tmp_path / "train.txt").write_text("0\n1\n")
    (tmp_path / "labels.csv").write_text("id,label\n" + "".join(f"{n},{GENRES[n % 2]}\n" for n in range(4)))
    (tmp_path / "exp.yaml").write_text(
        f"out: exp\nprepare: {{format: folder, root: {root}}}\nextract: {{m: {{encoder: mfcc}}}}\n"
    )
    (tmp_path / "site.yaml").write_text("name: mine\nscheduler: none\n")
    for name in ("train.txt", "labels.csv", "exp.yaml", "site.yaml"):
        store.put(tmp_path / name, store.url("files", name))
    options = {"split": (f"train={tmp_path}/train.txt",), "labels": f"{tmp_path}/labels.csv"}
    local = voxshard.prepare("folder", root, out=tmp_path / "local.parquet", **options)
    options = {"split": (f"train={store.url('files/train.txt')}",), "labels": store.url("files/labels.csv")}
    there = voxshard.prepare("folder", root, out=tmp_path / "there.parquet", **options)
    assert there.table.equals(local.table)
    place = locations.Url(store.url("files/exp.yaml"))
    assert schema.load(place, {}).prepare.root == str(root)
    assert sites.load(store.url("files/site.yaml")).name == "mine"


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A feature set and a classifier, in one folder."""
    return trained_classifier(tmp_path / "work")


def test_features_and_run_are_opened_from_a_bucket(store: ObjectStore, trained: Path, tmp_path: Path) -> None:
    for name in ("mfcc", "run"):
        store.put(trained / name, store.url("work", name))
    local = voxshard.open_features(trained / "mfcc")
    features = voxshard.open_features(store.url("work/mfcc"))
    assert np.array_equal(features.embeddings[:], local.embeddings[:])
    expected = voxshard.train(trained / "mfcc", label="label", classifier="knn", out=tmp_path / "a", replicates=0)
    run = voxshard.train(store.url("work/mfcc"), label="label", classifier="knn", out=tmp_path / "b", replicates=0)
    assert run.metrics["metrics"] == expected.metrics["metrics"]
    assert run.config["features"][0]["path"] == store.url("work/mfcc"), "a run names the URL, not the copy"
    evaluated = voxshard.evaluate(store.url("work/run"), on=[store.url("work/mfcc")], out=tmp_path / "evaluated")
    expected = voxshard.evaluate(trained / "run")
    assert evaluated.metrics["metrics"]["mfcc-test"] == expected.metrics["metrics"]["test"]
    report = voxshard.report([store.url("work/run")], out=tmp_path / "report.html")
    assert "logistic" in Path(report).read_text()
    entries = locations.cache_entries()
    assert [entry.url for entry in entries] == [store.url("work", name) for name in ("mfcc", "run")]


def test_a_copy_in_the_cache_is_made_once_and_again_when_the_object_changes_or_the_copy_is_damaged(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = locations.Url(store.url("cached/a.txt"))
    (tmp_path / "a.txt").write_text("one")
    store.put(tmp_path / "a.txt", url)
    copy = locations.local_copy(url)
    made = copy.stat().st_mtime_ns
    locations._cached.cache_clear()
    assert locations.local_copy(url) == copy
    assert copy.stat().st_mtime_ns == made
    copy.write_text("two")
    locations._cached.cache_clear()
    assert locations.local_copy(url).read_text() == "one"
    (tmp_path / "a.txt").write_text("other")
    store.put(tmp_path / "a.txt", url)
    locations._cached.cache_clear()
    assert locations.local_copy(url).read_text() == "other"
    monkeypatch.setenv(locations.OFFLINE_VARIABLE, "1")
    store.remove("cached/a.txt")
    locations._cached.cache_clear()
    assert locations.local_copy(url).read_text() == "other"


def test_sizes_and_versions_come_from_the_listing_without_a_probe(store: ObjectStore, tmp_path: Path) -> None:
    tones(tmp_path / "corpus", ["a.wav"])
    store.put(tmp_path / "corpus", store.url("unprobed"))
    assert (
        main(["prepare", "folder", store.url("unprobed"), "--out", str(tmp_path / "m.parquet"), "--no-probe"]) is None
    )
    row = Manifest.read(tmp_path / "m.parquet").table.to_pylist()[0]
    assert row["num_bytes"] == (tmp_path / "corpus" / "a.wav").stat().st_size
    assert row[OBJECT_VERSION].startswith("etag:" if store.scheme == "s3" else "md5:")
    assert json.dumps(row["problem"]) == "null"


def test_features_of_other_programs_are_ingested_from_a_bucket(s3: ObjectStore, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(6, dtype=np.float32).reshape(3, 2))
    (tmp_path / "x_metadata.csv").write_text("utterance_id\na\nb\nc\n")
    for name in ("x.npy", "x_metadata.csv"):
        s3.put(tmp_path / name, s3.url("foreign", name))
    main(["ingest", f"train={s3.url('foreign/x.npy')}", "--out", str(tmp_path / "set")])
    assert voxshard.open_features(tmp_path / "set")["b"].tolist() == [2.0, 3.0]
