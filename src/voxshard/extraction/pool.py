"""A pool of decode workers that survives their deaths.

Workers are fresh interpreters, not forks: a decoding thread next to a thread that launches kernels leaves it a third of
its speed, and a fork of a process that has touched a GPU is unsafe.
"""

from __future__ import annotations

import errno
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait

from voxshard.errors import BrokenPluginError, TransientFaultError, WorkerCrashedError
from voxshard.extraction.decode import Decoder, PreparedUtterance
from voxshard.extraction.wire import Block, BlockReceiver, DecodedBlock, DecodeRequest, Fault, WorkerStart
from voxshard.extraction.worker import OUT_OF_MEMORY, READY
from voxshard.manifest import Utterance
from voxshard.store.shard import Failure

READERS_PER_WORKER = 2
BLOCKS_PER_WORKER = 2
"""Blocks a worker holds: one it decodes, one that waits so that it never does."""
ISOLATED_TRIES = 2
"""How often a recording may kill the worker that decodes nothing else, before the recording is at fault; the last time
no other worker decodes anything either, so that memory that all of them together lack is not its fault."""
BLOCK_TIMEOUT_S = 900.0
MAX_DEATHS_AT_START = 3
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    receiver: BlockReceiver
    blocks: deque[Block] = field(default_factory=deque)
    is_ready: bool = False
    busy_since: float = 0.0


@dataclass
class _Isolated:
    """Block whose worker died: its utterances are decoded again one by one, each alone in a worker."""

    block: Block
    results: dict[int, PreparedUtterance | Failure] = field(default_factory=dict)
    crashes: dict[int, int] = field(default_factory=dict)
    busy_s: float = 0.0


