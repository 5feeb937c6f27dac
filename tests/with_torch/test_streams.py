"""Batches that a CPU computes at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from voxshard.encoders._torch.base import TorchEncoder
from voxshard.encoders._torch.streams import MAX_STREAMS, Streams
from voxshard.encoders.batching import collate
from voxshard.encoders.registry import create

MakeFolder = Callable[..., Path]


@pytest.fixture
def use_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Make this process one that may use so many CPUs."""

    def use(count: int) -> None:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", str(count))
        torch.set_num_threads(count)

    yield use
    torch.set_num_threads(1)


@pytest.fixture
def make_settings(
    make_model: MakeFolder, make_metis: MakeFolder, make_ecapa: MakeFolder
) -> Callable[[str], tuple[str, dict[str, object]]]:
    """Name and settings of an encoder with a small model."""

    def make(kind: str) -> tuple[str, dict[str, object]]:
        if kind == "metis8d":
            return kind, {"weights": str(make_metis()), "layer": 2}
        if kind == "ecapa":
            return kind, {"weights": str(make_ecapa())}
        return "hf", {"weights": str(make_model(kind)), "layer": [0, 1, "last"]}

    return make


@pytest.mark.parametrize("kind", ["wav2vec2-group", "hubert-batch-norm", "wavlm-group", "w2v-bert", "metis8d", "ecapa"])
def test_batches_under_way_at_once_do_not_see_each_other(
    kind: str, make_settings: Callable[[str], tuple[str, dict[str, object]]], use_threads: Callable[[int], None]
) -> None:
    use_threads(4)
    encoder = create(*make_settings(kind))
    encoder.load("cpu")
    assert encoder.in_flight == 8
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(24):
        lengths = rng.integers(4000, 20000, size=rng.integers(1, 4))
        features = [encoder.prepare(rng.standard_normal(length).astype(np.float32)) for length in lengths]
        batches.append(collate(features, encoder.info.batch_policy))
    expected = [encoder.encode(*batch) for batch in batches]
    for wait, outputs in zip([encoder.start(*batch) for batch in batches], expected, strict=True):
        for found, output in zip(wait(), outputs, strict=True):
            for key, array in output.items():
                np.testing.assert_allclose(found[key], array, rtol=0, atol=1e-5 * np.abs(array).max())


@pytest.mark.parametrize(
    ("cpus", "streams", "threads"), [(1, 1, 1), (2, 2, 1), (8, 8, 1), (18, MAX_STREAMS, 2), (128, MAX_STREAMS, 16)]
)
def test_streams_share_the_cpus_and_leave_the_process_its_threads(
    cpus: int, streams: int, threads: int, use_threads: Callable[[int], None]
) -> None:
    use_threads(cpus)
    made: Streams[int] = Streams()
    assert made.count == streams
    assert {made.submit(torch.get_num_threads).result() for _ in range(2 * streams)} == {threads}
    assert torch.get_num_threads() == cpus


def test_no_more_threads_than_the_task_has_cpus(
    use_threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_threads(16)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert Streams().count == 3


def test_what_goes_wrong_in_a_stream_is_raised_where_it_is_waited_for(
    make_model: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = create("hf", {"weights": str(make_model("wav2vec2-group"))})
    assert isinstance(encoder, TorchEncoder)
    encoder.load("cpu")

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(encoder, "forward", broken)
    wait = encoder.start(np.zeros((1, 16000), np.float32), np.array([16000]))
    with pytest.raises(RuntimeError, match="broken"):
        wait()
