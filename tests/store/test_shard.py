from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.shards import edited, verify_shard
from voxshard.errors import (
    CorruptFileError,
    DuplicateIdError,
    FeatureMismatchError,
    FormatVersionError,
    IncompleteError,
    NonFiniteEmbeddingError,
    StaleShardError,
)
from voxshard.store.hdf5 import range_of
from voxshard.store.shard import Failure, ShardHeader, read_shard, storable, write_shard


def header(**changes: Any) -> ShardHeader:
    facts: dict[str, Any] = {
        "encoder": "mfcc", "fingerprint": "f" * 64, "plan_hash": "p" * 64, "shard_index": 0, "num_shards": 1,
        "granularity": "utterance", "sample_rate": 16000, "dim": 2,
    }  # fmt: skip
    return ShardHeader(**{**facts, **changes})


def test_no_call_of_hdf5_copies_more_than_other_threads_can_wait_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 holds the interpreter's lock while it copies."""
    sizes: list[int] = []
    write = h5py.Dataset.__setitem__

    def recorded(self: Any, place: Any, values: Any) -> None:
        sizes.append(values.nbytes)
        write(self, place, values)

    monkeypatch.setattr(h5py.Dataset, "__setitem__", recorded)
    frames = np.ones((1 << 18, 2), np.float32)  # 2 MiB
    write_shard(tmp_path / "x.h5", header(granularity="frames"), [(str(n), {"frames": frames}) for n in range(20)], [])
    assert sum(sizes) == 20 * frames.nbytes
    assert max(sizes) <= 8 << 20


IDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.dictionaries(IDS, st.lists(st.tuples(FLOATS, FLOATS), max_size=4), max_size=6),
    messages=st.lists(st.tuples(IDS, st.just("EmptyAudioError"), IDS), max_size=3),
)
def test_what_is_written_is_read_back(rows: Any, messages: Any, tmp_path: Path) -> None:
    outputs = [
        (name, {"frames": np.array(values, np.float32).reshape(-1, 2), "codes": np.arange(len(values), dtype=np.int32)})
        for name, values in rows.items()
    ]
    failures = [Failure(*row) for row in messages]
    about = header(granularity="frames", software={"numpy": "2.4"}, telemetry={"batches": [1, 2]}, hop_s=0.02)
    write_shard(tmp_path / "shards/x.h5", about, outputs, failures, replace=True)
    shard = read_shard(tmp_path / "shards/x.h5")
    assert shard.header == about
    assert shard.failures == failures
    assert [name for name, _ in shard.outputs()] == list(rows)
    for (_, found), (_, wanted) in zip(shard.outputs(), outputs, strict=True):
        assert found.keys() == wanted.keys()
        for key in wanted:
            np.testing.assert_array_equal(found[key], wanted[key])


def test_the_user_block_names_the_table_and_its_digest_and_the_table_every_block(tmp_path: Path) -> None:
    path = tmp_path / "shards/x.h5"
    size = write_shard(path, header(dim=700), [(f"u{n}", {"embedding": np.ones(700)}) for n in range(800)], [])
    content = path.read_bytes()
    assert len(content) == size
    what, digest, table = content[:512].rstrip(b"\0").decode().splitlines()
    at, facts, count = map(int, table.split()[1:])
    assert what == "voxshard shard 2"
    assert digest == "blake3 " + blake3(table.encode() + b"\n" + content[at:]).hexdigest()
    blocks = np.frombuffer(content, [("stop", "<i8"), ("digest", "V32")], count, at + facts)
    starts = [512, *blocks["stop"][:-1].tolist()]
    assert blocks["stop"][-1] == at
    assert shard_bytes(path, "embeddings")[0] in starts
    for start, (stop, wanted) in zip(starts, blocks.tolist(), strict=True):
        assert 0 < stop - start <= 1 << 20
        assert blake3(content[start:stop]).digest() == wanted


def shard_bytes(path: Path, name: str) -> tuple[int, int]:
    return range_of(read_shard(path).datasets[name])


