"""Encode utterances in batches under a budget: several in flight, out of memory handled, numbers checked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from voxshard.encoders.base import Encoder, Features, Output, Precision
from voxshard.encoders.batching import collate, make_batches
from voxshard.errors import DeviceMemoryError, NonFiniteEmbeddingError
from voxshard.extraction.decode import PreparedUtterance
from voxshard.extraction.telemetry import Timers
from voxshard.store.shard import Failure, StoreDtype, storable

BATCH_SECONDS = {"cpu": 8.0, "cuda": 320.0}
"""Padded seconds per batch. A CPU gains from batches only by what starting one costs; larger ones leave its caches."""
TOO_LARGE_BESIDE_OTHERS = 2.0
"""Times the budget: a batch that costs more, one long utterance, is computed with no other under way. Several of
them on a CPU's streams would need the memory of as many."""
POOLED_BATCHES = 4
"""Features of this number of batches are gathered before batches are made, so that like lengths meet."""
CHECKS_PER_SHARD = 2
TOLERANCE_RMS: dict[Precision, float] = {"float32": 1e-4, "tf32": 1e-2, "fp16": 2e-2, "bf16": 1e-1}
"""Largest deviation between an utterance alone and in its batch, in units of its output's rms."""

Result = Output | Failure
T = TypeVar("T")


@dataclass
class _Item:
    """One piece of one utterance."""

    position: int
    piece: int
    features: Features


@dataclass
class _Parts:
    """Outputs of the pieces of one utterance."""

    lengths: list[int]
    outputs: list[Output | None]


@dataclass
class _Check:
    """Utterance to encode again alone: the shortest of a batch with much padding."""

    padding: float
    position: int
    features: Features
    output: Output


class ShardEncoder:
    """Encoder of the utterances of one shard; make a new one for each shard."""

    def __init__(
        self,
        encoder: Encoder,
        budget: Budget,
        utterance_ids: Sequence[str],
        *,
        store_dtype: StoreDtype,
        timers: Timers,
        tick: Callable[[], None] = lambda: None,
        alone: bool = False,
    ) -> None:
        """`tick` is called between batches; `alone` gives every utterance its own batch."""
        self._encoder, self._budget, self._ids = encoder, budget, utterance_ids
        self._store_dtype, self._timers, self._alone = store_dtype, timers, alone
        self._tick = tick
        self._pending: list[_Item] = []
        self._pending_cost = 0.0
        self._running: deque[tuple[list[_Item], Callable[[], list[Output]]]] = deque()
        self._parts: dict[int, _Parts] = {}
        self._checks: list[_Check] = []
        self.results: list[Result | None] = [None] * len(utterance_ids)

    def add(self, position: int, decoded: PreparedUtterance | Failure) -> None:
        """Add one utterance; encode when enough utterances are collected."""
        if isinstance(decoded, Failure):
            self.results[position] = decoded
            return
        self._parts[position] = _Parts([len(piece) for piece in decoded.pieces], [None] * len(decoded.pieces))
        for number, features in enumerate(decoded.pieces):
            self._pending.append(_Item(position, number, features))
            self._pending_cost += self._encoder.cost(len(features))
        if self._encoder.info.batch_policy == "single" or self._pending_cost >= POOLED_BATCHES * self._budget.seconds:
            self._encode_pending(keep_rest=True)

    def finish(self) -> list[Result]:
        """Encode the remaining utterances, and return one result per utterance, in order."""
        self._encode_pending(keep_rest=False)
        while self._running:
            self._collect()
        missing = [position for position, result in enumerate(self.results) if result is None]
        assert not missing, f"{len(missing)} utterances without result, first {self._ids[missing[0]]!r}"
        return [result for result in self.results if result is not None]

    def check(self, precision: Precision) -> float | None:
        """Encode a few utterances again, each alone.

        Parameters
        ----------
        precision : that the encoder computes in; see `deviation_rms`.

        Returns
        -------
        The largest deviation from what their batches gave, in units of the output's rms; None where every batch
        holds one utterance anyway.
        """
        policy = self._encoder.info.batch_policy
        with self._timers.measure("encode_s"):
            waiting = [self._encoder.start(*collate([check.features], policy)) for check in self._checks]
            alone = [wait()[0] for wait in waiting]
        pairs = zip([check.output for check in self._checks], alone, strict=True)
        return max((deviation_rms(*pair, precision) for pair in pairs), default=None)

    def _encode_pending(self, *, keep_rest: bool) -> None:
        batches = self._batches(self._pending)
        gather = keep_rest and self._encoder.info.batch_policy != "single" and len(batches) > 1
        self._pending = batches.pop() if gather else []
        self._pending_cost = sum(self._encoder.cost(len(item.features)) for item in self._pending)
        for batch in batches:
            self._begin(batch)
            self._tick()

    def _begin(self, batch: list[_Item]) -> None:
        if len(batch) > 1 and self._cost(batch) > self._budget.seconds * (1 + 1e-9):
            self._begin_smaller(batch)  # made before the budget shrank
            return
        is_alone = self._cost(batch) > TOO_LARGE_BESIDE_OTHERS * self._budget.seconds
        while is_alone and self._running:
            self._collect()
        waiter, problem = self._attempt(batch, lambda: self._start(batch, alone=is_alone))
        if waiter is None:
            self._retry_smaller(batch, problem)
            return
        self._running.append((batch, waiter))
        if len(self._running) >= self._encoder.in_flight:
            self._collect()

    def _collect(self) -> None:
        batch, waiter = self._running.popleft()
        outputs, problem = self._attempt(batch, waiter)
        if outputs is None:
            self._retry_smaller(batch, problem)
            return
        self._budget.succeeded()
        self._remember_for_check(batch, outputs)
        for item, output in zip(batch, outputs, strict=True):
            self._record(item, output)

    def _start(self, batch: list[_Item], *, alone: bool) -> Callable[[], list[Output]]:
        arrays = collate([item.features for item in batch], self._encoder.info.batch_policy)
        return _done(self._encoder.encode(*arrays)) if alone else self._encoder.start(*arrays)

    def _attempt(self, batch: list[_Item], step: Callable[[], T]) -> tuple[T | None, str]:
        """Run one step of a batch; return None and the reason if it does not fit in memory.

        The exception ends here: a handler that is still open while smaller batches are tried keeps the activations of
        the batch that failed.
        """
        try:
            with self._timers.measure("encode_s"):
                return step(), ""
        except DeviceMemoryError as exc:
            return None, str(exc)

    def _retry_smaller(self, batch: list[_Item], problem: str) -> None:
        while self._running:  # what is in flight holds memory, too
            self._collect()
        if len(batch) == 1:
            length_s = self._encoder.cost(len(batch[0].features))
            raise DeviceMemoryError(
                f"{self._ids[batch[0].position]}: not even this one utterance (cost {length_s:.0f} s) fits in the "
                f"device's memory ({problem}); cut it with `--set chunk_seconds=30` or `--set max_seconds=30`"
            )
        self._budget.halve(self._cost(batch))
        self._begin_smaller(batch)

    def _begin_smaller(self, batch: list[_Item]) -> None:
        for part in self._batches(batch):
            self._begin(part)

    def _batches(self, items: list[_Item]) -> list[list[_Item]]:
        policy = "single" if self._alone else self._encoder.info.batch_policy
        lengths = [len(item.features) for item in items]
        batches = make_batches(lengths, policy, self._encoder.cost, self._budget.seconds)
        return [[items[position] for position in batch] for batch in batches]

    def _cost(self, batch: list[_Item]) -> float:
        costs = [self._encoder.cost(len(item.features)) for item in batch]
        return len(costs) * max(costs) if self._encoder.info.batch_policy == "padded" else sum(costs)

    def _remember_for_check(self, batch: list[_Item], outputs: list[Output]) -> None:
        if self._encoder.info.batch_policy == "single" or len(batch) == 1:
            return
        lengths = [len(item.features) for item in batch]
        row = int(np.argmin(lengths))
        padding = 1 - lengths[row] / max(lengths)
        if len(self._checks) == CHECKS_PER_SHARD:
            least = min(range(len(self._checks)), key=lambda index: self._checks[index].padding)
            if padding <= self._checks[least].padding:
                return
            del self._checks[least]
        self._checks.append(_Check(padding, batch[row].position, np.array(batch[row].features), outputs[row]))

    def _record(self, item: _Item, output: Output) -> None:
        parts = self._parts[item.position]
        parts.outputs[item.piece] = output
        if any(part is None for part in parts.outputs):
            return
        whole = [part for part in parts.outputs if part is not None]
        del self._parts[item.position]
        joined = whole[0] if len(whole) == 1 else self._encoder.join(whole, parts.lengths)
        try:
            self.results[item.position] = _owned(storable(joined, self._store_dtype))
        except NonFiniteEmbeddingError as exc:
            self.results[item.position] = Failure(self._ids[item.position], type(exc).__name__, str(exc))


