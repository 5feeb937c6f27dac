"""Extraction of one task: decoding, encoding and writing run concurrently.

Workers decode the next shard while this one is encoded and the last one is written. Memory holds one shard's outputs,
one more being written, and a few blocks of features, whatever the size of the corpus.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from voxshard.encoders.base import Encoder, Output, Precision
from voxshard.errors import InexactBatchError, TransientFaultError
from voxshard.extraction.decode import Decoder
from voxshard.extraction.encode import TOLERANCE_RMS, Budget, Result, ShardEncoder, deviation_rms
from voxshard.extraction.pool import DecodePool
from voxshard.extraction.precision_advice import AFTER_BATCHES, precision_advice
from voxshard.extraction.telemetry import Timers
from voxshard.extraction.wire import Block, DecodedBlock
from voxshard.manifest import Utterance
from voxshard.progress import Progress
from voxshard.store.shard import Failure, StoreDtype

BLOCK_UTTERANCES = 64
BLOCK_S = 300.0
"""A block ends at this number of utterances or of seconds of audio, whichever comes first."""


@dataclass(frozen=True)
class ShardWork:
    """Shard to compute."""

    index: int
    utterances: list[Utterance]


@dataclass
class ShardResult:
    """Content of a shard to be published."""

    index: int
    outputs: list[tuple[str, Output]]
    failures: list[Failure]
    audio_s: float
    timers: Timers
    self_check: float | None
    warnings: Mapping[str, str]
    """Irregularities of decoded recordings, by utterance_id."""


@dataclass
class _Open:
    """Shard that is being encoded."""

    work: ShardWork
    encoder: ShardEncoder
    waiting: int
    """Blocks that were not taken yet."""
    earlier: Timers
    audio_s: float = 0.0
    warnings: dict[int, str] = field(default_factory=dict)
    """Irregularities of recordings, by position in the shard."""


class Pipeline:
    """Pipeline that takes shards through decoding, the encoder and the writer."""

    def __init__(
        self,
        encoder: Encoder,
        pool: DecodePool,
        decoder: Decoder,
        *,
        precision: Precision,
        store_dtype: StoreDtype,
        batch_seconds: float,
        write: Callable[[ShardResult], None],
        timers: Timers,
        progress: Progress,
        check: Callable[[], None] = lambda: None,
        advises: bool = False,
    ) -> None:
        """
        Parameters
        ----------
        write : publishes one shard; called in its own thread, one shard at a time.
        check : called between batches; raises to stop.
        advises : measure once what another precision would gain, and print it.
        """
        self._encoder, self._pool, self._decoder = encoder, pool, decoder
        self._precision, self._tolerance = precision, TOLERANCE_RMS[precision]
        self._store_dtype, self._timers, self._progress, self._check = store_dtype, timers, progress, check
        self._budget = Budget(batch_seconds, progress.note)
        self._writer = _ShardWriter(write, timers)
        self._blocks_out: dict[int, tuple[ShardWork, list[int]]] = {}
        """Per block under way: its shard, and the positions in it that it holds."""
        self._num_blocks: dict[int, int] = {}
        self._begun, self._finished = 0, 0
        self._advise_after_s = AFTER_BATCHES * batch_seconds if advises else math.inf

    def run(self, shards: Iterable[ShardWork]) -> None:
        """Make every shard; finished work is published even if this raises an error."""
        try:
            self._run(shards)
        finally:
            self._writer.close()

    def _run(self, shards: Iterable[ShardWork]) -> None:
        blocks = self._pool.decode(self._blocks(iter(shards)))
        shard: _Open | None = None
        earlier = self._timers.copy()
        while True:
            with self._timers.measure("wait_decode_s"):
                block = next(blocks, None)
            if block is None:
                return
            if not self._timers.decode_busy_s:
                self._timers.fill_s = max(0.0, self._timers.wait_decode_s - block.busy_s)
            work, positions = self._blocks_out.pop(block.number)
            if shard is None:
                shard = _Open(work, self._shard_encoder(work), self._num_blocks.pop(work.index), earlier)
            self._timers.decode_busy_s += block.busy_s
            self._advise(block)
            for position, decoded in zip(positions, block.results, strict=True):
                audio_s = 0.0 if isinstance(decoded, Failure) else decoded.audio_s
                shard.audio_s += audio_s
                if not isinstance(decoded, Failure) and decoded.warning is not None:
                    shard.warnings[position] = decoded.warning
                shard.encoder.add(position, decoded)
                self._progress.advance(1, audio_s)
            self._tick()
            shard.waiting -= 1
            if shard.waiting == 0:
                self._finish(shard)
                shard, earlier = None, self._timers.copy()

    def _advise(self, block: DecodedBlock) -> None:
        """Print once, after some batches, what another precision would gain on these recordings."""
        prepared = [result for result in block.results if not isinstance(result, Failure)]
        self._advise_after_s -= sum(result.audio_s for result in prepared)
        if self._advise_after_s > 0 or not prepared:
            return
        self._advise_after_s = math.inf
        if advice := precision_advice(self._encoder, [result.pieces[0] for result in prepared]):
            self._progress.note(advice)

    def _tick(self) -> None:
        """Check, between batches, for a stop, for idle workers and for errors of the writer."""
        self._check()
        self._pool.poll()
        self._writer.raise_error()

    def _shard_encoder(self, work: ShardWork, *, alone: bool = False) -> ShardEncoder:
        return ShardEncoder(
            self._encoder,
            self._budget,
            [utterance.utterance_id for utterance in work.utterances],
            store_dtype=self._store_dtype,
            timers=self._timers,
            tick=self._tick,
            alone=alone,
        )

    def _blocks(self, shards: Iterator[ShardWork]) -> Iterator[Block | None]:
        """Yield the blocks of one shard after the other; None while the shard after next may not begin."""
        numbers = itertools.count()
        while True:
            while self._begun > self._finished + 1:
                yield None
            work = next(shards, None)
            if work is None:
                return
            self._begun += 1
            groups = list(self._groups(work.utterances))
            self._num_blocks[work.index] = len(groups)
            for positions in groups:
                number = next(numbers)
                self._blocks_out[number] = (work, positions)
                yield Block(number, [work.utterances[position] for position in positions])

    def _groups(self, utterances: list[Utterance]) -> Iterator[list[int]]:
        """Group positions into blocks, longest first: similar lengths share batches, and memory is tested early."""
        order = list(range(len(utterances)))
        if self._encoder.info.batch_policy != "single":
            order.sort(key=lambda position: -_size(utterances[position]))
        group: list[int] = []
        seconds = 0.0
        for position in order:
            length_s = utterances[position].duration_s or 0.0
            if group and (len(group) == BLOCK_UTTERANCES or seconds + length_s > BLOCK_S):
                yield group
                group, seconds = [], 0.0
            group.append(position)
            seconds += length_s
        if group:
            yield group

    def _finish(self, shard: _Open) -> None:
        results = shard.encoder.finish()
        deviation = shard.encoder.check(self._precision)
        if deviation is not None and deviation > self._tolerance:
            self._progress.note(
                f"shard {shard.work.index}: an utterance alone differs by {deviation:.2g} x rms from the same one in a "
                "batch; the complete shard is encoded again, one utterance at a time"
            )
            results, deviation = self._encode_alone(shard.work)
        failures = [result for result in results if isinstance(result, Failure)]
        ids = [utterance.utterance_id for utterance in shard.work.utterances]
        outputs = [(name, result) for name, result in zip(ids, results, strict=True) if not isinstance(result, Failure)]
        warnings = {
            ids[position]: text
            for position, text in sorted(shard.warnings.items())
            if not isinstance(results[position], Failure)
        }
        timers = self._timers.since(shard.earlier)
        with self._timers.measure("wait_write_s"):
            self._writer.put(
                ShardResult(shard.work.index, outputs, failures, shard.audio_s, timers, deviation, warnings)
            )
        self._finished += 1

    def _encode_alone(self, work: ShardWork) -> tuple[list[Result], float]:
        """Decode and encode a shard here, utterance by utterance (slow), twice if that is cheap, to compare."""
        encoder = self._shard_encoder(work, alone=True)
        worst = 0.0
        for position, utterance in enumerate(work.utterances):
            try:
                decoded = self._decoder.decode(utterance)
            except (OSError, MemoryError) as exc:
                raise TransientFaultError(f"{utterance.utterance_id}: {exc}") from exc
            encoder.add(position, decoded)
        results = encoder.finish()
        for position in _spread(len(work.utterances)):
            first = results[position]
            if isinstance(first, Failure):
                continue
            again = self._shard_encoder(ShardWork(work.index, [work.utterances[position]]), alone=True)
            again.add(0, self._decoder.decode(work.utterances[position]))
            second = again.finish()[0]
            if not isinstance(second, Failure):
                worst = max(worst, deviation_rms(first, second, self._precision))
        if worst > self._tolerance:
            raise InexactBatchError(
                f"shard {work.index}: the same utterance, encoded alone twice, differs by {worst:.2g} x rms (allowed "
                f"{self._tolerance:g}); {self._encoder.info.name} gives random numbers, or ones "
                "that depend on what it encoded before; if it was exact elsewhere, check the GPU for hardware faults"
            )
        return results, worst


def _spread(count: int, wanted: int = 4) -> list[int]:
    return sorted({round(index * (count - 1) / max(1, wanted - 1)) for index in range(min(wanted, count))})


def _size(utterance: Utterance) -> float:
    return utterance.duration_s if utterance.duration_s is not None else float(utterance.num_bytes or 0)


class _ShardWriter:
    """Writer of shards in the background, one at a time; an error there is raised at the next shard."""

    def __init__(self, write: Callable[[ShardResult], None], timers: Timers) -> None:
        self._write, self._timers = write, timers
        self._thread = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def put(self, result: ShardResult) -> None:
        """Write a shard after the one before it is written, so that a kill costs no more than these two."""
        self._wait()
        self._last = self._thread.submit(self._timed, result)

    def close(self) -> None:
        """Wait until everything is published."""
        try:
            self._wait()
        finally:
            self._thread.shutdown()

    def raise_error(self) -> None:
        """Raise what went wrong in the background, once."""
        if self._last is not None and self._last.done():
            self._wait()

    def _wait(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def _timed(self, result: ShardResult) -> None:
        since = time.monotonic()
        try:
            self._write(result)
        finally:
            self._timers.write_s += time.monotonic() - since