def test_datasets_are_contiguous_without_filters_and_none_per_utterance(tmp_path: Path) -> None:
    path = tmp_path / "shards/x.h5"
    write_shard(path, header(), [(f"u{n}", {"embedding": np.ones(2)}) for n in range(50)], [])
    with h5py.File(path, "r", locking=False) as file:
        assert sorted(file) == ["embeddings", "failures", "utterance_id"]
        for dataset in file.values():
            assert dataset.chunks is None
            assert dataset.compression is None
        assert file["embeddings"].dtype == np.float32


def test_the_same_outputs_give_the_same_bytes(tmp_path: Path) -> None:
    outputs, failures = [("a", {"embedding": np.ones(2)})], [Failure("b", "E", "m")]
    for name in ("x", "y"):
        write_shard(tmp_path / f"shards/{name}.h5", header(), outputs, failures)
    assert (tmp_path / "shards/x.h5").read_bytes() == (tmp_path / "shards/y.h5").read_bytes()


def test_the_first_writer_wins_unless_told_to_replace(tmp_path: Path) -> None:
    path = tmp_path / "shards/x.h5"
    for value, replace in ((1, False), (2, False), (3, True)):
        write_shard(path, header(), [("a", {"embedding": np.full(2, value)})], [], replace=replace)
        assert read_shard(path).read("embeddings")[0, 0] == (1 if value < 3 else 3)


def test_a_shard_in_which_everything_failed_keeps_its_shape(tmp_path: Path) -> None:
    write_shard(tmp_path / "shards/x.h5", header(num_layers=3), [], [Failure("a", "EmptyAudioError", "no samples")])
    shard = read_shard(tmp_path / "shards/x.h5")
    assert shard.datasets["embeddings"][0] == (0, 3, 2)
    assert shard.outputs() == []


