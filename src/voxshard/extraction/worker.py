"""Decode worker: `python -m voxshard.extraction.worker FD`. It imports no framework, and ends with its parent."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

from voxshard.audio import ReadAhead
from voxshard.errors import BrokenPluginError, EnvironmentProblemError, TransientFaultError, UnexpectedFaultError
from voxshard.extraction.decode import Decoder, PreparedUtterance
from voxshard.extraction.wire import Block, BlockSender, DecodedBlock, DecodeRequest, Fault, WorkerStart
from voxshard.manifest import Utterance
from voxshard.store.shard import Failure

REQUESTS_PER_WORKER = 64
"""Requests to a bucket at once: with 50 ms each, 64 bring what a fast encoder takes of recordings of two seconds."""
READ_AHEAD_BYTES = 64 << 20
"""At most this much is fetched from a bucket before it is decoded."""
READY = "ready"
OUT_OF_MEMORY = 71
"""Exit code of a worker that has no memory left to receive work; no recording is at fault."""


def main(descriptor: int) -> None:
    """Serve blocks until the parent closes the connection."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"):  # they reach every process of a job; the parent decides
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    connection = Connection(descriptor)
    start: WorkerStart = connection.recv()
    try:
        decoder = _decoder(start)
        decoder.warm_up()
    except BrokenPluginError as exc:
        connection.send(Fault(exc))
        return
    blocks: queue.SimpleQueue[Block] = queue.SimpleQueue()
    sender = BlockSender(connection)
    threading.Thread(target=_listen, args=(connection, blocks, sender, decoder), daemon=True).start()
    connection.send(READY)
    with ThreadPoolExecutor(start.num_readers) as readers:
        while True:
            block = blocks.get()
            since = time.monotonic()
            try:
                results = _decode(decoder, block.utterances, readers)
                sender.send(DecodedBlock(block.number, results, time.monotonic() - since))
            except BrokenPipeError:
                os._exit(0)
            except Exception as exc:  # noqa: BLE001  whatever it is, it is no verdict on a recording
                connection.send(Fault(_fault(exc, decoder.root, start.missing_hint)))


def _decoder(start: WorkerStart) -> Decoder:
    """Unpickle the decoder, which imports the module of the encoder's preparer."""
    try:
        decoder: Decoder = pickle.loads(start.decoder)  # noqa: S301  our own parent's bytes
    except (OSError, MemoryError):
        raise
    except Exception as exc:  # another package's code: anything can go wrong in it
        raise BrokenPluginError(
            f"{start.encoder}: its preparer cannot be imported in a decode worker: {type(exc).__name__}: {exc}; define "
            "it in a module of an installed package"
        ) from exc
    return decoder


def _listen(connection: Connection, blocks: queue.SimpleQueue[Block], sender: BlockSender, decoder: Decoder) -> None:
    """Receive blocks, and fetch what they name in buckets; exit at once when the parent ends."""
    ahead = ReadAhead(REQUESTS_PER_WORKER, READ_AHEAD_BYTES)
    while True:
        try:
            request: DecodeRequest = connection.recv()
            sender.reuse(request.read)
            for utterance in request.block.utterances:
                ahead.ask(decoder.place(utterance), utterance.num_bytes)
            blocks.put(request.block)
        except (EOFError, OSError):
            os._exit(0)
        except MemoryError:
            os._exit(OUT_OF_MEMORY)


def _fault(error: Exception, root: str, missing_hint: str) -> EnvironmentProblemError:
    """Return the error with which the extraction ends; nothing of the current shard is published."""
    if isinstance(error, UnexpectedFaultError):
        return UnexpectedFaultError(
            f"{error}; this is no verdict on the recording, so it is not counted as failed and its shard is not "
            "published. If a package is missing or broken, fix that and run the same command again; an encoder reports "
            "recordings that it cannot take by raising voxshard.errors.UtteranceError"
        )
    if isinstance(error, EnvironmentProblemError):
        return error
    if isinstance(error, MemoryError):
        return TransientFaultError(
            f"a decode worker is out of memory ({error}); what is finished is kept. Give the job more memory or start "
            "fewer workers (--workers), and run the same command again"
        )
    if not isinstance(error, OSError):
        return UnexpectedFaultError(
            f"a decode worker failed: {type(error).__name__}: {error}; what is finished is kept"
        )
    advice = "run the same command again when the storage is back"
    if isinstance(error, FileNotFoundError):
        advice += (
            "; if the corpus was moved, prepare it where it is now and extract from that manifest into the same "
            f"folder{missing_hint}"
        )
    return TransientFaultError(
        f"reading {root} keeps failing: {type(error).__name__}: {error}; what is finished is kept, {advice}"
    )


def _decode(
    decoder: Decoder, utterances: Sequence[Utterance], readers: ThreadPoolExecutor
) -> list[PreparedUtterance | Failure]:
    futures = [readers.submit(decoder.decode, utterance) for utterance in utterances]
    try:
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()


if __name__ == "__main__":
    main(int(sys.argv[1]))
