"""Sets of format 1, written before there were block digests (format_1.zip): seven utterances, one of them failed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxshard import open_features
from voxshard.cli import main
from voxshard.errors import CorruptFileError
from voxshard.progress import Silent
from voxshard.store.layout import FeatureDir, Identity
from voxshard.store.merge import MergeConfig, merge
from voxshard.store.seal import read_seal
from voxshard.store.shard import Failure, read_shard, write_shard

DATA = Path(__file__).parent / "format_1.zip"
IDS = ["u0", "u1", "u3", "u4", "u5", "u6"]


@pytest.fixture(params=["packed", "index"])
def old(request: Any, tmp_path: Path) -> Path:
    shutil.unpack_archive(DATA, tmp_path)
    return tmp_path / str(request.param)


def wanted(name: str, n: int) -> np.ndarray:
    if name == "packed":
        return np.array([n, n / 3, -n], np.float32)
    return np.arange(3 * (n + 1), dtype=np.float32).reshape(-1, 3) * n


def check_content(path: Path) -> None:
    for check in ("none", "open", "blocks"):
        features = open_features(path, check=check)
        assert features.ids == IDS
        for name in IDS:
            np.testing.assert_array_equal(features[name], wanted(path.name, int(name[1:])))
        assert [failure["utterance_id"] for failure in features.failures] == ["u2"]
        assert sum(len(batch.ids) for batch in features.iter_batches(4)) == 6


def test_it_opens_and_verifies(old: Path) -> None:
    check_content(old)
    main(["verify", str(old)])


def test_it_merges_into_format_2_and_the_numbers_stay(old: Path) -> None:
    merge(MergeConfig(features=old, mode="packed"), Silent(), lambda: None)
    assert read_seal(old / "features.h5", "features").version == 2
    check_content(old)
    main(["verify", str(old)])


def test_shards_of_both_formats_merge_into_one_set(old: Path) -> None:
    folder = FeatureDir(old)
    shard = read_shard(folder.shard(1, 3))
    write_shard(shard.path, shard.header, shard.outputs(), [Failure(*item) for item in shard.failures], replace=True)
    assert read_seal(shard.path, "shard").version == 2
    for mode in ("packed", "index"):
        merge(MergeConfig(features=old, mode=mode), Silent(), lambda: None)  # type: ignore[arg-type]
        check_content(old)
        main(["verify", str(old)])


def test_a_changed_byte_of_its_arrays_is_found_when_they_are_read(old: Path) -> None:
    path = old / "features.h5" if old.name == "packed" else FeatureDir(old).shard(0, 3)
    content = bytearray(path.read_bytes())
    number = wanted(old.name, 1)[-1 if old.name == "index" else slice(None)].tobytes()
    content[content.index(number)] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptFileError):
        list(open_features(old).iter_batches(4))


def test_its_identity_needs_no_digest(old: Path) -> None:
    identity = Identity.read(old / "identity.json")
    assert (identity.format_version, identity.manifest_file, identity.shard_table) == (1, None, None)
