"""A disk that is really full, a file system of a few hundred kilobytes, and one that may not be written to."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.trees import prepare, write_audio
from voxshard import files, open_features
from voxshard.errors import ReadOnlyError, StorageFullError
from voxshard.files import storage_errors
from voxshard.progress import Silent
from voxshard.store.export import ExportConfig, export


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", path], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("needs the right to mount a file system")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)  # a map of a file may still be alive


def enlarge(path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=8m", path], check=True)


def test_merge_and_export_say_so_leave_nothing_behind_and_go_on_later(make_set: Any, small_disk: Path) -> None:
    outputs = {f"u{n}": {"embedding": np.full(1000, n, np.float32)} for n in range(80)}
    made = make_set(outputs, name=small_disk / "set", shards=[n // 20 for n in range(80)])
    made.write()
    with pytest.raises(StorageFullError) as caught:
        made.merge()
    assert str(caught.value) == (
        f"{small_disk}/set/features.h5: no space left (disk or quota, bytes or files); free some and run "
        "the same command again, what is finished is kept"
    )
    assert not list(small_disk.rglob("*.tmp"))
    assert not made.folder.summary.exists()
    enlarge(small_disk)
    made.merge()
    assert open_features(made.path)["u79"][0] == 79
    (small_disk / "ballast").write_bytes(b"\0" * (shutil.disk_usage(small_disk).free - 100_000))
    with pytest.raises(StorageFullError, match="no space left"):
        export(ExportConfig(features=made.path, format="json", out=small_disk / "x.json"), Silent(), lambda: None)
    assert not list(small_disk.glob("x.json*"))


def test_a_shard_that_does_not_fit_is_not_published(make_set: Any, small_disk: Path) -> None:
    made = make_set({"a": {"embedding": np.zeros(300_000, np.float32)}}, name=small_disk / "set")
    with pytest.raises(StorageFullError, match="no space left"):
        made.write()
    assert not list(made.folder.shards.iterdir())


def test_a_place_that_cannot_be_written_to_is_found_before_the_work(small_disk: Path, tmp_path: Path) -> None:
    write_audio(tmp_path / "corpus" / "a.wav")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(ReadOnlyError, match=r"m.parquet: cannot be written: no permission to write to .*/disk; name "):
        prepare("folder", tmp_path / "corpus", small_disk / "new" / "m.parquet")
    with pytest.raises(NotADirectoryError, match=r"a\.wav"):
        prepare("folder", tmp_path / "corpus", tmp_path / "corpus" / "a.wav" / "m.parquet")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_may_not_be_written_to_is_one_line(tmp_path: Path, number: int) -> None:
    with (
        pytest.raises(ReadOnlyError, match=r"/set: cannot be written: .*; name a folder that you may write to$"),
        storage_errors(tmp_path / "set"),
    ):
        raise OSError(number, os.strerror(number))


def test_in_an_image_the_reason_may_be_a_folder_that_is_not_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "labels.json").write_text("{}")
    monkeypatch.setattr(files, "_IMAGE_LABELS", tmp_path / "labels.json")
    with (
        pytest.raises(ReadOnlyError, match=r"and that the image sees \(BINDS, container\.binds\)$"),
        storage_errors(tmp_path / "set"),
    ):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
