from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from voxshard import files, open_features
from voxshard.errors import (
    ConfigError,
    CorruptFileError,
    DuplicateIdError,
    IdentityError,
    IncompleteError,
    ManifestError,
    StaleShardError,
    TooManyFailuresError,
)
from voxshard.manifest import Manifest
from voxshard.store import merge as merging
from voxshard.store.features import is_stale
from voxshard.store.merged import mark_stale
from voxshard.store.shard import Failure, write_shard

IDS = [f"part {n}/ü{n}.wav" for n in range(10)]
SPLITS = ["train"] * 6 + ["dev"] * 3 + [None]
VECTORS = {name: {"embedding": np.array([n, -n, 0.5], np.float32)} for n, name in enumerate(IDS)}
MERGED = ("features.h5", "utterances.parquet", "failures.csv", "summary.json")


@pytest.fixture
def made(make_set: Any) -> Any:
    made = make_set(VECTORS, splits=SPLITS, failures={IDS[4]: ("EmptyAudioError", "has no samples")},
                    columns={"label": list("xyxyxyxyxy")})  # fmt: skip
    made.write()
    return made


@pytest.mark.parametrize("mode", ["packed", "index"])
def test_every_row_is_accounted_for_exactly_once(made: Any, mode: str) -> None:
    summary = made.merge(mode=mode)
    assert summary["utterances"] == {"total": 10, "ok": 9, "failed": 1, "pending": 0, "missing": 0}
    good = [name for name in IDS if name != IDS[4]]
    features = open_features(made.path)
    assert features.ids == good
    assert features.table["utterance_id"].to_pylist() == good
    assert features.table["label"].to_pylist() == list("xyxyyxyxy")
    for name in good:
        np.testing.assert_array_equal(features[name], VECTORS[name]["embedding"])
    with made.folder.failures.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows == [
        {"utterance_id": IDS[4], "path": f"audio/{IDS[4]}", "split": "train", "error": "EmptyAudioError",
         "message": "has no samples", "merge_id": summary["merge_id"]}
    ]  # fmt: skip


def test_the_packed_file_has_the_documented_layout(made: Any) -> None:
    made.merge()
    with h5py.File(made.folder.features, "r", locking=False) as file:
        assert file["utterance_id"].asstr()[:].tolist() == [name for name in IDS if name != IDS[4]]
        assert file["embeddings"].chunks is None
        np.testing.assert_array_equal(file["embeddings"][:, 0], [0, 1, 2, 3, 5, 6, 7, 8, 9])
        assert file["failures"]["error"].tolist() == [b"EmptyAudioError"]
        assert file.attrs["fingerprint"] == "f" * 64
    assert made.folder.features.read_bytes().startswith(b"voxshard features 2\nblake3 ")


def test_frames_are_cut_by_offsets(make_set: Any) -> None:
    frames = {f"u{n}": {"frames": np.full((n + 1, 2), n, np.float32), "codes": np.full(n + 1, n)} for n in range(5)}
    made = make_set(frames, shards=[0, 0, 1, 1, 2], failures={"u2": ("EmptyAudioError", "")})
    made.write()
    made.merge()
    with h5py.File(made.folder.features, "r", locking=False) as file:
        assert file["offsets"][:].tolist() == [0, 1, 3, 7, 12]
        assert file["frames"].shape == (12, 2)
        assert file["codes"][:].tolist() == [0, 1, 1, 3, 3, 3, 3, 4, 4, 4, 4, 4]
    table = pq.read_table(made.folder.utterances)
    assert table["first_frame"].to_pylist() == [0, 1, 3, 7]
    assert table["num_frames"].to_pylist() == [1, 2, 4, 5]


@pytest.mark.parametrize("mode", ["packed", "index"])
def test_codes_of_several_codebooks_keep_their_columns(mode: str, make_set: Any) -> None:
    codes = {f"u{n}": np.arange(3 * (n + 1), dtype=np.int32).reshape(-1, 3) + n for n in range(5)}
    made = make_set(
        {name: {"frames": np.ones((len(rows), 2), np.float32), "codes": rows} for name, rows in codes.items()},
        shards=[0, 0, 1, 1, 2],
        failures={"u4": ("EmptyAudioError", "")},
    )
    made.write()
    made.merge(mode=mode)
    features = open_features(made.path)
    for name in features.ids:
        np.testing.assert_array_equal(features.codes(name), codes[name])
    assert next(iter(features.iter_batches())).codes.shape == (10, 3)