@dataclass
class Budget:
    """Cost of a batch, in seconds of padded audio; it shrinks when memory runs out, and grows again later."""

    seconds: float
    note: Callable[[str], None]
    grow_after: int = 32
    """Number of successive batches that must fit before it doubles again; doubled after each further failure."""
    _asked: float = field(init=False)
    _fitted: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._asked = self.seconds

    def halve(self, failed: float) -> None:
        """Shrink after a batch of cost `failed` did not fit."""
        if self.seconds < self._asked:
            self.grow_after *= 2
        self.seconds, self._fitted = min(self.seconds, failed) / 2, 0
        self.note(f"out of device memory: batches are now at most {self.seconds:.1f} padded seconds")

    def succeeded(self) -> None:
        """Count a batch that fitted; another program may have released its memory."""
        self._fitted += 1
        if self.seconds < self._asked and self._fitted >= self.grow_after:
            self.seconds, self._fitted = min(self._asked, 2 * self.seconds), 0


def default_batch_seconds(device: str) -> float:
    """Return the padded seconds per batch on a device such as `cpu` or `cuda:1`."""
    return BATCH_SECONDS[device.partition(":")[0]]


def _owned(output: Output) -> Output:
    """Copy outputs that share the memory of a decoded block, which would otherwise be kept until the shard is written.

    Arrays of a block, and views of them, are read-only.
    """
    return {key: values if values.flags.writeable else values.copy() for key, values in output.items()}


def _done(outputs: list[Output]) -> Callable[[], list[Output]]:
    return lambda: outputs


def deviation_rms(found: Output, expected: Output, precision: Precision) -> float:
    """Return the largest absolute difference of two outputs in units of the expected one's rms; codes do not count.

    In 16-bit precisions frames are compared by their mean over time. The largest of many single frames' rounding errors
    grows with the depth of a model and the length of a recording, up to the tolerance in models of 24 layers; the mean
    averages it out and keeps what padding would add.
    """
    worst = 0.0
    for key, reference in expected.items():
        if key != "codes":
            ours, wide = found[key].astype(np.float64), reference.astype(np.float64)
            if key == "frames" and precision in ("bf16", "fp16"):
                ours, wide = ours.mean(axis=0), wide.mean(axis=0)
            rms = float(np.sqrt(np.mean(np.square(wide)))) or 1.0
            worst = max(worst, float(np.max(np.abs(ours - wide), initial=0.0)) / rms)
    return worst
