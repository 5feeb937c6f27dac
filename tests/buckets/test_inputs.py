"""Every input can be a URL; the result is the one of the local input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import voxshard
from support.object_stores import ObjectStore
from voxshard import audio
from voxshard.cli import main
from voxshard.corpora.remote_folder import objects_below
from voxshard.experiment import schema
from voxshard.manifest import OBJECT_VERSION, Manifest
from voxshard.slurm import site as sites

RATE = 8000
GENRES = ("blues", "jazz")


def tones(folder: Path, names: list[str]) -> None:
    rng = np.random.default_rng(0)
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pitch = 200.0 * (1 + number % 2)
        samples = 0.3 * np.sin(np.arange(RATE // 5) * 2 * np.pi * pitch / RATE) + 0.01 * rng.standard_normal(RATE // 5)
        soundfile.write(path, samples.astype(np.float32), RATE, subtype="PCM_16")


def folder_corpus(root: Path) -> dict[str, Any]:
    tones(root, [f"{split}/{label}/{n}.wav" for split in ("train", "test") for n in range(3) for label in GENRES])
    return {"split_from": ("^train=train", "^test=test"), "label_from": "/(?P<label>blues|jazz)/"}


def table_corpus(root: Path) -> dict[str, Any]:
    tones(root, [f"audio/{n}.wav" for n in range(4)])
    (root / "clips.csv").write_text("path,label\n" + "".join(f"audio/{n}.wav,{GENRES[n % 2]}\n" for n in range(4)))
    return {}


def uid_corpus(root: Path) -> dict[str, Any]:
    tones(root / "clinic", [f"u{n}/waveform.wav" for n in range(4)])
    for n in range(4):
        (root / "clinic" / f"u{n}" / "metadata.json").write_text('{"encoding": "WAV", "sample_rate_hz": 8000}')
    (root / "train.csv").write_text("uid,fluent\nu0,1\nu1,0\n")
    (root / "test.csv").write_text("uid,fluent\nu2,1\nu3,0\n")
    return {"study": "clinic"}


def list_corpus(root: Path) -> dict[str, Any]:
    tones(root, [f"genres/{label}/{label}.{n}.wav" for n in range(2) for label in GENRES])
    for split, n in (("train", 0), ("test", 1)):
        (root / f"{split}_filtered.txt").write_text("".join(f"{label}/{label}.{n}.wav\n" for label in GENRES))
    return {}


def urban_corpus(root: Path) -> dict[str, Any]:
    head = "slice_file_name,fsID,start,end,salience,fold,classID,class\n"
    tones(root, [f"audio/fold{n + 1}/{n}.wav" for n in range(2)])
    (root / "metadata").mkdir()
    rows = "".join(f"{n}.wav,{n},0,1,1,{n + 1},{n},{GENRES[n]}\n" for n in range(2))
    (root / "metadata" / "UrbanSound8K.csv").write_text(head + rows)
    return {}


def esc_corpus(root: Path) -> dict[str, Any]:
    tones(root, [f"audio/{n}.wav" for n in range(2)])
    (root / "meta").mkdir()
    rows = "".join(f"{n}.wav,1,0,{GENRES[n]},False,1,A\n" for n in range(2))
    (root / "meta" / "esc50.csv").write_text("filename,fold,target,category,esc10,src_file,take\n" + rows)
    return {}


def tut_corpus(root: Path) -> dict[str, Any]:
    folder = root / "TUT-acoustic-scenes-2017-development"
    tones(folder, [f"audio/{n}.wav" for n in range(2)])
    (folder / "meta.txt").write_text("audio/0.wav\tbeach\tb0\naudio/1.wav\tbus\tb1\n")
    (folder / "evaluation_setup").mkdir()
    (folder / "evaluation_setup" / "fold1_test.txt").write_text("audio/0.wav\n")
    return {}


def asvspoof_corpus(root: Path) -> dict[str, Any]:
    tones(root, [f"flac_T/T_{n}.flac" for n in range(2)])
    lines = [f"S0 T_{n} F - - - AC1 A0{n} {label} -" for n, label in enumerate(("bonafide", "spoof"))]
    (root / "ASVspoof5.train.tsv").write_text("\n".join(lines) + "\n")
    return {}


CORPORA: dict[str, Callable[[Path], dict[str, Any]]] = {
    "folder": folder_corpus,
    "table": table_corpus,
    "uid-folders": uid_corpus,
    "file-lists": list_corpus,
    "urbansound8k": urban_corpus,
    "esc50": esc_corpus,
    "tut-asc": tut_corpus,
    "asvspoof5": asvspoof_corpus,
}


@pytest.mark.parametrize("corpus", CORPORA)
def test_a_corpus_in_a_bucket_gives_the_manifest_and_the_samples_of_the_local_one(
    corpus: str, store: ObjectStore, tmp_path: Path
) -> None:
    root = tmp_path / "corpus"
    root.mkdir()
    options = CORPORA[corpus](root)
    place = f"inputs/{corpus}"
    store.put(root, store.url(place))
    local = voxshard.prepare(corpus, root, out=tmp_path / "local.parquet", **options)
    there = voxshard.prepare(corpus, store.url(place), out=tmp_path / "there.parquet", **options)
    assert there.root.startswith(store.url(place))
    assert all(there.table[OBJECT_VERSION].is_valid().to_pylist())
    assert there.table.drop_columns([OBJECT_VERSION]).to_pylist() == local.table.to_pylist()
    for ours, theirs in zip(local.utterances(), there.utterances(), strict=True):
        expected = audio.read(audio.resolve(local.root, ours.path), sample_rate=RATE)
        assert np.array_equal(audio.read(audio.resolve(there.root, theirs.path), sample_rate=RATE), expected)


def test_recordings_in_a_bucket_are_extracted_in_place(store: ObjectStore, tmp_path: Path, cache: Path) -> None:
    options = folder_corpus(tmp_path / "corpus")
    store.put(tmp_path / "corpus", store.url("in-place"))
    voxshard.prepare("folder", tmp_path / "corpus", out=tmp_path / "local.parquet", **options)
    voxshard.prepare("folder", store.url("in-place"), out=tmp_path / "there.parquet", **options)
    ours = voxshard.extract(tmp_path / "local.parquet", encoder="mfcc", out=tmp_path / "ours", workers=1)
    theirs = voxshard.extract(tmp_path / "there.parquet", encoder="mfcc", out=tmp_path / "theirs", workers=1)
    assert np.array_equal(ours.embeddings[:], theirs.embeddings[:])
    assert not (cache / "objects").exists()


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
    place = voxshard.locations.Url(store.url("files/exp.yaml"))
    assert schema.load(place, {}).prepare.root == str(root)
    assert sites.load(store.url("files/site.yaml")).name == "mine"


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A manifest, its features and a classifier, in one folder."""
    options = folder_corpus(tmp_path / "corpus")
    folder = tmp_path / "work"
    voxshard.prepare("folder", tmp_path / "corpus", out=folder / "manifest.parquet", **options)
    voxshard.extract(folder / "manifest.parquet", encoder="mfcc", out=folder / "mfcc", workers=1)
    voxshard.train(folder / "mfcc", label="label", classifier="logistic", out=folder / "run", replicates=0)
    return folder