def test_a_split_nobody_has_begun_is_pending(made: Any) -> None:
    for index in (2, 3):
        made.shard(index).unlink()
    summary = made.merge()
    assert summary["splits"]["dev"] == {"total": 3, "ok": 0, "failed": 0, "pending": 3, "missing": 0}
    assert summary["splits"]["(no split)"]["pending"] == 1
    assert open_features(made.path).ids == [name for name in IDS[:6] if name != IDS[4]]
    made.write(2, 3)
    assert is_stale(made.path)
    assert made.merge()["utterances"]["ok"] == 9
    assert not is_stale(made.path)


def test_a_missing_shard_of_a_split_that_was_begun_is_refused(made: Any) -> None:
    made.shard(1).unlink()
    with pytest.raises(IncompleteError) as caught:
        made.merge()
    assert str(caught.value) == (
        f"{made.path}: 1 of 4 shards are missing: shard-00001-of-00004.h5; "
        f"run `voxshard retry {made.path}`, or merge what exists with --allow-missing"
    )
    assert not made.folder.features.exists()
    summary = made.merge(allow_missing=True)
    assert summary["shards"]["missing"] == ["shard-00001-of-00004.h5"]
    assert summary["utterances"] == {"total": 10, "ok": 7, "failed": 0, "pending": 0, "missing": 3}


def test_nothing_extracted_yet_is_refused_even_with_allow_missing(make_set: Any) -> None:
    made = make_set(VECTORS)
    with pytest.raises(IncompleteError) as caught:
        made.merge(allow_missing=True)
    assert str(caught.value) == f"{made.path}: no shard is done yet; run `voxshard retry {made.path}`"


def test_no_feature_set_says_how_to_make_one(tmp_path: Path, made: Any) -> None:
    made.folder.identity.unlink()
    with pytest.raises(IncompleteError) as caught:
        made.merge()
    assert str(caught.value) == (
        f"{made.path}: no feature set here (no identity.json); make one with `voxshard extract`"
    )


@pytest.mark.parametrize("mode", ["packed", "index"])
def test_a_flipped_byte_is_refused(made: Any, mode: str) -> None:
    path = made.shard(2)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptFileError) as caught:
        made.merge(mode=mode)
    assert str(caught.value) == (
        f"{path}: truncated or changed: its {len(content)} bytes do not match the digests it was sealed with; "
        "run `voxshard verify` on its set"
    )
    assert not any((made.path / name).exists() for name in MERGED)
    assert not list(made.path.rglob("*.tmp"))


def test_a_truncated_shard_is_refused(made: Any) -> None:
    path = made.shard(2)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptFileError, match=str(path)):
        made.merge()


def test_a_shard_of_another_fingerprint_is_refused(made: Any) -> None:
    made.write(1, fingerprint="e" * 64)
    with pytest.raises(StaleShardError, match="made with fingerprint eeeeeeeeeeee"):
        made.merge()


def test_a_shard_of_another_plan_is_refused(made: Any) -> None:
    stray = made.folder.shards / "shard-00001-of-00099.h5"
    stray.write_bytes(made.shard(1).read_bytes())
    with pytest.raises(StaleShardError) as caught:
        made.merge()
    assert str(caught.value) == f"{stray}: a shard of another plan than this one of 4 shards; move it away"


def test_a_duplicated_id_is_refused(made: Any) -> None:
    outputs = [(name, VECTORS[name]) for name in (IDS[0], IDS[1], IDS[1], IDS[2])]
    write_shard(made.shard(0), made.header(0), outputs, [], replace=True)
    with pytest.raises(DuplicateIdError, match="appears in it twice"):
        made.merge()


def test_another_manifest_in_the_folder_is_refused(made: Any) -> None:
    Manifest.from_rows([{"utterance_id": "x", "path": "x"}], root="/", corpus="folder").write(made.folder.manifest)
    with pytest.raises(IdentityError, match="its utterances are not those of"):
        made.merge()


def test_the_same_shards_give_the_same_files(made: Any, make_set: Any) -> None:
    other = make_set(
        VECTORS, name="other", splits=SPLITS, failures=made.failures, columns={"label": list("xyxyxyxyxy")}
    )
    other.write()
    made.merge()
    other.merge()
    for name in MERGED[:3]:
        assert (made.path / name).read_bytes() == (other.path / name).read_bytes()


def test_an_intact_set_is_not_merged_again_and_a_damaged_one_is(made: Any) -> None:
    made.merge()
    before = made.folder.features.stat().st_ino
    made.merge()
    assert made.folder.features.stat().st_ino == before
    content = bytearray(made.folder.features.read_bytes())
    content[-1] ^= 1
    made.folder.features.write_bytes(content)
    made.merge()
    assert made.folder.features.stat().st_ino != before
    open_features(made.path)