def test_float16_overflow_and_nan_are_told_apart() -> None:
    with pytest.raises(NonFiniteEmbeddingError) as caught:
        storable({"embedding": np.array([1, 70000], np.float32)}, "float16")
    assert str(caught.value) == ("embedding: 1 of 2 values are too large for float16 (at most 65504); store float32")
    with pytest.raises(NonFiniteEmbeddingError) as caught:
        storable({"frames": np.array([[np.nan, 1], [np.inf, 2]])})
    assert str(caught.value) == "frames: 2 of 4 values are NaN or infinite"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"embedding": np.ones(3)}, "b: embedding of shape (3,), mfcc promises (2,)"),
        ({"frames": np.ones((1, 2))}, "b: gave ['frames'], its shard holds ['embedding']; known are "
                                      "['embedding', 'frames', 'codes']"),
    ],
)  # fmt: skip
def test_outputs_that_are_not_what_the_encoder_promises_are_refused(output: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(FeatureMismatchError) as caught:
        write_shard(tmp_path / "shards/x.h5", header(), [("a", {"embedding": np.ones(2)}), ("b", output)], [])
    assert str(caught.value) == message
    assert not list(tmp_path.rglob("*.h5*"))


@pytest.mark.parametrize("codes", [np.zeros((3, 2, 2), np.int32), np.zeros((3, 4), np.int32)])
def test_codes_of_other_numbers_of_codebooks_are_refused(codes: np.ndarray, tmp_path: Path) -> None:
    output = {"frames": np.ones((3, 2)), "codes": np.zeros((3, 2), np.int32)}
    with pytest.raises(FeatureMismatchError, match=r"b: codes of shape \(3, .* promises \('T', 2\)"):
        write_shard(
            tmp_path / "s.h5",
            header(granularity="frames", dim=2),
            [("a", output), ("b", {**output, "codes": codes})],
            [],
        )


def test_frames_and_codes_must_be_as_many(tmp_path: Path) -> None:
    output = {"frames": np.ones((3, 2)), "codes": np.zeros(2)}
    with pytest.raises(FeatureMismatchError, match="a: 3 frames but 2 codes"):
        write_shard(tmp_path / "shards/x.h5", header(granularity="frames"), [("a", output)], [])


@pytest.fixture
def one(make_set: Any) -> Any:
    made = make_set({name: {"embedding": np.arange(4) + n} for n, name in enumerate("abcd")}, shards=[0, 0, 0, 0],
                    failures={"b": ("EmptyAudioError", "no samples")})  # fmt: skip
    made.write()
    return made


def verify(made: Any) -> None:
    verify_shard(made.shard(0), identity=made.identity, plan=made.plan)


def test_a_good_shard_verifies(one: Any) -> None:
    verify(one)


@pytest.mark.parametrize("size", [0, 100, 512, 600, -1])
def test_a_truncated_shard_is_named(one: Any, size: int) -> None:
    path = one.shard(0)
    content = path.read_bytes()
    path.write_bytes(content[:size])
    with pytest.raises(CorruptFileError) as caught:
        verify(one)
    if size in (0, 100):
        assert str(caught.value) == (
            f"{path}: does not start with the 512 bytes of a voxshard shard file; damaged, or something else"
        )
    else:
        assert str(caught.value) == (
            f"{path}: truncated or changed: its {path.stat().st_size} bytes do not match the digests it was sealed "
            "with; run `voxshard verify` on its set"
        )


def test_a_flipped_byte_is_found_wherever_it_is(one: Any) -> None:
    path = one.shard(0)
    content = path.read_bytes()
    for position in (*range(0, 90, 7), *range(512, len(content), 997), len(content) - 1):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises((CorruptFileError, FormatVersionError)):
            verify(one)


def test_a_shard_of_another_fingerprint_is_named(one: Any) -> None:
    one.write(0, fingerprint="e" * 64)
    with pytest.raises(StaleShardError) as caught:
        verify(one)
    assert str(caught.value) == (
        f"{one.shard(0)}: made with fingerprint eeeeeeeeeeee (mfcc), {one.path} is ffffffffffff (mfcc); "
        f"move it away and run `voxshard retry {one.path}`"
    )


def test_a_shard_of_another_plan_is_named(one: Any) -> None:
    one.write(0, plan_hash="e" * 64)
    with pytest.raises(StaleShardError) as caught:
        verify(one)
    assert str(caught.value) == (
        f"{one.shard(0)}: made for plan eeeeeeeeeeee, {one.path} has {one.identity.plan_hash[:12]}; "
        f"move it away and run `voxshard retry {one.path}`"
    )


def test_a_shard_under_anothers_name_is_named(one: Any) -> None:
    one.write(0, shard_index=7, num_shards=9)
    with pytest.raises(StaleShardError, match="holds shard 7 of 9, its name states 0 of 1"):
        verify(one)


def test_an_id_that_stands_twice_is_named(one: Any) -> None:
    path = one.shard(0)
    with edited(path) as file:
        file["utterance_id"][1] = "a"
    with pytest.raises(DuplicateIdError) as caught:
        verify(one)
    assert (
        str(caught.value)
        == f"{path}: utterance 'a' appears in it twice; move it away and run `voxshard retry {one.path}`"
    )


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (["a", "c", "x"], IncompleteError, "1 of its 4 utterances are missing, first 'd'"),
        (["c", "a", "d"], StaleShardError, "its utterances are not in the order of the manifest"),
        (["a", "c", "d", "x"], IncompleteError, "1 utterances are not in its plan, first 'x'"),
        (["a", "c"], IncompleteError, "1 of its 4 utterances are missing, first 'd'"),
    ],
)
def test_every_row_of_the_plan_is_there_once_in_order(one: Any, ids: list[str], error: Any, message: str) -> None:
    outputs = [(name, {"embedding": np.zeros(4)}) for name in ids]
    write_shard(one.shard(0), one.header(0), outputs, [Failure("b", "EmptyAudioError", "no samples")], replace=True)
    with pytest.raises(error) as caught:
        verify(one)
    assert str(caught.value) == f"{one.shard(0)}: {message}; move it away and run `voxshard retry {one.path}`"


def test_a_missing_shard_says_how_to_make_it(one: Any) -> None:
    one.shard(0).unlink()
    with pytest.raises(IncompleteError) as caught:
        verify(one)
    assert str(caught.value) == f"{one.shard(0)}: no such shard; run `voxshard retry {one.path}`"


def test_a_newer_format_is_named_not_guessed(one: Any) -> None:
    path = one.shard(0)
    path.write_bytes(path.read_bytes().replace(b"voxshard shard 2\n", b"voxshard shard 3\n"))
    with pytest.raises(FormatVersionError) as caught:
        read_shard(path)
    assert str(caught.value) == f"{path}: format 3, this voxshard reads up to 2; update it"
