from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from conftest import MakeCorpus
from support.raising_preparer import RaisingPreparer
from support.toy_encoder import ToyPreparer
from voxshard.encoders.base import ClipSettings
from voxshard.errors import (
    BackendUnavailableError,
    EnvironmentProblemError,
    StoppedError,
    TransientFaultError,
    UnexpectedFaultError,
)
from voxshard.extraction import pool as pooling
from voxshard.extraction.decode import Decoder, PreparedUtterance
from voxshard.extraction.pool import DecodePool
from voxshard.extraction.wire import Block, DecodedBlock
from voxshard.manifest import Manifest
from voxshard.store.shard import Failure


@pytest.fixture(autouse=True)
def workers_see_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent), prepend=os.pathsep)


def decoder_of(manifest: Manifest, *, crash_on: Path | None = None, delays: tuple[float, ...] = ()) -> Decoder:
    preparer = ToyPreparer(str(crash_on)) if crash_on else None
    return Decoder(manifest.root, 16000, 160, None, ClipSettings(), preparer, delays)


def blocks_of(manifest: Manifest, size: int) -> Iterator[Block]:
    utterances = list(manifest.utterances())
    for number, start in enumerate(range(0, len(utterances), size)):
        yield Block(number, utterances[start : start + size])


def kinds(blocks: list[DecodedBlock]) -> list[str]:
    return [
        "ok" if isinstance(result, PreparedUtterance) else result.error for block in blocks for result in block.results
    ]


def test_blocks_come_back_in_order_with_the_audio_as_read(make_corpus: MakeCorpus) -> None:
    manifest = Manifest.read(make_corpus([0.1 + 0.01 * n for n in range(40)]))
    with DecodePool(decoder_of(manifest), 2) as pool:
        blocks = list(pool.decode(blocks_of(manifest, 7)))
    assert [block.number for block in blocks] == list(range(6))
    results = [result for block in blocks for result in block.results]
    for utterance, result in zip(manifest.utterances(), results, strict=True):
        assert isinstance(result, PreparedUtterance)
        expected, _ = soundfile.read(Path(manifest.root, str(utterance.path)), dtype="float32")
        np.testing.assert_array_equal(result.pieces[0], expected)