def test_labels_can_come_from_another_manifest(made: Any, tmp_path: Path) -> None:
    rows = [{"utterance_id": name, "path": name, "emotion": f"e{n}"} for n, name in enumerate(IDS)]
    other = Manifest.from_rows([*reversed(rows), {"utterance_id": "more", "path": "more"}], root="/", corpus="table")
    other.write(tmp_path / "labels.parquet")
    made.merge(labels=tmp_path / "labels.parquet")
    assert open_features(made.path).table["emotion"].to_pylist() == [f"e{n}" for n in range(10) if n != 4]
    Manifest.from_rows(rows[:8], root="/", corpus="table").write(tmp_path / "few.parquet")
    with pytest.raises(ManifestError) as caught:
        made.merge(labels=tmp_path / "few.parquet")
    assert str(caught.value) == (
        f"{tmp_path}/few.parquet: 2 of the 9 utterances of {made.path} are not in it, first {IDS[8]!r}; "
        "--labels wants a manifest with every one of them"
    )


def test_different_software_is_a_warning(made: Any) -> None:
    made.write(1, software={"voxshard": "0.1.0", "torch": "2.11.0"})
    made.write(2, software={"voxshard": "0.2.0", "torch": "2.11.0"})
    assert made.merge()["warnings"] == [
        "torch in several versions: 2.11.0, none", "voxshard in several versions: 0.1.0, 0.2.0"
    ]  # fmt: skip


def test_different_images_are_a_warning(made: Any) -> None:
    made.write(1, image_digest="sha256:0123456789abcdef")
    made.write(2, image_digest="sha256:fedcba9876543210")
    assert made.merge()["warnings"] == ["shards of several images: none, sha256:0123456789ab, sha256:fedcba987654"]


