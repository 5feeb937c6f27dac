"""Odd names of objects, buckets and URLs: read and written as they are, or one line."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

import voxshard
from support.bucket_corpora import tones
from support.object_stores import ObjectStore
from voxshard import remote
from voxshard.cli import main
from voxshard.locations import Url, local_copy, parse
from voxshard.uploads import publish

NAMES = [
    "a b.wav", "\u00fc.wav", "h#1.wav", "q?2.wav", "p%41.wav", "plus+.wav", "star*.wav", "br[1].wav", "amp&.wav",
    "c,d.wav", "e=f.wav", "\u65e5\u672c/x.wav", "x@y.wav", "dots..wav", "back\\slash.wav", "quote'\".wav",
]  # fmt: skip


def test_names_of_objects_are_what_they_are(store: ObjectStore, tmp_path: Path) -> None:
    tones(tmp_path / "corpus", NAMES)
    published = publish(tmp_path / "corpus", Url(store.url("odd names")))
    assert published.num_uploaded == len(NAMES)
    local = voxshard.prepare("folder", tmp_path / "corpus", out=tmp_path / "local.parquet")
    there = voxshard.prepare("folder", store.url("odd names"), out=tmp_path / "there.parquet")
    assert there.table.drop_columns(["object_version"]).to_pylist() == local.table.to_pylist()
    copy = local_copy(Url(store.url("odd names")))
    for name in NAMES:
        content = (tmp_path / "corpus" / name).read_bytes()
        assert (copy / name).read_bytes() == content
        assert remote.read(store.url("odd names", name)) == content
        assert local_copy(Url(store.url("odd names", name))).read_bytes() == content


def test_empty_objects_that_stand_for_folders_are_no_files(store: ObjectStore, tmp_path: Path) -> None:
    tones(tmp_path / "corpus", ["sub/a.wav", "b.wav"])
    place = f"marked-{store.scheme}"
    store.put(tmp_path / "corpus", store.url(place))
    for name in (f"{place}/", f"{place}/sub/"):
        store.put_empty(name)
    there = voxshard.prepare("folder", store.url(place), out=tmp_path / "there.parquet")
    assert there.table["path"].to_pylist() == ["b.wav", "sub/a.wav"]
    copy = local_copy(Url(store.url(place)))
    assert sorted(path.name for path in copy.rglob("*") if path.is_file()) == ["a.wav", "b.wav"]


def test_more_objects_than_a_store_lists_at_once(s3: ObjectStore, tmp_path: Path) -> None:
    names = [f"{number:04d}.txt" for number in range(1001)]
    (tmp_path / "many").mkdir()
    for name in names:
        (tmp_path / "many" / name).write_text("x")
    system, path = fsspec.core.url_to_fs(s3.url("many"))
    system.pipe({f"{path}/{name}": b"x" for name in names})
    assert [item.url for item in remote.listing(s3.url("many"))] == [s3.url("many", name) for name in names]
    published = publish(tmp_path / "many", Url(s3.url("many")))
    assert (published.num_uploaded, published.num_present) == (0, 1001)


def test_a_url_has_one_form(store: ObjectStore, tmp_path: Path) -> None:
    tones(tmp_path / "corpus", ["a.wav"])
    store.put(tmp_path / "corpus", store.url("form"))
    plain = voxshard.prepare("folder", store.url("form"), out=tmp_path / "m.parquet")
    scheme, other = store.scheme, {"s3": "s3a", "gs": "gcs"}[store.scheme]
    for url in (f"{scheme.upper()}://{store.bucket}/form", f"{store.url('form')}/", f"{store.url('form')}//"):
        assert parse(url) == store.url("form")
        assert voxshard.prepare("folder", url, out=tmp_path / "m.parquet").root == plain.root
    there = voxshard.prepare("folder", f"{other}://{store.bucket}/form", out=tmp_path / "m.parquet")
    assert there.table.equals(plain.table)
    assert len(voxshard.prepare("folder", f"{scheme}://{store.bucket}", out=tmp_path / "m.parquet")) >= 1
    assert voxshard.prepare("folder", f"file://{tmp_path}/corpus", out=tmp_path / "m.parquet").root == str(
        tmp_path / "corpus"
    )


@pytest.mark.parametrize(
    ("root", "code", "message"),
    [
        ("s3://", 2, "s3://: a URL without a bucket; expected s3://bucket/name"),
        ("gs:///x", 2, "gs:///x: a URL without a bucket; expected gs://bucket/name"),
        ("s3://bad bucket/x", 2, "s3://bad bucket/x: not a name that the store takes"),
        ("s3:/voices/x", 2, "s3:/voices/x: looks like a URL; write s3://voices/x, or ./s3:/voices/x for a file"),
        ("gs:voices/x", 2, "gs:voices/x: looks like a URL; write gs://voices/x, or ./gs:voices/x for a file"),
        ("abfs:/c/x", 2, "abfs:/c/x: looks like a URL; write abfs://c/x, or ./abfs:/c/x for a file"),
        ("foo://b/x", 4, "foo://b/x: Protocol not known: foo; "),
        ("https://h/x?X-Amz-Signature=hush", 2, "https://...: this URL contains credentials"),
    ],
)
def test_what_is_no_url_of_a_bucket_is_one_line(
    root: str, code: int, message: str, s3: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["prepare", "folder", root, "--out", str(tmp_path / "m.parquet")])
    assert caught.value.code == code
    assert message in capsys.readouterr().err


def test_an_output_has_a_name_in_its_bucket(
    s3: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tones(tmp_path / "corpus", ["a.wav"])
    for out in ("s3://voices", "s3://voices/", "s3:/voices/m.parquet"):
        with pytest.raises(SystemExit) as caught:
            main(["prepare", "folder", "corpus", "--out", out])
        assert caught.value.code == 2
    assert "s3://voices: names a bucket; give the name of an object or folder in it" in capsys.readouterr().err
    for out, code, line in (
        ("https://host/m.parquet", 2, "nothing can be written there; expected a bucket, such as gs://bucket/name"),
        ("foo://c/m.parquet", 4, "foo://c/m.parquet: Protocol not known: foo; "),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["prepare", "folder", "nothing", "--out", out])
        assert caught.value.code == code
        assert line in capsys.readouterr().err, "before the corpus is looked at"
    assert not (tmp_path / "s3:").exists()
