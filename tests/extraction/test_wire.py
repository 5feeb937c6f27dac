"""Arrays of decoded blocks, from one process to another through memory files that are filled again."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from voxshard.extraction import wire
from voxshard.extraction.decode import PreparedUtterance
from voxshard.extraction.wire import BlockReceiver, BlockSender, DecodedBlock
from voxshard.store.shard import Failure


@pytest.fixture
def ends() -> Iterator[tuple[BlockSender, BlockReceiver]]:
    ours, theirs = socket.socketpair()
    with Connection(ours.detach()) as one, Connection(theirs.detach()) as other:
        yield BlockSender(one), BlockReceiver(other)


def block_of(number: int, size: int = 5_000) -> DecodedBlock:
    rng = np.random.default_rng(number)
    arrays = [rng.standard_normal(size).astype(np.float32), rng.integers(0, 9, (3, size % 7)).astype(np.int16)]
    results = [PreparedUtterance(arrays, 1.5, "odd"), Failure("u", "SilentError", "nothing")]
    return DecodedBlock(number, results, 0.25)


def passed(sender: BlockSender, receiver: BlockReceiver, block: DecodedBlock) -> DecodedBlock:
    sender.reuse(receiver.take_read())
    sender.send(block)
    received = receiver.receive()
    assert isinstance(received, DecodedBlock)
    return received


def check_same(found: DecodedBlock, wanted: DecodedBlock) -> None:
    assert (found.number, found.busy_s, found.results[1]) == (wanted.number, wanted.busy_s, wanted.results[1])
    one, other = found.results[0], wanted.results[0]
    assert isinstance(one, PreparedUtterance)
    assert isinstance(other, PreparedUtterance)
    assert (one.audio_s, one.warning) == (other.audio_s, other.warning)
    for ours, theirs in zip(one.pieces, other.pieces, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def num_open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_one_memory_file_serves_all_blocks_that_are_read_one_after_the_other(
    ends: tuple[BlockSender, BlockReceiver],
) -> None:
    before = num_open_files()
    for number, size in enumerate([5_000, 3_000, 9_000, 1, 0, 9_000]):
        check_same(passed(*ends, block_of(number, size)), block_of(number, size))
    assert num_open_files() == before + 2  # the file, and its mapping


def test_an_array_that_is_still_held_is_never_overwritten(ends: tuple[BlockSender, BlockReceiver]) -> None:
    kept = {}
    for number in range(20):
        received = passed(*ends, block_of(number)).results[0]
        assert isinstance(received, PreparedUtterance)
        if number % 3 == 0:
            kept[number] = received.pieces[0][10:20].reshape(2, 5)  # a view of a view
        del received
    for number, found in kept.items():
        wanted = block_of(number).results[0]
        assert isinstance(wanted, PreparedUtterance)
        np.testing.assert_array_equal(found.ravel(), wanted.pieces[0][10:20])


def test_what_does_not_fit_in_the_ring_travels_in_files_that_are_given_back(
    ends: tuple[BlockSender, BlockReceiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "RING_BYTES", 50_000)
    before = num_open_files()
    held = [passed(*ends, block_of(number)) for number in range(6)]
    large = passed(*ends, block_of(6, 90_000))
    for number, block in enumerate(held):
        check_same(block, block_of(number))
    check_same(large, block_of(6, 90_000))
    ring = 2 * 2
    assert num_open_files() == before + ring + 5  # mappings of the four others and the large one
    del held, large, block
    assert num_open_files() == before + ring


def test_a_sender_that_ends_amid_a_block_is_noticed() -> None:
    ours, theirs = socket.socketpair()
    with Connection(ours.detach()) as one:
        receiver = BlockReceiver(one)
        with Connection(theirs.detach()) as other:
            header = wire._Header(0, (), 64, 0.0, 0, True)
            other.send(header)
        with pytest.raises(EOFError):
            receiver.receive()
