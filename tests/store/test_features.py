from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxshard import open_features
from voxshard.errors import CorruptFileError, DataError, FormatVersionError, IncompleteError
from voxshard.store.features import FeatureSet

IDS = [f"a/{n}.wav" for n in range(12)]


@pytest.fixture(params=["packed", "index"])
def vectors(request: pytest.FixtureRequest, make_set: Any) -> FeatureSet:
    made = make_set({name: {"embedding": np.array([n, 2 * n], np.float32)} for n, name in enumerate(IDS)},
                    failures={IDS[5]: ("TruncatedAudioError", "ends after 3 of 10 s")})  # fmt: skip
    made.write()
    made.merge(mode=request.param)
    return open_features(made.path)


@pytest.fixture(params=["packed", "index"])
def frames(request: pytest.FixtureRequest, make_set: Any) -> FeatureSet:
    outputs = {name: {"frames": np.full((n % 3 + 1, 2), n, np.float32)} for n, name in enumerate(IDS)}
    made = make_set(outputs, name="frames")
    made.write()
    made.merge(mode=request.param)
    return open_features(made.path)


def test_a_set_is_a_mapping_from_ids_to_embeddings(vectors: FeatureSet) -> None:
    assert len(vectors) == 11
    assert IDS[0] in vectors
    assert IDS[5] not in vectors
    assert 7 not in vectors
    assert list(vectors) == vectors.ids == [name for name in IDS if name != IDS[5]]
    assert vectors[IDS[11]].tolist() == [11, 22]
    assert vectors.embeddings.shape == (11, 2)
    assert repr(vectors) == f"<FeatureSet {vectors.path}: 11 utterances, mfcc, utterance of 2>"


def test_what_is_handed_out_can_be_written_to(vectors: FeatureSet) -> None:
    row = vectors[IDS[1]]
    row[:] = 99
    assert vectors[IDS[1]].tolist() == [1, 2]


def test_rows_of_many_ids_at_once(vectors: FeatureSet) -> None:
    assert vectors.rows([IDS[11], "no such", IDS[0]]).tolist() == [10, -1, 0]
    assert vectors.rows([]).tolist() == []


def test_an_id_that_failed_says_why(vectors: FeatureSet) -> None:
    with pytest.raises(KeyError) as caught:
        vectors[IDS[5]]
    assert caught.value.args == ("a/5.wav failed: TruncatedAudioError: ends after 3 of 10 s",)


def test_an_unknown_id_says_what_ids_look_like(vectors: FeatureSet) -> None:
    with pytest.raises(KeyError) as caught:
        vectors["5.wav"]
    assert caught.value.args == (
        f"5.wav is not among the 11 utterances of {vectors.path}; ids here look like 'a/0.wav'",
    )


def test_frames_of_one_utterance(frames: FeatureSet) -> None:
    assert frames.granularity == "frames"
    assert frames[IDS[2]].tolist() == frames.frames(IDS[2]).tolist() == [[2, 2]] * 3
    with pytest.raises(DataError) as caught:
        _ = frames.embeddings
    assert str(caught.value) == f"{frames.path}: has no embeddings, but frames"


@pytest.mark.parametrize("size", [1, 4, 100])
def test_batches_go_through_everything_in_order(frames: FeatureSet, vectors: FeatureSet, size: int) -> None:
    batches = list(vectors.iter_batches(size))
    assert [name for batch in batches for name in batch.ids] == vectors.ids
    np.testing.assert_array_equal(
        np.concatenate([batch.embeddings for batch in batches]), np.asarray(vectors.embeddings)
    )
    for batch in frames.iter_batches(size):
        for number, name in enumerate(batch.ids):
            part = batch.frames[batch.offsets[number] : batch.offsets[number + 1]]
            np.testing.assert_array_equal(part, frames[name])


def test_batches_of_chosen_rows(frames: FeatureSet) -> None:
    (batch,) = frames.iter_batches(rows=[2, 3, 8, 0])
    assert batch.ids == [IDS[2], IDS[3], IDS[8], IDS[0]]
    assert batch.offsets.tolist() == [0, 3, 4, 7, 8]
    assert batch.frames[:, 0].tolist() == [2, 2, 2, 3, 8, 8, 8, 0]


def _look_up(features: FeatureSet, name: str, queue: Any) -> None:
    queue.put(features[name].tolist())


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_a_set_works_in_forked_and_spawned_processes(vectors: FeatureSet, method: str) -> None:
    vectors[IDS[0]]
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    processes = [context.Process(target=_look_up, args=(vectors, IDS[n], queue)) for n in (3, 4)]
    for process in processes:
        process.start()
    assert sorted(queue.get(timeout=600) for _ in processes) == [[3, 6], [4, 8]]
    for process in processes:
        process.join()


def test_a_pickled_set_is_a_path(vectors: FeatureSet) -> None:
    content = pickle.dumps(vectors)
    assert len(content) < 500
    assert pickle.loads(content)[IDS[3]].tolist() == [3, 6]  # noqa: S301


def test_descriptors_are_given_back(vectors: FeatureSet) -> None:
    path = vectors.path
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(20):
        features = open_features(path)
        features[IDS[0]]
        del features
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_nothing_merged_says_how_to(make_set: Any) -> None:
    made = make_set({"a": {"embedding": np.ones(2)}})
    made.write()
    with pytest.raises(IncompleteError) as caught:
        open_features(made.path)
    assert str(caught.value) == f"{made.path}: no merged feature set here; run `voxshard merge {made.path}`"


def test_a_folder_that_does_not_exist_is_not_told_to_be_merged(tmp_path: Path) -> None:
    with pytest.raises(IncompleteError) as caught:
        open_features(tmp_path / "set")
    assert str(caught.value) == f"{tmp_path / 'set'}: no such folder; give the folder of a merged feature set"


def test_a_newer_format_is_named(vectors: FeatureSet) -> None:
    path = vectors.path / "summary.json"
    path.write_text(path.read_text().replace('"format_version": 2', '"format_version": 3'))
    with pytest.raises(FormatVersionError) as caught:
        open_features(vectors.path)
    assert str(caught.value) == f"{path}: format 3, this voxshard reads up to 2; update it"


@pytest.mark.parametrize("size", [0, 700, -1])
def test_a_truncated_file_is_an_error_not_zeros(vectors: FeatureSet, size: int) -> None:
    path = vectors.path / "features.h5"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CorruptFileError, match=str(path)):
        open_features(vectors.path)


def test_an_indexed_set_misses_a_shard_that_is_gone(make_set: Any) -> None:
    made = make_set({name: {"embedding": np.ones(2)} for name in IDS})
    made.write()
    made.merge(mode="index")
    made.shard(0).unlink()
    features = open_features(made.path)
    assert features[IDS[4]].tolist() == [1, 1]
    with pytest.raises(IncompleteError) as caught:
        features[IDS[0]]
    assert str(caught.value) == (
        f"{made.shard(0)}: this set reads from its shards, and this one is gone; "
        f"run `voxshard verify {made.path}`, then `voxshard merge {made.path}`"
    )
