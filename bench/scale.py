"""How the stages grow with the corpus, and what many small shards, many rows and many tasks cost.

    python bench/scale.py --part grow [--sizes 10000 100000 1000000] [--rows-only 10000000] [--calls]
    python bench/scale.py --part merge|open|status [--shards 10000] [--rows 1000000] [--base SRC]

`grow` measures every stage by itself over corpora of several sizes (bench/growth.py): CPU seconds, peak memory, files
made, and with `--calls` the system calls that take files and descriptors, which makes it slower. Every step is a
process of its own; CPU seconds and peak memory are those of the step. `--base` names the `src` folder of another
version, measured in the same run. Sets are made in a temporary folder (in `--folder`) and removed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import growth

ROWS_PER_SHARD = 20


def make_shards(folder: Path, count: int) -> None:
    """A set of `count` shards of 20 vectors each."""
    from voxshard.manifest import Manifest
    from voxshard.store.layout import FeatureDir, Identity, Plan
    from voxshard.store.shard import ShardHeader, write_shard

    ids = [f"part_{n % 4:03d}/{n:08x}.wav" for n in range(count * ROWS_PER_SHARD)]
    manifest = Manifest.from_rows([{"utterance_id": name, "path": name} for name in ids], root="/", corpus="folder")
    plan = Plan(ids, (np.arange(len(ids)) // ROWS_PER_SHARD).astype(np.int32))
    about: dict[str, Any] = {"encoder": "bench", "fingerprint": "0" * 64, "granularity": "utterance", "dim": 64}
    identity = Identity(
        **about, provenance={}, manifest_hash=manifest.content_digest(), plan_hash=plan.digest(), num_shards=count,
        num_utterances=len(ids), num_layers=None, sample_rate=16000, frame_rate_hz=None, window_s=None, hop_s=None,
        weights_folder=None, weight_files=(),
    )  # fmt: skip
    target = FeatureDir(folder / "set")
    target.path.mkdir()
    manifest.write(target.manifest)
    plan.write(target.plan)
    identity.write(target.identity)
    values = np.random.default_rng(0).standard_normal((ROWS_PER_SHARD, 64), np.float32)
    os.fsync = lambda descriptor: None  # what is measured comes later
    for index in range(count):
        header = ShardHeader(
            **about, plan_hash=identity.plan_hash, shard_index=index, num_shards=count, sample_rate=16000
        )
        names = ids[index * ROWS_PER_SHARD : (index + 1) * ROWS_PER_SHARD]
        outputs = [(name, {"embedding": row}) for name, row in zip(names, values, strict=True)]
        write_shard(target.shard(index, count), header, outputs, [])


def make_manifest(folder: Path, rows: int) -> None:
    """A manifest of `rows` probed utterances."""
    import pyarrow as pa

    from voxshard.manifest import Manifest

    names = [f"part_{n % 4:03d}/{n:08x}.wav" for n in range(rows)]
    table = pa.table(
        {"utterance_id": names, "path": names, "duration_s": np.full(rows, 4.0), "split": ["train"] * rows}
    )
    Manifest.from_table(table, root="/corpus", corpus="folder").write(folder / "manifest.parquet")


def step_merge(folder: Path) -> None:
    from voxshard.progress import Silent
    from voxshard.store.merge import MergeConfig, merge

    merge(MergeConfig(features=folder / "set", mode="packed"), Silent(), lambda: None)


def step_open(folder: Path) -> None:
    from voxshard.stages.base import Task
    from voxshard.stages.extract import ExtractConfig, Extraction

    config = ExtractConfig.model_validate(
        {"manifest": folder / "manifest.parquet", "encoder": "mfcc", "out": folder / "opened", "device": "cpu"}
    )
    Extraction.open(config, Task())


def measured(step: str, folder: Path) -> None:
    """Run one step in this process; imports do not count."""
    import voxshard.stages.extract
    import voxshard.store.merge  # noqa: F401

    before = _peak_mb()
    start = time.perf_counter()
    globals()[f"step_{step}"](folder)
    used = resource.getrusage(resource.RUSAGE_SELF)
    result = {"seconds": time.perf_counter() - start, "cpu_s": used.ru_utime + used.ru_stime, "mb": _peak_mb() - before}
    print(json.dumps(result))


def _peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def run(what: str, folder: Path, source: str, *arguments: str) -> dict[str, float]:
    """Run this file again for one step, with the package of `source`."""
    command = [sys.executable, __file__, "--step", what, "--folder", str(folder), *arguments]
    environment = os.environ | ({"PYTHONPATH": source} if source else {})
    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(said) if said else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["grow", "merge", "open", "status"], action="append")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--rows-only", type=int, nargs="*", default=[10_000_000])
    parser.add_argument("--calls", action="store_true")
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--base")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.step == "make_shards":
        make_shards(arguments.folder, arguments.shards)
    elif arguments.step == "make_manifest":
        make_manifest(arguments.folder, arguments.rows)
    elif arguments.step and " " in arguments.step:
        step_of_growth(arguments.folder, *arguments.step.split())
    elif arguments.step:
        measured(arguments.step, arguments.folder)
    else:
        compare(arguments)


def step_of_growth(folder: Path, what: str, *words: str) -> None:
    """Make a corpus, or measure a stage."""
    if what == "stage":
        growth.measure(words[0], folder, int(words[1]))
    else:
        getattr(growth, what)(folder, *map(int, words))


def many_tasks(arguments: argparse.Namespace) -> None:
    """`voxshard status` of 1,000 tasks, as complete processes: of the feature set, and of the submitted experiment."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as text:
        run(f"make_many_tasks 1000 {arguments.shards}", Path(text), "")
        for what, path in (("feature set", f"{text}/features/fast"), ("submitted experiment", text)):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            start = time.perf_counter()
            subprocess.run([sys.executable, "-m", "voxshard", "status", path], check=True)
            after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
            cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            about = f"{what}, 1,000 tasks, {arguments.shards:,} shards"
            print(f"status  {about}: {seconds:.2f} s, {cpu_s:.2f} s CPU, with imports", flush=True)


def compare(arguments: argparse.Namespace) -> None:
    """Measure each part, those with a base in both versions."""
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}")
    parts = arguments.part or ["grow", "merge", "open", "status"]
    if "grow" in parts:
        growth.compare(arguments.sizes, arguments.rows_only, arguments.folder, calls=arguments.calls)
    if "status" in parts:
        many_tasks(arguments)
    for part, make in (("merge", "make_shards"), ("open", "make_manifest")):
        if part not in parts:
            continue
        for name, source in (("before", arguments.base), ("now", os.environ.get("PYTHONPATH", ""))):
            if source is None:
                continue
            with tempfile.TemporaryDirectory(dir=arguments.folder) as text:
                folder = Path(text)
                run(make, folder, source, "--shards", str(arguments.shards), "--rows", str(arguments.rows))
                for turn in ("first", "second"):
                    found = run(part, folder, source)
                    size = arguments.shards * ROWS_PER_SHARD if part == "merge" else arguments.rows
                    what = f"{arguments.shards:,} shards" if part == "merge" else f"{arguments.rows:,} rows"
                    times = f"{found['seconds']:7.2f} s, {found['cpu_s']:6.2f} s CPU with imports"
                    memory = f"{found['mb']:6.0f} MB more ({found['mb'] * 2**20 / size:.0f} bytes a row)"
                    print(f"{part:5s} {what}, {turn:6s}, {name:6s}: {times}, {memory}", flush=True)


if __name__ == "__main__":
    main()