def test_a_worker_killed_from_outside_costs_nothing_but_time(make_corpus: MakeCorpus) -> None:
    manifest = Manifest.read(make_corpus([0.1] * 60))
    told: list[str] = []
    with DecodePool(decoder_of(manifest), 2, on_death=told.append) as pool:
        blocks = []
        for block in pool.decode(blocks_of(manifest, 4)):
            if block.number in (2, 5):
                os.kill(pool._workers[block.number // 5].process.pid, signal.SIGKILL)
            blocks.append(block)
    assert kinds(blocks) == ["ok"] * 60
    assert told == ["a decode worker ended with code -9; its recordings are decoded again"] * 2


def test_a_recording_that_kills_its_worker_every_time_is_one_named_failure(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    manifest = Manifest.read(make_corpus([0.1] * 5 + [0.2] + [0.1] * 5))
    (tmp_path / "crash").mkdir()
    (tmp_path / "crash" / "3200").touch()
    with DecodePool(decoder_of(manifest, crash_on=tmp_path / "crash"), 2) as pool:
        blocks = list(pool.decode(blocks_of(manifest, 11)))
    assert kinds(blocks) == ["ok"] * 5 + ["WorkerCrashedError"] + ["ok"] * 5
    failure = blocks[0].results[5]
    assert failure == Failure(
        "u0005",
        "WorkerCrashedError",
        "decoding it ended the worker process (signal 9), 2 times, with nothing else in it",
    )


def test_a_recording_for_which_memory_suffices_alone_is_decoded(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    """Its worker is killed while others decode, as by the OOM killer, and not when they do nothing."""
    manifest = Manifest.read(make_corpus([0.1] * 5 + [0.2] + [0.1] * 60))
    crash = tmp_path / "crash"
    crash.mkdir()
    (crash / "3200").touch()

    def note(_: str) -> None:
        deaths.append(1)

    deaths: list[int] = []
    busy: list[int] = []
    with DecodePool(decoder_of(manifest, crash_on=crash), 2, on_death=note) as pool:

        def look() -> None:
            under_way = [block.number for worker in pool._workers for block in worker.blocks]
            if pool._last_tries.intersection(under_way):
                busy.append(len(under_way))

        dispatch = pool._dispatch

        def dispatch_and_look() -> None:
            if len(deaths) == 2:
                (crash / "3200").unlink(missing_ok=True)
            dispatch()
            look()

        pool._dispatch = dispatch_and_look  # type: ignore[method-assign]
        assert kinds(list(pool.decode(blocks_of(manifest, 6)))) == ["ok"] * 66
    assert len(deaths) == 2
    assert set(busy) == {1}


def test_workers_that_are_killed_whatever_they_decode_lack_memory(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    manifest = Manifest.read(make_corpus([0.1] * 4))
    (tmp_path / "crash").mkdir()
    (tmp_path / "crash" / "1600").touch()
    with (
        DecodePool(decoder_of(manifest, crash_on=tmp_path / "crash"), 2) as pool,
        pytest.raises(TransientFaultError, match=r"'u000\d', 'u000\d'\), probably for lack of memory; .*more memory"),
    ):
        list(pool.decode(blocks_of(manifest, 2)))


def test_storage_that_fails_for_a_while_is_waited_for(make_corpus: MakeCorpus) -> None:
    manifest = Manifest.read(make_corpus([0.1] * 4))
    root = Path(manifest.root)
    away = root.with_name("away")
    root.rename(away)
    with DecodePool(decoder_of(manifest, delays=(0.2,) * 50), 1) as pool:
        decoding = pool.decode(blocks_of(manifest, 4))
        polls = iter(range(1000))
        pool._check = lambda: away.rename(root) if next(polls) == 4 else None  # back after two seconds or so
        assert kinds(list(decoding)) == ["ok"] * 4


def test_storage_that_stays_away_ends_the_task_and_blames_no_recording(make_corpus: MakeCorpus) -> None:
    manifest = Manifest.read(make_corpus([0.1] * 4))
    Path(manifest.root).rename(Path(manifest.root).with_name("away"))
    with (
        DecodePool(decoder_of(manifest, delays=(0.01, 0.01)), 1) as pool,
        pytest.raises(TransientFaultError, match=r"reading .*corpus keeps failing: FileNotFoundError.*run the same"),
    ):
        list(pool.decode(blocks_of(manifest, 4)))


def test_a_link_to_where_nothing_is_mounted_blames_the_storage_with_the_callers_hint(make_corpus: MakeCorpus) -> None:
    manifest = Manifest.read(make_corpus([0.1] * 3))
    Path(manifest.root, "u0001.wav").unlink()
    Path(manifest.root, "u0001.wav").symlink_to("/not-shown-to-the-image/u0001.wav")
    with (
        DecodePool(decoder_of(manifest, delays=(0.01, 0.01)), 1, missing_hint="; look at the binds") as pool,
        pytest.raises(TransientFaultError, match=r"u0001\.wav.*into the same folder; look at the binds$"),
    ):
        list(pool.decode(blocks_of(manifest, 3)))


def test_a_recording_gone_from_its_folder_is_a_failure(make_corpus: MakeCorpus) -> None:
    manifest = Manifest.read(make_corpus([0.1] * 3))
    Path(manifest.root, "u0001.wav").unlink()
    with DecodePool(decoder_of(manifest, delays=(0.01, 0.01)), 1) as pool:
        blocks = list(pool.decode(blocks_of(manifest, 3)))
    assert blocks[0].results[1] == Failure("u0001", "MissingRecordingError", "the file is gone, its folder exists")
    assert kinds(blocks) == ["ok", "MissingRecordingError", "ok"]


def test_workers_that_cannot_start_end_the_task(make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest.read(make_corpus([0.1]))
    monkeypatch.setattr(pooling.sys, "executable", "/bin/false")
    with (
        DecodePool(decoder_of(manifest), 1) as pool,
        pytest.raises(TransientFaultError, match=r"decode workers crash at start-up \(exit code 1\)"),
    ):
        list(pool.decode(blocks_of(manifest, 1)))


def test_a_block_that_takes_too_long_twice_ends_the_task(make_corpus: MakeCorpus) -> None:
    manifest = Manifest.read(make_corpus([0.1] * 2))
    Path(manifest.root).rename(Path(manifest.root).with_name("away"))  # so that reading waits
    with (
        DecodePool(decoder_of(manifest, delays=(600.0,)), 1, block_timeout_s=1.0) as pool,
        pytest.raises(TransientFaultError, match=r"decoding 2 recordings from 'u0000' on took over 1 s, twice"),
    ):
        list(pool.decode(blocks_of(manifest, 2)))


def test_a_stop_is_heard_while_waiting_for_storage(make_corpus: MakeCorpus) -> None:
    manifest = Manifest.read(make_corpus([0.1]))
    Path(manifest.root).rename(Path(manifest.root).with_name("away"))

    def stop() -> None:
        raise StoppedError("stopped")

    with DecodePool(decoder_of(manifest, delays=(600.0,)), 1, check=stop) as pool, pytest.raises(StoppedError):
        list(pool.decode(blocks_of(manifest, 1)))


def test_closing_leaves_no_worker_behind(make_corpus: MakeCorpus) -> None:
    manifest = Manifest.read(make_corpus([0.1] * 8))
    with DecodePool(decoder_of(manifest), 2) as pool:
        next(iter(pool.decode(blocks_of(manifest, 1))))
        pids = [worker.process.pid for worker in pool._workers]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            ModuleNotFoundError("No module named 'numba'"),
            UnexpectedFaultError,
            r"utterance 'u0003': ModuleNotFoundError: No module named 'numba'; this is no verdict on the",
        ),
        (
            ValueError("operands"),
            UnexpectedFaultError,
            r"utterance 'u0003': ValueError: operands; this is",
        ),
        (RuntimeError("can't start new thread"), UnexpectedFaultError, "can't start new thread"),
        (BackendUnavailableError("s3:// needs s3fs"), BackendUnavailableError, "^s3:// needs s3fs$"),
        (MemoryError("8 GiB"), TransientFaultError, r"a decode worker is out of memory \(8 GiB\); what is finished"),
    ],
)
def test_an_error_that_is_no_verdict_on_content_ends_the_extraction_and_is_no_failed_recording(
    make_corpus: MakeCorpus, error: Exception, kind: type[EnvironmentProblemError], message: str
) -> None:
    manifest = Manifest.read(make_corpus([0.1] * 3 + [0.2] + [0.1] * 3))
    decoder = Decoder(manifest.root, 16000, 160, None, ClipSettings(), RaisingPreparer(error, 3200), ())
    with DecodePool(decoder, 1) as pool, pytest.raises(kind, match=message) as caught:
        list(pool.decode(blocks_of(manifest, 2)))
    assert caught.value.exit_code == 4
