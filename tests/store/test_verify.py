from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from support.shards import edited
from voxshard import open_features
from voxshard.cli import main
from voxshard.errors import CorruptFileError
from voxshard.store.shard import write_shard

IDS = [f"u{n}" for n in range(12)]


@pytest.fixture
def made(make_set: Any) -> Any:
    made = make_set({name: {"embedding": np.array([n, 1.0])} for n, name in enumerate(IDS)},
                    splits=["train"] * 6 + ["dev"] * 6)  # fmt: skip
    made.write()
    return made


def verify(made: Any, capsys: Any, *options: str) -> tuple[int, str]:
    try:
        main(["verify", str(made.path), *options])
        code = 0
    except SystemExit as exc:
        code = int(exc.code or 0)
    return code, capsys.readouterr().err


def flip(path: Path, position: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_a_good_set_passes_before_and_after_merging(made: Any, capsys: Any) -> None:
    code, said = verify(made, capsys)
    assert code == 0
    assert f"{made.path}: 4 shards checked, not merged yet\nno temporary files left\n" in said
    made.merge()
    code, said = verify(made, capsys)
    assert code == 0
    assert f"{made.path}: 4 shards checked, merged files checked\nno temporary files left\n" in said


def test_everything_that_is_wrong_is_named_at_once(made: Any, capsys: Any) -> None:
    flip(made.shard(0))
    made.write(1, fingerprint="e" * 64)
    made.shard(2).write_bytes(made.shard(2).read_bytes()[:2000])
    made.shard(3).unlink()
    code, said = verify(made, capsys)
    assert code == 3
    again = f"move it away and run `voxshard retry {made.path}`"
    aside = (
        f"`voxshard verify --quarantine {made.path}` moves it away, then `voxshard retry {made.path}` makes it again"
    )
    assert said.endswith(
        f"voxshard: {made.path}: 4 problems\n"
        f"  {made.shard(0)}: truncated or changed: its {made.shard(0).stat().st_size} bytes do not match "
        f"the digests it was sealed with; {aside}\n"
        f"  {made.shard(1)}: made with fingerprint eeeeeeeeeeee (mfcc), {made.path} is ffffffffffff (mfcc); {again}\n"
        f"  {made.shard(2)}: truncated or changed: its 2000 bytes do not match the digests it was "
        f"sealed with; {aside}\n"
        f"  {made.shard(3)}: missing; run `voxshard retry {made.path}`\n"
    )


def test_a_damaged_merged_file_is_made_again_by_a_merge(made: Any, capsys: Any) -> None:
    made.merge()
    flip(made.folder.features)
    code, said = verify(made, capsys)
    assert code == 3
    advice = (
        f"`voxshard verify --quarantine {made.path}` moves it away, then `voxshard merge {made.path}` makes it again"
    )
    assert said.endswith(f"sealed with; {advice}\n")
    verify(made, capsys, "--quarantine")
    made.merge()
    assert verify(made, capsys)[0] == 0


@pytest.mark.parametrize("is_sealed", [True, False])
def test_a_duplicated_id_is_named_even_if_the_checksum_is_wrong_too(made: Any, capsys: Any, is_sealed: bool) -> None:
    path = made.shard(1)
    with edited(path) if is_sealed else h5py.File(path, "r+", locking=False) as file:
        file["utterance_id"][1] = "u3"
    code, said = verify(made, capsys)
    assert code == 3
    assert f"{path}: utterance 'u3' appears in it twice" in said
    assert ("do not match the digests" in said) is not is_sealed


def test_quarantine_moves_bad_shards_aside_so_that_they_count_as_missing(made: Any, capsys: Any) -> None:
    flip(made.shard(1))
    stray = made.folder.shards / "shard-00000-of-00009.h5"
    stray.write_bytes(made.shard(0).read_bytes())
    code, said = verify(made, capsys, "--quarantine")
    assert code == 3
    assert f"{made.shard(1)}: renamed to shard-00001-of-00004.h5.corrupt\n" in said
    assert sorted(path.name for path in made.folder.shards.iterdir()) == [
        "shard-00000-of-00004.h5", "shard-00000-of-00009.h5.corrupt", "shard-00001-of-00004.h5.corrupt",
        "shard-00002-of-00004.h5", "shard-00003-of-00004.h5",
    ]  # fmt: skip
    code, said = verify(made, capsys, "--quarantine")
    assert code == 3
    assert f"voxshard: {made.path}: 1 problem\n  {made.shard(1)}: missing; run `voxshard retry {made.path}`\n" in said
    made.write(1)
    assert verify(made, capsys)[0] == 0


def test_a_split_nobody_has_begun_is_no_problem(made: Any, capsys: Any) -> None:
    for index in (2, 3):
        made.shard(index).unlink()
    code, said = verify(made, capsys)
    assert code == 0
    assert f"{made.path}: 2 shards checked, 2 pending, not merged yet\n" in said


@pytest.mark.parametrize("name", ["features.h5", "utterances.parquet", "failures.csv"])
def test_a_flipped_byte_in_a_merged_file_is_named_and_mended_by_merge(made: Any, capsys: Any, name: str) -> None:
    made.merge()
    path = made.path / name
    flip(path, path.stat().st_size // 2)
    code, said = verify(made, capsys)
    assert code == 3
    assert f"voxshard: {made.path}: 1 problem\n  {path}: " in said
    made.merge()
    assert verify(made, capsys)[0] == 0


def test_a_merged_file_that_is_gone_is_named(made: Any, capsys: Any) -> None:
    made.merge()
    made.folder.utterances.unlink()
    code, said = verify(made, capsys)
    assert code == 3
    assert f"{made.folder.utterances}: missing; run `voxshard merge {made.path}`" in said


def test_a_stale_merge_is_named(made: Any, capsys: Any) -> None:
    made.merge()
    outputs = [(name, {"embedding": np.zeros(2)}) for name in IDS[:3]]
    write_shard(made.shard(0), made.header(0), outputs, [], replace=True)
    code, said = verify(made, capsys)
    assert code == 3
    assert f"{made.path}: shards were added or rewritten after the merge; run `voxshard merge {made.path}`" in said


def test_temporary_files_are_listed(made: Any, capsys: Any) -> None:
    left = made.folder.shards / "x.h5.somehost.00000000.1.0123456789ab.tmp"
    left.write_bytes(b"")
    code, said = verify(made, capsys)
    assert code == 0
    assert f"1 temporary file, of running or interrupted writers:\n  {left}\n" in said


def test_a_merged_set_verifies_after_its_shards_were_deleted(made: Any, capsys: Any) -> None:
    made.merge(delete_shards=True)
    assert verify(made, capsys)[0] == 0
    assert len(open_features(made.path)) == 12


@pytest.mark.parametrize("is_merged", [False, True])
def test_a_number_that_is_not_finite_is_named_though_its_seal_holds(made: Any, capsys: Any, is_merged: bool) -> None:
    with edited(made.shard(2)) as file:
        file["embeddings"][1, 0] = np.nan
    if is_merged:
        made.merge()
    code, said = verify(made, capsys)
    assert code == 3
    for path, row in [(made.shard(2), 1), (made.folder.features, 7)][: 1 + is_merged]:
        assert f"{path}: /embeddings has NaN or infinite numbers, the first in row {row}" in said


def test_a_shard_of_another_size_than_its_identity_is_refused(make_set: Any, capsys: Any) -> None:
    made = make_set({name: {"embedding": np.array([n, 1.0])} for n, name in enumerate(IDS)})
    outputs = [(name, {"embedding": np.zeros(3)}) for name in IDS[:3]]
    write_shard(made.shard(0), made.header(0, dim=3), outputs, [])
    code, said = verify(made, capsys)
    assert code == 3
    assert f"{made.shard(0)}: /embeddings is float32 of shape (3, 3), <f4 or <f2 in rows of (2,) is wanted" in said
    made.write(1, 2, 3)
    with pytest.raises(CorruptFileError, match="in rows of"):
        made.merge()


def test_an_id_of_two_rows_of_a_merged_set_is_named(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voxshard.store.ingest._check_unique", lambda *_: None)
    np.savez(tmp_path / "x.npz", X=np.ones((3, 2), np.float32), ids=np.array(["a", "b", "a"]))
    main(["ingest", str(tmp_path / "x.npz"), "--out", str(tmp_path / "set")])
    with pytest.raises(SystemExit):
        main(["verify", str(tmp_path / "set")])
    assert f"{tmp_path / 'set/features.h5'}: utterance 'a' appears in it twice" in capsys.readouterr().err
