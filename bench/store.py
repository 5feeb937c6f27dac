"""Merge against cat, the memory of merge and verify, what checking costs, JSON export, index against packed, opening.

    python bench/store.py [--part merge|memory|checks|reads|json|open] [--scale 1.0] [--folder DIR]

Makes what it needs in a temporary folder (about 8 GB at scale 1; below DIR if given) and removes it. Every figure comes
from a fresh process, with the CPU time it used and its peak memory (of random reads that counts the mapped file, as far
as it was touched); both sides of a comparison run one after the other on a warm page cache, and both end with their
output on disk (fsync).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa

from feature_sets import make_set
from voxshard import open_features
from voxshard.learning.train_config import TrainConfig
from voxshard.progress import Silent
from voxshard.stages import train
from voxshard.store.export import ExportConfig, export
from voxshard.store.features import Check, FeatureSet
from voxshard.store.ingest import IngestConfig, ingest
from voxshard.store.layout import FeatureDir
from voxshard.store.merge import MergeConfig, merge
from voxshard.store.verify import verify

SHARDS = 64
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=list(PARTS), action="append")
    parser.add_argument("--scale", type=float, default=1.0, help="1: the sizes named in the output")
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        measured(arguments.step, arguments.folder)
        return
    print(
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores usable, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}, h5py {h5py.__version__}, scale {arguments.scale:g}"
    )
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for name, part in PARTS.items():
            if not arguments.part or name in arguments.part:
                part(Path(folder), arguments.scale)


def bench_merge(folder: Path, scale: float) -> None:
    make_vectors(folder, scale)
    make_set(folder / "frames_set", rows=int(16_384 * scale), dim=256, num_shards=SHARDS, num_frames=100)
    for name, what in (("set", "vectors of 1,024"), ("frames_set", "100 frames of 256 each")):
        size = sum(path.stat().st_size for path in (folder / name / "shards").iterdir())
        print(f"\nmerge: {SHARDS} shards, {what}, {size / 1e9:.2f} GB; best and median of {ROUNDS}")
        theirs, ours = compared(folder, f"copy:{name}", f"merge:{name}")
        show_both("cat shards/* > file; fsync", theirs)
        show_both("voxshard merge, checked and sealed", ours, theirs)
        (folder / name / "features.h5").unlink()
    shutil.rmtree(folder / "frames_set")


def bench_memory(folder: Path, _scale: float) -> None:
    counts = (100_000, 1_000_000)
    print(f"\nmemory: {counts[0]:,} and {counts[1]:,} vectors of 64 in {SHARDS} shards")
    peaks: dict[str, list[float]] = {"merge": [], "verify": []}
    for count in counts:
        make_set(folder / "rows", rows=count, dim=64, num_shards=SHARDS)
        for step, found in peaks.items():
            found.append(run(f"{step}:rows", folder)["peak_mb"])
        shutil.rmtree(folder / "rows")
    for step, (small, large) in peaks.items():
        growth = (large - small) * 2**20 / (counts[1] - counts[0])
        print(f"  {step:46s} peak {small:5.0f} and {large:5.0f} MB: {growth:.0f} bytes a row")


def bench_checks(folder: Path, scale: float) -> None:
    make_vectors(folder, scale)
    for mode in ("packed", "index"):
        merge(MergeConfig(features=folder / "set", mode=mode), Silent(), lambda: None)  # type: ignore[arg-type]
        for size in (256, 4096):
            print(f"\nchecks: iter_batches({size}), {mode}, from the page cache; best and median of {ROUNDS}")
            unchecked, checked = compared(folder, f"read_all:none:{size}", f"read_all:open:{size}")
            show_both("not checked", unchecked)
            show_both("each block checked at its first read", checked, unchecked)
    make_set(folder / "labelled", rows=int(50_000 * scale), dim=1024, num_shards=SHARDS)
    merge(MergeConfig(features=folder / "labelled", mode="packed"), Silent(), lambda: None)
    print("\nchecks: a complete training of logistic regression; best and median of 3")
    unchecked, checked = compared(folder, "train:none", "train:open", rounds=3)
    show_both("not checked", unchecked)
    show_both("checked", checked, unchecked)


def bench_reads(folder: Path, scale: float) -> None:
    make_vectors(folder, scale)
    print("\nreads: the same set, packed and as an index")
    for mode in ("packed", "index"):
        merge(MergeConfig(features=folder / "set", mode=mode), Silent(), lambda: None)  # type: ignore[arg-type]
        run("read_all", folder)
        results = [run("read_all", folder), run("read_random", folder)]
        if mode == "packed":
            packed = results
        for what, packed_result, result in zip(("all in order", "20,000 ids at random"), packed, results, strict=True):
            show(f"{mode}, {what}", result, packed_result if mode == "index" else None)


def bench_json(folder: Path, scale: float) -> None:
    count = int(50_000 * scale)
    random = np.random.default_rng(0)
    np.save(folder / "frames.npy", random.standard_normal((count, 250, 8), np.float32))
    frames = np.load(folder / "frames.npy", mmap_mode="r")
    ids = [f"part_{n % 4:03d}/{n:08x}.wav" for n in range(count)]
    offsets = np.arange(count + 1) * 250
    np.savez(folder / "frames.npz", X=frames.reshape(-1, 8), ids=np.array(ids), offsets=offsets)
    ingest(IngestConfig(inputs=(str(folder / "frames.npz"),), out=folder / "frames"), Silent(), lambda: None)
    (folder / "frames.npz").unlink()
    print(f"\njson: {count:,} utterances of (250, 8)")
    ours = run("export_json", folder)
    show("voxshard export --format json", ours, size=(folder / "ours.json").stat().st_size)
    for step, what in (("dump_json", "json.dump"), ("dump_json_indented", "json.dump(indent=2)")):
        theirs = run(step, folder)
        show(f"{what} of the same in memory", theirs, ours, size=(folder / "theirs.json").stat().st_size)
    for path in folder.glob("*.json"):
        path.unlink()


def bench_open(folder: Path, scale: float) -> None:
    count = int(1_000_000 * scale)
    random = np.random.default_rng(0)
    ids = np.array([f"part_{n % 4:03d}/{n:08x}.wav" for n in range(count)])
    np.savez(folder / "x.npz", X=random.standard_normal((count, 64), np.float32), ids=ids)
    ingest(IngestConfig(inputs=(str(folder / "x.npz"),), out=folder / "million"), Silent(), lambda: None)
    print(f"\nopen: {count:,} vectors of 64, then 100,000 ids at random")
    ours, theirs = run("look_up", folder), run("plain_look_up", folder)
    show("voxshard: open", ours | {"seconds": ours["open_s"]})
    show("voxshard: open, find and read", ours)
    show("h5py: read all ids into a dict", theirs | {"seconds": theirs["open_s"]}, ours | {"seconds": ours["open_s"]})
    show("h5py: the same, find and read", theirs, ours)


def make_vectors(folder: Path, scale: float) -> None:
    """A set of 1,024-dimensional vectors in 64 shards, 2.1 GB at scale 1."""
    if not (folder / "set").exists():
        make_set(folder / "set", rows=int(8192 * scale) * SHARDS, dim=1024, num_shards=SHARDS)


def step_merge(folder: Path, name: str) -> None:
    (folder / name / "summary.json").unlink(missing_ok=True)  # or it would find the set merged already
    (folder / name / "features.h5").unlink(missing_ok=True)
    merge(MergeConfig(features=folder / name, mode="packed"), Silent(), lambda: None)


def step_copy(folder: Path, name: str) -> None:
    subprocess.run(["sh", "-c", f"cat {name}/shards/* > copy && sync copy && rm copy"], cwd=folder, check=True)


def step_verify(folder: Path, name: str) -> None:
    assert not verify(FeatureDir(folder / name), Silent(), lambda: None).problems


def step_read_all(folder: Path, check: Check = "open", size: str = "4096") -> None:
    total = 0.0
    for batch in open_features(folder / "set", check=check).iter_batches(int(size)):
        assert batch.embeddings is not None
        total += float(batch.embeddings[:, 0].sum())


def step_train(folder: Path, check: str) -> None:
    FeatureSet.__init__.__defaults__ = (check,)
    config = TrainConfig(features=(folder / "labelled",), label=("label",), classifier="logistic", out=folder / "run")
    train.run(config)


def step_read_random(folder: Path) -> None:
    features = open_features(folder / "set")
    rows = np.random.default_rng(1).integers(0, len(features), 20_000)
    for name in features.ids_of(rows):
        features[name]


def step_export_json(folder: Path) -> None:
    config = ExportConfig(features=folder / "frames", format="json", out=folder / "ours.json")
    export(config, Silent(), lambda: None)


def step_dump_json(folder: Path, indent: int | None = None) -> None:
    frames = np.load(folder / "frames.npy")
    content = {f"part_{n % 4:03d}/{n:08x}.wav": rows for n, rows in enumerate(frames)}
    # Lists are made as they are reached: all at once they would take 4 GB.
    with (folder / "theirs.json").open("w") as stream:
        json.dump(content, stream, default=np.ndarray.tolist, indent=indent)
        stream.flush()
        os.fsync(stream.fileno())


def step_dump_json_indented(folder: Path) -> None:
    step_dump_json(folder, 2)


def _questions(folder: Path) -> list[str]:
    count = open_features(folder / "million").summary["utterances"]["total"]
    numbers = np.random.default_rng(1).integers(0, count, 100_000).tolist()
    return [f"part_{n % 4:03d}/{n:08x}.wav" for n in numbers]


def step_look_up(folder: Path) -> dict[str, float]:
    questions = _questions(folder)
    start = time.perf_counter()
    features = open_features(folder / "million")
    opened = time.perf_counter() - start
    found = features.embeddings[features.rows(questions)]
    assert found.shape == (100_000, 64)
    return {"open_s": opened, "seconds": time.perf_counter() - start}


def step_plain_look_up(folder: Path) -> dict[str, float]:
    questions = _questions(folder)
    start = time.perf_counter()
    with h5py.File(folder / "million/features.h5", "r", locking=False) as file:
        row_of = {name.decode(): row for row, name in enumerate(file["utterance_id"][:])}
        opened = time.perf_counter() - start
        found = file["embeddings"][:][[row_of[name] for name in questions]]
    assert found.shape == (100_000, 64)
    return {"open_s": opened, "seconds": time.perf_counter() - start}


STEPS: dict[str, Callable[..., Any]] = {
    name.removeprefix("step_"): function for name, function in globals().items() if name.startswith("step_")
}


def measured(step: str, folder: Path) -> None:
    """Run one step in this process and print what it took; imports do not count."""
    name, *words = step.split(":")
    pa.array([])  # imports pandas, where it is installed
    start, cpu_s = time.perf_counter(), _cpu_s()
    own_times = STEPS[name](folder, *words)
    times = own_times or {"seconds": time.perf_counter() - start}
    lines = Path("/proc/self/status").read_text().splitlines()  # unlike getrusage, not our parent's peak
    peak_kb = int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
    print(json.dumps({**times, "cpu_s": _cpu_s() - cpu_s, "peak_mb": peak_kb / 1024}))


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(item.ru_utime + item.ru_stime for item in used)


def run(step: str, folder: Path) -> dict[str, Any]:
    """Run one step in a fresh process: its time, and the most memory it held."""
    command = [sys.executable, __file__, "--step", step, "--folder", folder]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    result: dict[str, Any] = json.loads(said)
    return result


def compared(folder: Path, one: str, other: str, *, rounds: int = ROUNDS) -> list[list[dict[str, Any]]]:
    """Both steps, one after the other, several times."""
    results = [(run(one, folder), run(other, folder)) for _ in range(rounds)]
    return [list(results_of_one) for results_of_one in zip(*results, strict=True)]


def show_both(what: str, results: list[dict[str, Any]], bases: list[dict[str, Any]] | None = None) -> None:
    """Best and median of several runs; of the ratios that of the bests, and the median over the rounds."""
    best, median = (choose([item["seconds"] for item in results]) for choose in (min, statistics.median))
    cpu_s = min(item["cpu_s"] for item in results)
    text = f"  {what:46s} {best:8.3f} and {median:7.3f} s ({cpu_s:6.2f} s CPU)"
    if bases:
        ratios = [base["seconds"] / item["seconds"] for item, base in zip(results, bases, strict=True)]
        cpu_ratio = min(item["cpu_s"] for item in bases) / cpu_s
        text += (
            f": {min(item['seconds'] for item in bases) / best:.2f} and {statistics.median(ratios):.2f} of the speed"
        )
        text += f", {cpu_ratio:.2f} by CPU seconds"
    print(text, flush=True)


def show(what: str, result: dict[str, Any], base: dict[str, Any] | None = None, *, size: int | None = None) -> None:
    ratio = ""
    if base:
        times_base = (result[name] / base[name] for name in ("seconds", "cpu_s"))
        ratio = ", {:.2f} x the time, {:.2f} x the CPU time".format(*times_base)
    written = f", {size / 1e9:.2f} GB" if size else ""
    times = f"{result['seconds']:8.3f} s ({result['cpu_s']:6.1f} s CPU)"
    print(f"  {what:46s} {times}, peak {result['peak_mb']:5.0f} MB{written}{ratio}", flush=True)


PARTS = {
    "merge": bench_merge,
    "memory": bench_memory,
    "checks": bench_checks,
    "reads": bench_reads,
    "json": bench_json,
    "open": bench_open,
}

if __name__ == "__main__":
    main()