def test_manifest_features_and_run_are_opened_from_a_bucket(
    store: ObjectStore, trained: Path, tmp_path: Path, cache: Path
) -> None:
    for name in ("manifest.parquet", "mfcc", "run"):
        store.put(trained / name, store.url("work", name))
    local = voxshard.open_features(trained / "mfcc")
    features = voxshard.open_features(store.url("work/mfcc"))
    assert np.array_equal(features.embeddings[:], local.embeddings[:])
    again = voxshard.extract(store.url("work/manifest.parquet"), encoder="mfcc", out=tmp_path / "again", workers=1)
    assert np.array_equal(again.embeddings[:], local.embeddings[:])
    expected = voxshard.train(trained / "mfcc", label="label", classifier="knn", out=tmp_path / "a", replicates=0)
    run = voxshard.train(store.url("work/mfcc"), label="label", classifier="knn", out=tmp_path / "b", replicates=0)
    assert run.metrics["metrics"] == expected.metrics["metrics"]
    assert run.config["features"][0]["path"] == store.url("work/mfcc"), "a run names the URL, not the copy"
    evaluated = voxshard.evaluate(store.url("work/run"), on=[store.url("work/mfcc")], out=tmp_path / "evaluated")
    expected = voxshard.evaluate(trained / "run")
    assert evaluated.metrics["metrics"]["mfcc-test"] == expected.metrics["metrics"]["test"]
    report = voxshard.report([store.url("work/run")], out=tmp_path / "report.html")
    assert "logistic" in Path(report).read_text()
    entries = voxshard.locations.cache_entries()
    assert [entry.url for entry in entries] == [store.url("work", name) for name in ("manifest.parquet", "mfcc", "run")]


def test_a_copy_in_the_cache_is_made_once_and_again_when_the_object_changes_or_the_copy_is_damaged(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = voxshard.locations.Url(store.url("cached/a.txt"))
    (tmp_path / "a.txt").write_text("one")
    store.put(tmp_path / "a.txt", url)
    copy = voxshard.locations.local_copy(url)
    made = copy.stat().st_mtime_ns
    voxshard.locations._cached.cache_clear()
    assert voxshard.locations.local_copy(url) == copy
    assert copy.stat().st_mtime_ns == made
    copy.write_text("two")
    voxshard.locations._cached.cache_clear()
    assert voxshard.locations.local_copy(url).read_text() == "one"
    (tmp_path / "a.txt").write_text("other")
    store.put(tmp_path / "a.txt", url)
    voxshard.locations._cached.cache_clear()
    assert voxshard.locations.local_copy(url).read_text() == "other"
    monkeypatch.setenv(voxshard.locations.OFFLINE_VARIABLE, "1")
    store.remove("cached/a.txt")
    voxshard.locations._cached.cache_clear()
    assert voxshard.locations.local_copy(url).read_text() == "other"


def test_sizes_and_versions_come_from_the_listing_without_a_probe(store: ObjectStore, tmp_path: Path) -> None:
    tones(tmp_path / "corpus", ["a.wav"])
    store.put(tmp_path / "corpus", store.url("unprobed"))
    objects_below.cache_clear()
    assert (
        main(["prepare", "folder", store.url("unprobed"), "--out", str(tmp_path / "m.parquet"), "--no-probe"]) is None
    )
    row = Manifest.read(tmp_path / "m.parquet").table.to_pylist()[0]
    assert row["num_bytes"] == (tmp_path / "corpus" / "a.wav").stat().st_size
    assert row[OBJECT_VERSION].startswith("etag:" if store.scheme == "s3" else "md5:")
    assert json.dumps(row["problem"]) == "null"
