"""Extraction from a bucket with latency, compared with the same extraction from local files, side by side.

    .venv/bin/python bench/buckets.py [--files 600] [--seconds 10] [--latency-ms 50] [--workers N] [--store light|moto]

Each round extracts `mfcc` once from local files and once from a bucket on loopback that answers every request late; the
fixed start-up, measured with one recording, is subtracted. `light` is a server that answers with what it holds in
memory, so that the CPU time that it takes from the extraction on the same cores is small; `moto` is moto's S3 server
behind a proxy, both in Python, whose own CPU time is several times that of the client.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import voxshard
from support.fault_proxy import fault_proxy
from support.object_stores import ObjectStore, s3_store, variables
from voxshard.extraction.worker import REQUESTS_PER_WORKER

RATE = 16000


@dataclass
class Seconds:
    """What one extraction takes, without its start-up: wall time, CPU time of its processes, and of the store's."""

    wall: float
    client: float
    store: float

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall - other.wall, self.client - other.client, self.store - other.store)

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall + other.wall, self.client + other.client, self.store + other.store)


def cpu_s(pids: list[int]) -> float:
    """CPU time that processes have used."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def extract(manifest: Path, out: Path, workers: int | None, servers: list[int]) -> Seconds:
    """Run one extraction."""
    command = [sys.executable, "-m", "voxshard", "extract", str(manifest), "--encoder", "mfcc", "--out", str(out),
               "--shards", "4", *(["--workers", str(workers)] if workers else [])]  # fmt: skip
    before, served_before, since = resource.getrusage(resource.RUSAGE_CHILDREN), cpu_s(servers), time.monotonic()
    subprocess.run(command, check=True, env=os.environ, stderr=subprocess.DEVNULL)
    wall, after = time.monotonic() - since, resource.getrusage(resource.RUSAGE_CHILDREN)
    client = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Seconds(wall, client, cpu_s(servers) - served_before)


class LightStore(asyncio.Protocol):
    """Answers GET of an object with its content, after a while."""

    def __init__(self, answers: dict[bytes, bytes], latency_s: float) -> None:
        self._answers, self._latency_s = answers, latency_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        name = data.partition(b" HTTP/1.1")[0].rpartition(b"/")[2]
        asyncio.get_running_loop().call_later(self._latency_s, self._transport.write, self._answers[name])


def serve(corpus: Path, latency_s: float, ready: Connection) -> None:
    """Serve the files of a folder, and report the port."""
    answers = {}
    for path in corpus.iterdir():
        content = path.read_bytes()
        etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
        head = (
            f'HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\nETag: "{etag}"\r\nAccept-Ranges: bytes\r\n'
            "Content-Type: binary/octet-stream\r\nLast-Modified: Sun, 01 Nov 2026 06:12:08 GMT\r\n\r\n"
        )
        answers[path.name.encode()] = head.encode() + content

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: LightStore(answers, latency_s), "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


@contextmanager
def late_store(kind: str, corpus: Path, moto: ObjectStore, latency_s: float) -> Iterator[tuple[str, list[int]]]:
    """The endpoint of a store that answers late, and the processes that serve it."""
    if kind == "moto":
        (server,) = psutil.Process().children()
        with fault_proxy(moto.endpoint) as proxy:
            proxy.latency_s = latency_s
            yield proxy.endpoint, [server.pid, os.getpid()]
        return
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(corpus, latency_s, theirs), daemon=True)
    process.start()
    assert process.pid is not None
    try:
        yield f"http://127.0.0.1:{ours.recv()}", [process.pid]
    finally:
        process.terminate()
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--workers", type=int, help="by default the program's own number")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", choices=("light", "moto"), default="light")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, s3_store() as moto:
        work = Path(scratch)
        corpus = work / "corpus"
        corpus.mkdir()
        rng = np.random.default_rng(0)
        for number in range(options.files):
            samples = 0.1 * rng.standard_normal(int(options.seconds * RATE)).astype(np.float32)
            soundfile.write(corpus / f"{number:05d}.wav", samples, RATE, subtype="PCM_16")
        moto.put(corpus, moto.url("corpus"))
        manifests = {}
        for name, root in (("local", str(corpus)), ("bucket", moto.url("corpus"))):
            for kind, limit in (("all", None), ("one", 1)):
                manifests[name, kind] = work / f"{name}-{kind}.parquet"
                voxshard.prepare("folder", root, out=manifests[name, kind], limit=limit)
        total = {"local": Seconds(0, 0, 0), "bucket": Seconds(0, 0, 0)}
        audio_s = options.files * options.seconds
        with (
            late_store(options.store, corpus, moto, options.latency_ms / 1000) as (endpoint, servers),
            variables({"AWS_ENDPOINT_URL": endpoint}),
        ):
            for number in range(options.rounds):
                net = {}
                for name in total:
                    start = extract(manifests[name, "one"], work / f"{number}-{name}-one", options.workers, servers)
                    net[name] = extract(manifests[name, "all"], work / f"{number}-{name}", options.workers, servers)
                    net[name] -= start
                    total[name] += net[name]
                print(f"round {number}: local {audio_s / net['local'].wall:,.0f} x real time, bucket "
                      f"{audio_s / net['bucket'].wall:,.0f} x real time, ratio "
                      f"{net['local'].wall / net['bucket'].wall:.2f}", flush=True)  # fmt: skip
            peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # the store has not ended yet
        local, bucket = total["local"], total["bucket"]
        per_file = 1000 / options.files / options.rounds
        print(f"ratio of all rounds {local.wall / bucket.wall:.2f}; {options.latency_ms:g} ms per request, "
              f"{REQUESTS_PER_WORKER} requests per worker; largest process {peak_mb:,.0f} MB\n"
              f"CPU ms per file: local {local.client * per_file:.2f}, bucket {bucket.client * per_file:.2f}, "
              f"its store {bucket.store * per_file:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
