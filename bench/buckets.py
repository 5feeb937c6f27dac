"""Extraction from a bucket with latency, compared with the same extraction from local files, side by side.

    .venv/bin/python bench/buckets.py [--files 600] [--seconds 10] [--latency-ms 50] [--workers 1]

The bucket is moto's S3 server on loopback, behind a proxy that delays every request. Each round extracts `mfcc` once
from local files and once from the bucket; the time of the fixed start-up, measured with one recording, is subtracted.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import voxshard
from support.fault_proxy import fault_proxy
from support.object_stores import s3_store, variables
from voxshard.extraction.worker import REQUESTS_PER_WORKER

RATE = 16000


def extract(manifest: Path, out: Path, workers: int) -> float:
    """Seconds that one extraction takes."""
    command = [sys.executable, "-m", "voxshard", "extract", str(manifest), "--encoder", "mfcc", "--out", str(out),
               "--workers", str(workers), "--shards", "4"]  # fmt: skip
    since = time.monotonic()
    subprocess.run(command, check=True, env=os.environ, stderr=subprocess.DEVNULL)
    return time.monotonic() - since


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, s3_store() as store, fault_proxy(store.endpoint) as proxy:
        work = Path(scratch)
        corpus = work / "corpus"
        corpus.mkdir()
        rng = np.random.default_rng(0)
        for number in range(options.files):
            samples = 0.1 * rng.standard_normal(int(options.seconds * RATE)).astype(np.float32)
            soundfile.write(corpus / f"{number:05d}.wav", samples, RATE, subtype="PCM_16")
        store.put(corpus, store.url("corpus"))
        with variables({"AWS_ENDPOINT_URL": proxy.endpoint}):
            manifests = {}
            for name, root in (("local", str(corpus)), ("bucket", store.url("corpus"))):
                for kind, limit in (("all", None), ("one", 1)):
                    path = work / f"{name}-{kind}.parquet"
                    voxshard.prepare("folder", root, out=path, limit=limit)
                    manifests[name, kind] = path
            proxy.latency_s = options.latency_ms / 1000
            audio_s = options.files * options.seconds
            ratios = []
            total = {"local": 0.0, "bucket": 0.0}
            for number in range(options.rounds):
                net = {}
                for name in ("local", "bucket"):
                    start_s = extract(manifests[name, "one"], work / f"{number}-{name}-one", options.workers)
                    net[name] = extract(manifests[name, "all"], work / f"{number}-{name}", options.workers) - start_s
                    total[name] += net[name]
                ratios.append(net["local"] / net["bucket"])
                print(f"round {number}: local {audio_s / net['local']:,.0f} x real time, bucket "
                      f"{audio_s / net['bucket']:,.0f} x real time, ratio {ratios[-1]:.2f}", flush=True)  # fmt: skip
            peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            overall = total["local"] / total["bucket"]
            print(f"ratio: median {statistics.median(ratios):.2f}, of all rounds {overall:.2f}; "
                  f"{options.latency_ms:g} ms per request, {REQUESTS_PER_WORKER} requests per worker; "
                  f"largest process {peak_mb:,.0f} MB")  # fmt: skip


if __name__ == "__main__":
    main()
