"""Faults of the storage are no verdict on the content of our own files, and printed command lines can be copied."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from voxshard import files
from voxshard.errors import CorruptFileError, DataError, EnvironmentProblemError, ManifestError
from voxshard.manifest import Manifest
from voxshard.store.features import FeatureSet
from voxshard.store.layout import Plan

Fail = Callable[[int, int], list[int]]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Make the first N opens of a Parquet file fail with an errno; the list counts them."""
    monkeypatch.setattr(files, "RETRY_DELAYS_S", (0.0,) * 4)
    real = pq.ParquetFile

    def start(times: int, code: int) -> list[int]:
        calls: list[int] = []

        def opened(*arguments: Any, **options: Any) -> pq.ParquetFile:
            calls.append(code)
            if len(calls) <= times:
                raise OSError(code, f"[Errno {code}] Failed to open local file")
            return real(*arguments, **options)

        monkeypatch.setattr(pq, "ParquetFile", opened)
        return calls

    return start


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "manifest.parquet"
    Manifest.from_rows([{"utterance_id": "a", "path": "a.wav"}], root="/corpus", corpus="folder").write(path)
    return path


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.EREMOTEIO])
def test_a_fault_that_passes_is_not_noticed(manifest: Path, fail: Fail, code: int) -> None:
    calls = fail(2, code)
    assert len(Manifest.read(manifest)) == 1
    assert len(calls) == 3


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO])
@pytest.mark.parametrize("kind", [Manifest, Plan])
def test_a_fault_that_stays_ends_with_exit_code_4(manifest: Path, fail: Fail, code: int, kind: Any) -> None:
    fail(100, code)
    with pytest.raises(
        EnvironmentProblemError, match=f"{manifest}: cannot be read on .*: {os.strerror(code)}"
    ) as caught:
        kind.read(manifest)
    assert caught.value.exit_code == 4
    assert not isinstance(caught.value, DataError)


def test_a_file_without_permission_is_no_damaged_file_and_is_not_waited_for(manifest: Path, fail: Fail) -> None:
    calls = fail(100, errno.EACCES)
    with pytest.raises(EnvironmentProblemError, match="Permission denied"):
        Manifest.read(manifest)
    assert len(calls) == 1


def test_what_is_damaged_or_missing_is_reported_at_once(manifest: Path, tmp_path: Path, fail: Fail) -> None:
    calls = fail(0, 0)
    manifest.write_bytes(b"no Parquet at all")
    with pytest.raises(ManifestError, match="not a Parquet file"):
        Manifest.read(manifest)
    with pytest.raises(ManifestError, match="no such manifest"):
        Manifest.read(tmp_path / "gone.parquet")
    with pytest.raises(CorruptFileError, match="not a plan"):
        Plan.read(manifest)
    assert len(calls) == 3


def test_a_command_line_that_is_printed_can_be_copied(tmp_path: Path) -> None:
    path = tmp_path / "an experiment's $HOME; rm -rf x"
    path.mkdir()
    with pytest.raises(DataError) as caught:
        FeatureSet(path)
    command = str(caught.value).partition("run `")[2].removesuffix("`")
    assert shlex.split(command) == ["voxshard", "merge", str(path)]