class DecodePool:
    """Pool that decodes blocks in worker processes and returns them in order."""

    def __init__(
        self,
        decoder: Decoder,
        num_workers: int,
        *,
        on_death: Callable[[str], None] = lambda message: None,
        check: Callable[[], None] = lambda: None,
        missing_hint: str = "",
        block_timeout_s: float = BLOCK_TIMEOUT_S,
    ) -> None:
        """
        Parameters
        ----------
        on_death : called with a message when a worker had to be replaced.
        check : called while waiting for blocks; raises to stop.
        missing_hint : what else may hide recordings from this process, for the error of a corpus that is gone.
        """
        self._on_death, self._check = on_death, check
        self._block_timeout_s = block_timeout_s
        self._deaths_at_start = 0
        self._timed_out: set[int] = set()
        self._todo: deque[Block] = deque()
        self._done: dict[int, DecodedBlock] = {}
        self._suspects: dict[int, _Isolated] = {}
        self._isolated: dict[int, tuple[int, int]] = {}  # number of a one-utterance block -> (its suspects, position)
        self._next_isolated = -1
        self._last_tries: set[int] = set()
        self._killed: list[str] = []
        """Recordings whose last try was killed, since one was decoded."""
        self.max_ahead = num_workers * BLOCKS_PER_WORKER + 1
        try:
            pickled = pickle.dumps(decoder)
        except Exception as exc:  # whatever the preparer's own pickling raises
            raise BrokenPluginError(
                f"{decoder.encoder}: its preparer cannot be sent to decode workers ({type(exc).__name__}: {exc}); make "
                "it a function of a module, a functools.partial of one, or a dataclass with `__call__`"
            ) from exc
        self._start = WorkerStart(pickled, decoder.encoder, READERS_PER_WORKER, missing_hint)
        self._workers = [self._spawn() for _ in range(num_workers)]

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def num_workers(self) -> int:
        return len(self._workers)

    def close(self) -> None:
        """End every worker at once, even during work."""
        for worker in self._workers:
            worker.connection.close()
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()
        self._workers = []

    def decode(self, blocks: Iterator[Block | None]) -> Iterator[DecodedBlock]:
        """Decode blocks ahead of the reader, and yield them in the order in which they came.

        Parameters
        ----------
        blocks : numbered 0, 1, 2...; None means that the next one may not be started yet: it is asked for again
            when a block has been taken.

        Raises
        ------
        TransientFaultError : storage, memory or workers fail, after every retry.
        """
        wanted, issued, exhausted = 0, 0, False
        while True:
            while not exhausted and issued - wanted < self.max_ahead:
                try:
                    block = next(blocks)
                except StopIteration:
                    exhausted = True
                    break
                if block is None:
                    break
                self._todo.append(block)
                issued += 1
            self._dispatch()
            if wanted == issued:
                if exhausted:
                    return
                raise AssertionError("no block in flight and the next one may not be started")
            while wanted not in self._done:
                self._check()
                self._poll(timeout_s=0.5)
            yield self._done.pop(wanted)
            wanted += 1

    def poll(self) -> None:
        """Receive finished blocks and send waiting ones, without blocking."""
        self._poll(timeout_s=0.0)

    def _poll(self, timeout_s: float) -> None:
        ready = wait([worker.connection for worker in self._workers], timeout_s)
        for worker in list(self._workers):
            if worker.connection in ready:
                self._take(worker)
            elif worker.blocks and time.monotonic() - worker.busy_since > self._block_timeout_s:
                self._time_out(worker)
        self._dispatch()

    def _take(self, worker: _Worker) -> None:
        try:
            message = worker.receiver.receive()
        except (EOFError, OSError) as exc:
            if isinstance(exc, OSError) and exc.errno == errno.ENOMEM:  # here, not in the worker
                raise MemoryError(str(exc)) from exc
            self._replace_worker(worker)
            return
        worker.busy_since = time.monotonic()
        if isinstance(message, Fault):
            raise message.error
        if message == READY:
            worker.is_ready = True
            self._deaths_at_start = 0
        elif isinstance(message, DecodedBlock):
            worker.blocks.popleft()
            self._finish(message)

    def _finish(self, block: DecodedBlock) -> None:
        self._killed.clear()
        if block.number not in self._isolated:
            self._done[block.number] = block
            return
        number, position = self._isolated.pop(block.number)
        self._record(number, position, block.results[0], block.busy_s)

    def _record(self, number: int, position: int, result: PreparedUtterance | Failure, busy_s: float) -> None:
        suspects = self._suspects[number]
        suspects.results[position] = result
        suspects.busy_s += busy_s
        if len(suspects.results) == len(suspects.block.utterances):
            del self._suspects[number]
            results = [suspects.results[index] for index in range(len(suspects.results))]
            self._done[number] = DecodedBlock(number, results, suspects.busy_s)

    def _time_out(self, worker: _Worker) -> None:
        block = worker.blocks[0]
        first = block.utterances[0].utterance_id
        if block.number in self._timed_out:
            raise TransientFaultError(
                f"decoding {len(block.utterances)} recordings from {first!r} on took over {self._block_timeout_s:.0f} s"
                ", twice; is the storage hanging? What is finished is kept, run the same command again"
            )
        self._timed_out.add(block.number)
        self._todo.appendleft(worker.blocks.popleft())
        self._replace_worker(worker)

    def _replace_worker(self, worker: _Worker) -> None:
        """Replace a dead worker; the block that it decoded is isolated, its waiting blocks are sent again."""
        worker.connection.close()
        worker.process.kill()
        code = worker.process.wait()
        position = self._workers.index(worker)
        if code == OUT_OF_MEMORY:
            raise TransientFaultError(
                "a decode worker is out of memory; what is finished is kept. Give the job more memory or start fewer "
                "workers (--workers), and run the same command again"
            )
        if not worker.is_ready:
            self._deaths_at_start += 1
            if self._deaths_at_start >= MAX_DEATHS_AT_START:
                raise TransientFaultError(
                    f"decode workers crash at start-up (exit code {code}); see the messages above"
                )
        self._on_death(f"a decode worker ended with code {code}; its recordings are decoded again")
        if worker.is_ready and worker.blocks:
            self._isolate(worker.blocks.popleft(), code)
        self._todo.extendleft(reversed(worker.blocks))
        self._workers[position] = self._spawn()

    def _isolate(self, block: Block, code: int) -> None:
        if block.number not in self._isolated:
            self._suspects[block.number] = _Isolated(block)
            for position, utterance in enumerate(block.utterances):
                self._try_alone(block.number, position, utterance)
            return
        number, position = self._isolated.pop(block.number)
        suspects = self._suspects[number]
        suspects.crashes[position] = suspects.crashes.get(position, 0) + 1
        utterance = block.utterances[0]
        if suspects.crashes[position] < ISOLATED_TRIES:
            self._last_tries.add(self._try_alone(number, position, utterance))
            return
        if code == -signal.SIGKILL:
            self._killed.append(utterance.utterance_id)
            if len(self._killed) > 1:
                raise TransientFaultError(
                    f"decode workers are killed one after the other, each alone with one recording "
                    f"({self._killed[0]!r}, {self._killed[1]!r}), probably for lack of memory; what is finished is "
                    "kept. Give the job more memory (mem_gb, --mem), and run the same command again"
                )
        how = f"signal {-code}" if code < 0 else f"code {code}"
        message = f"decoding it ended the worker process ({how}), {ISOLATED_TRIES} times, with nothing else in it"
        self._record(number, position, Failure(utterance.utterance_id, WorkerCrashedError.__name__, message), 0.0)

    def _try_alone(self, number: int, position: int, utterance: Utterance) -> int:
        isolated = self._next_isolated
        self._isolated[isolated] = (number, position)
        self._todo.append(Block(isolated, [utterance]))
        self._next_isolated -= 1
        return isolated

    def _dispatch(self) -> None:
        while self._todo:
            under_way = [block.number for worker in self._workers for block in worker.blocks]
            if under_way and self._last_tries.intersection((*under_way, self._todo[0].number)):
                return
            free = [worker for worker in self._workers if worker.is_ready and len(worker.blocks) < BLOCKS_PER_WORKER]
            if not free:
                return
            worker = min(free, key=lambda item: len(item.blocks))
            block = self._todo.popleft()
            if not worker.blocks:
                worker.busy_since = time.monotonic()
            try:
                worker.connection.send(DecodeRequest(block, worker.receiver.take_read()))
                worker.blocks.append(block)
            except OSError:
                self._todo.appendleft(block)
                self._replace_worker(worker)

    def _spawn(self) -> _Worker:
        ours, theirs = socket.socketpair()
        environment = {**os.environ, **dict.fromkeys(_ONE_THREAD, "1")}
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "voxshard.extraction.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        connection = Connection(ours.detach())
        try:
            connection.send(self._start)
        except OSError:
            pass  # it died at once: the next poll finds out
        return _Worker(process, connection, BlockReceiver(connection))