def failing(make_set: Any, count: int) -> Any:
    outputs = {f"u{n}": {"embedding": np.ones(2)} for n in range(100)}
    reasons = {f"u{n}": ("EmptyAudioError" if n % 3 else "TooShortError", "why") for n in range(count)}
    made = make_set(outputs, shards=[n // 25 for n in range(100)], failures=reasons)
    made.write()
    return made


def test_too_many_failures_stop_after_everything_is_published(make_set: Any) -> None:
    made = failing(make_set, 21)
    with pytest.raises(TooManyFailuresError) as caught:
        made.merge()
    assert str(caught.value) == (
        f"{made.path}: 21 of 100 utterances failed (21.0%, allowed are 5.0%): 14 EmptyAudioError, 7 TooShortError; "
        f"see {made.folder.failures}. What is good was merged. "
        f"Fix the recordings and run `voxshard retry {made.path} --failed`, "
        f"or accept it with `voxshard merge {made.path} --max-failure-fraction 0.21`"
    )
    assert len(open_features(made.path)) == 79
    assert made.merge(max_failure_fraction=0.21)["utterances"]["failed"] == 21
    files.publish_bytes(made.folder.config, b"max_failure_fraction: 0.5\n")
    made.merge()


def test_fewer_than_twenty_failures_are_never_too_many(make_set: Any) -> None:
    assert failing(make_set, 19).merge()["utterances"]["failed"] == 19


def test_deleting_shards_keeps_the_verified_packed_file(made: Any) -> None:
    with pytest.raises(ConfigError, match="an index reads from its shards"):
        made.merge(mode="index", delete_shards=True)
    made.merge(delete_shards=True)
    assert not list(made.folder.shards.iterdir())
    assert len(open_features(made.path)) == 9
    assert not is_stale(made.path)
    made.merge()
    with pytest.raises(IncompleteError, match="its shards were deleted after an earlier merge"):
        made.merge(mode="index")


def test_shards_are_not_deleted_while_others_are_to_come(made: Any) -> None:
    made.shard(3).unlink()
    with pytest.raises(ConfigError) as caught:
        made.merge(delete_shards=True)
    assert str(caught.value) == (
        "--delete-shards: 1 of 4 shards are still to come, and they could not be merged with deleted ones; "
        "finish them first"
    )
    assert made.shard(0).exists()


def test_a_rewritten_shard_makes_the_set_stale(made: Any) -> None:
    made.merge(mode="index")
    features = open_features(made.path)
    made.failures.clear()
    made.write(1)
    assert is_stale(made.path)
    with pytest.raises(StaleShardError) as caught:
        features[IDS[3]]
    assert str(caught.value) == (
        f"{made.shard(1)}: changed after the merge; "
        f"run `voxshard verify {made.path}`, then `voxshard merge {made.path}`"
    )
    mark_stale(made.folder)
    with pytest.raises(StaleShardError) as caught:
        open_features(made.path)
    assert str(caught.value) == f"{made.path}: shards were rewritten after the merge; run `voxshard merge {made.path}`"
    assert made.merge()["utterances"]["ok"] == 10
    assert open_features(made.path)[IDS[4]][0] == 4


def test_temporaries_go_once_the_set_is_complete_but_not_before(made: Any) -> None:
    left = [folder / "x.h5.otherhost.00000000.123.0123456789ab.tmp" for folder in (made.path, made.folder.shards)]
    for path in left:
        path.write_bytes(b"")
        os.utime(path, (0, 0))
    made.shard(3).unlink()
    made.merge()
    assert all(path.exists() for path in left)
    made.write(3)
    made.merge()
    assert not any(path.exists() for path in left)


def test_a_set_of_nothing_but_failures_can_be_merged(make_set: Any) -> None:
    made = make_set({"a": {}, "b": {}}, failures=dict.fromkeys("ab", ("EmptyAudioError", "no samples")))
    made.write()
    made.merge()
    features = open_features(made.path)
    assert len(features) == 0
    assert features.ids == []
    assert list(features.iter_batches()) == []
    assert features.embeddings.shape == (0, 4)


def test_more_shards_than_may_be_open(make_set: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = {f"u{n}": {"embedding": np.array([n, 1.0])} for n in range(200)}
    made = make_set(outputs, shards=range(200))
    made.write()
    made.merge(mode="index")
    features = open_features(made.path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    np.testing.assert_array_equal(np.asarray(features.embeddings)[:, 0], np.arange(200))
    np.testing.assert_array_equal(features.embeddings[[199, 0, -1]][:, 0], [199, 0, 199])
    np.testing.assert_array_equal(features.embeddings[3:190:50][:, 0], [3, 53, 103, 153])
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 2 * 64


_MERGE = """
import sys
from pathlib import Path
from voxshard.stages.merge import MergeConfig, run
run(MergeConfig(features=Path(sys.argv[1])))
"""


def test_a_merge_killed_anywhere_is_done_by_the_next(make_set: Any) -> None:
    outputs = {f"u{n}": {"embedding": np.full(20000, n, np.float32)} for n in range(400)}
    made = make_set(outputs, shards=[n // 10 for n in range(400)])
    made.write()
    killed = 0
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", _MERGE, made.path])
        while process.poll() is None and not list(made.path.glob("features.h5*.tmp")):
            time.sleep(0.002)
        time.sleep(0.01 * killed)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        if made.folder.summary.exists():
            break
    assert killed
    subprocess.run([sys.executable, "-c", _MERGE, made.path], check=True)
    features = open_features(made.path)
    np.testing.assert_array_equal(features.embeddings[:, 7], np.arange(400))
    assert not list(made.path.rglob("*.tmp"))
    assert json.loads(made.folder.summary.read_text())["utterances"]["ok"] == 400


def test_files_of_two_merges_are_not_read_as_one(made: Any) -> None:
    made.merge()
    before = made.folder.summary.read_bytes(), made.folder.utterances.read_bytes()
    made.failures.clear()
    made.write(1)
    made.merge()
    for path, content in zip((made.folder.summary, made.folder.utterances), before, strict=True):
        now = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(IncompleteError) as caught:
            open_features(made.path)
        assert str(caught.value) == (
            f"{made.path}: its files come from different merges; run `voxshard merge {made.path}`"
        )
        path.write_bytes(now)
    open_features(made.path)


def test_large_sets_stay_in_their_shards(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "PACKED_UP_TO_BYTES", 100)
    assert made.merge()["mode"] == "index"
    assert made.merge(mode="packed")["mode"] == "packed"


def test_shards_that_hold_different_things_are_refused(make_set: Any) -> None:
    frames = {f"u{n}": {"frames": np.ones((2, 2))} for n in range(4)}
    made = make_set(frames, shards=[0, 0, 1, 1])
    made.write(0)
    outputs = [(name, {"frames": np.ones((2, 2)), "codes": np.ones(2)}) for name in ("u2", "u3")]
    write_shard(made.shard(1), made.header(1), outputs, [])
    with pytest.raises(CorruptFileError) as caught:
        made.merge()
    assert str(caught.value) == (
        f"{made.shard(0)} and {made.shard(1)} do not hold the same kind of /codes; verify them"
    )


def test_failures_keep_the_order_of_the_manifest_within_a_shard(make_set: Any) -> None:
    made = make_set({name: {"embedding": np.ones(2)} for name in "abc"}, shards=[0, 0, 0])
    failures = [Failure("c", "EmptyAudioError", "1"), Failure("a", "EmptyAudioError", "2")]
    write_shard(made.shard(0), made.header(0), [("b", made.outputs["b"])], failures)
    made.merge()
    assert [row["utterance_id"] for row in open_features(made.path).failures] == ["a", "c"]
