from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.flips import made_set
from voxshard import open_features
from voxshard.cli import main
from voxshard.errors import StaleShardError
from voxshard.store import merged

IDS = [f"u{n}" for n in range(12)]
MERGED = ("features.h5", "utterances.parquet", "failures.csv", "summary.json")


@pytest.fixture
def made(make_set: Any) -> Any:
    made = make_set({name: {"embedding": np.array([n, 1.0])} for n, name in enumerate(IDS)})
    made.write()
    return made


def test_of_two_merges_at_once_one_wins_completely(made: Any) -> None:
    for _ in range(5):
        both = threading.Barrier(2)

        def merge(mode: str, both: threading.Barrier = both) -> None:
            both.wait()
            made.merge(mode=mode)

        threads = [threading.Thread(target=merge, args=[mode]) for mode in ("packed", "index")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        features = open_features(made.path)
        assert features.mode == features.summary["mode"]
        np.testing.assert_array_equal(features["u7"], [7, 1])
        assert not list(made.path.glob("*.tmp"))
        (made.path / "summary.json").unlink()  # so that the next round merges again


def test_a_merge_waits_while_another_one_publishes(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one comes between two renames of the first one."""
    replace, others, seen = merged.os.replace, [], []

    def slowly(path: Path, target: Path) -> None:
        replace(path, target)
        if Path(target).name in MERGED and threading.current_thread() is threading.main_thread():
            if not others:
                others.append(threading.Thread(target=made.merge, kwargs={"mode": "index"}))
                others[0].start()
            others[0].join(timeout=0.2)
            seen.append(others[0].is_alive())

    monkeypatch.setattr(merged.os, "replace", slowly)
    made.merge(mode="packed")
    others[0].join()
    assert seen[0]
    assert open_features(made.path).mode == "index"


def test_shards_are_not_deleted_after_another_merge_replaced_this_one(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = merged.publish_set

    def and_another(*arguments: Any) -> Any:
        summary = publish(*arguments)
        monkeypatch.undo()
        made.merge(mode="index")
        return summary

    monkeypatch.setattr(merged, "publish_set", and_another)
    with pytest.raises(StaleShardError, match="another merge replaced this one before its shards were deleted"):
        made.merge(mode="packed", delete_shards=True)
    assert open_features(made.path).mode == "index"
    assert len(list((made.path / "shards").iterdir())) == made.plan.num_shards


def test_a_changed_byte_in_the_manifest_is_refused_by_merge_and_named_by_verify(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made_set(tmp_path / "set", "packed", "utterance")
    manifest = path / "manifest.parquet"
    content = bytearray(manifest.read_bytes())
    content[len(content) // 2] ^= 1
    manifest.write_bytes(content)
    for command in ("verify", "merge"):
        with pytest.raises(SystemExit) as caught:
            main([command, str(path)])
        assert caught.value.code == 3
        assert f"{manifest}: does not match its SHA-256 in identity.json" in capsys.readouterr().err
