"""How many utterances a second the extraction passes from its decode workers to an encoder that costs nothing.

    python bench/handover.py [--seconds 2] [--workers 1 2] [--blocks 300] [--base SRC]

The workers are processes that send the same decoded block again and again: what is measured is the hand-over, the
batching and the collecting of results in the process that feeds the device. `--base` names the `src` folder of another
version, measured in the same run, for a ratio.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

RATE = 16_000
BLOCK = 64


def send(descriptor: int, seconds: float, blocks: int) -> None:
    """Be a worker."""
    from voxshard.extraction.decode import Decoded
    from voxshard.extraction.wire import DecodedBlock, send_block

    random = np.random.default_rng(0)
    clips = [random.standard_normal(int(seconds * RATE)).astype(np.float32) for _ in range(BLOCK)]
    connection = Connection(descriptor)
    for number in range(blocks):
        send_block(connection, DecodedBlock(number, [Decoded([clip], seconds) for clip in clips], 0.0))


def receive(seconds: float, workers: int, blocks: int) -> None:
    """Be the process that feeds the device."""
    from voxshard.extraction.encode import Budget, ShardEncoder
    from voxshard.extraction.telemetry import Timers
    from voxshard.extraction.wire import DecodedBlock
    from voxshard.extraction.wire import receive as receive_block

    class Nothing:
        in_flight = 1

        def __init__(self) -> None:
            self.info: Any = type("Info", (), {"batch_policy": "padded", "sample_rate": RATE})()

        def cost(self, num_frames: int) -> float:
            return num_frames / RATE

        def encode(self, features: Any, lengths: Any) -> Any:
            return [{"embedding": row} for row in np.zeros((len(features), 16), np.float32)]

        def start(self, features: Any, lengths: Any) -> Any:
            return lambda: self.encode(features, lengths)

    nothing: Any = Nothing()
    connections, processes = [], []
    for _ in range(workers):
        ours, theirs = socket.socketpair()
        command = [sys.executable, __file__, "--role", f"send {theirs.fileno()} {seconds} {blocks // workers}"]
        processes.append(subprocess.Popen(command, pass_fds=[theirs.fileno()]))
        theirs.close()
        connections.append(Connection(ours.detach()))
    wait(connections)
    start, cpu, done = time.perf_counter(), time.process_time(), 0
    while connections:
        for connection in wait(connections):
            assert isinstance(connection, Connection)
            try:
                block = receive_block(connection)
            except (EOFError, OSError):
                connections.remove(connection)
                continue
            assert isinstance(block, DecodedBlock)
            ids = [f"u{n}" for n in range(len(block.results))]
            shard = ShardEncoder(nothing, Budget(320.0, print), ids, store_dtype="float32", timers=Timers())
            for position, result in enumerate(block.results):
                shard.add(position, result)
            shard.finish()
            done += len(ids)
    elapsed = time.perf_counter() - start
    print(f"{done / elapsed:.0f} {(time.process_time() - cpu) / done * 1e6:.0f}")
    for process in processes:
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a clip, at 16 kHz")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--blocks", type=int, default=300)
    parser.add_argument("--base", help="src folder of another version")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        what, *words = arguments.role.split()
        if what == "send":
            send(int(words[0]), float(words[1]), int(words[2]))
        else:
            receive(float(words[0]), int(words[1]), int(words[2]))
        return
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}; clips of {arguments.seconds:g} s")
    for workers in arguments.workers:
        for name, source in (("before", arguments.base), ("now", os.environ.get("PYTHONPATH", ""))):
            if source is None:
                continue
            results = []
            for _ in range(3):
                command = [
                    sys.executable,
                    __file__,
                    "--role",
                    f"receive {arguments.seconds} {workers} {arguments.blocks}",
                ]
                environment = os.environ | ({"PYTHONPATH": source} if source else {})
                words = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
                results.append(tuple(map(int, words.split())))
            rate, cpu = max(results)
            print(f"{workers} workers, {name:6s}: {rate:7,d} utterances a second, {cpu} us CPU each in the receiver")


if __name__ == "__main__":
    main()
