"""The stages of a feature set, each measured by itself over corpora of growing size; `bench/scale.py` runs it.

A corpus of N utterances is N / 10 recordings of one second, hard links of a few files, each cut into ten spans; a shard
has 500 utterances. Each stage is a process of its own. What is counted does not include imports.
"""

from __future__ import annotations

import json
import math
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from voxshard.encoders.base import Encoder, EncoderSettings, Output, describe

SPANS = 10
"""Utterances of a recording."""
PER_SHARD = 500
LINKS = 50_000
"""Hard links of one file; ext4 allows 65,000."""
RATE = 16_000
DIM = 64
STAGES = ("prepare", "plan", "open", "extract", "merge", "verify", "status", "export")
ROWS_ONLY = ("plan", "open", "status")
"""Stages that need no audio."""


class FastSettings(EncoderSettings):
    """Settings of the fast encoder: none."""


class FastEncoder(Encoder):
    """The first samples of a clip, so that everything but the encoder is measured."""

    settings_model: ClassVar[type[EncoderSettings]] = FastSettings

    def __init__(self, name: str, settings: FastSettings, known_hashes: Any) -> None:
        self.info = describe(
            name=name, settings=settings, code_version=1, libraries=["numpy"], sample_rate=RATE, dim=DIM,
            granularity="utterance", batch_policy="padded", min_samples=DIM,
        )  # fmt: skip

    def encode(self, features: Any, lengths: Any) -> list[Output]:
        """The first samples of each."""
        return [{"embedding": row[:DIM].copy()} for row in features]


def register() -> None:
    """Make the encoder known as `fast`; workers never see it."""
    from voxshard.encoders import registry

    registry.SPECS["fast"] = registry.EncoderSpec("fast", "growth:FastEncoder", "growth:FastSettings", "of this bench")


def make_corpus(folder: Path, utterances: int) -> None:
    """Recordings and a table of spans."""
    import soundfile

    recordings = utterances // SPANS
    names = []
    for number in range(recordings):
        source = folder / f"source{number // LINKS}.wav"
        if number % LINKS == 0:
            noise = 0.1 * np.random.default_rng(number).standard_normal(RATE)
            soundfile.write(source, noise, RATE)
        place = folder / "audio" / f"{number // 1000:05d}"
        if number % 1000 == 0:
            place.mkdir(parents=True)
        os.link(source, place / f"{number:08d}.wav")
        names.append(f"audio/{place.name}/{number:08d}.wav")
    starts = np.tile(np.arange(SPANS) / SPANS, recordings)
    table = pa.table({"path": np.repeat(names, SPANS), "start_s": starts, "end_s": starts + 1 / SPANS})
    pq.write_table(table, folder / "spans.parquet")


def make_rows(folder: Path, rows: int) -> None:
    """A manifest of probed utterances, without audio."""
    from voxshard.manifest import Manifest

    numbers = np.arange(rows)
    names = pc.binary_join_element_wise(
        "audio", pc.cast(pa.array(numbers // 1000), pa.string()), pc.cast(pa.array(numbers), pa.string()), "/"
    )
    table = pa.table({"utterance_id": names, "path": names, "duration_s": np.full(rows, 4.0)})
    Manifest.from_table(table, root="/corpus", corpus="folder").write(folder / "manifest.parquet")


def stage(name: str, folder: Path, utterances: int) -> None:
    """Run one stage."""
    from voxshard.diagnostics.status import status
    from voxshard.progress import Silent
    from voxshard.stages import extract, prepare
    from voxshard.stages.base import Task
    from voxshard.store.export import ExportConfig, export
    from voxshard.store.layout import FeatureDir
    from voxshard.store.merge import MergeConfig, merge
    from voxshard.store.verify import verify

    manifest, out = folder / "manifest.parquet", folder / "set"
    config = extract.ExtractConfig(
        manifest=manifest, encoder="fast", out=out, device="cpu", workers=2, shards=-(-utterances // PER_SHARD)
    )
    if name == "prepare":
        prepare.run(
            prepare.PrepareConfig.model_validate(
                {"format": "table", "root": str(folder / "spans.parquet"), "out": manifest}
            ),
            Task(),
        )
    elif name == "plan":
        extract.run(config, plan_only=True)
    elif name == "open":
        opened = extract.Extraction.open(config, Task(index=1, count=2))
        opened.utterances_of(1)
    elif name == "extract":
        extract.run(config)
    elif name == "merge":
        merge(MergeConfig(features=out, mode="packed"), Silent(), lambda: None)
    elif name == "verify":
        assert not verify(FeatureDir(out), Silent(), lambda: None).problems
    elif name == "status":
        status(out)
    elif name == "export":
        export(ExportConfig(features=out, format="json", out=folder / "out.json"), Silent(), lambda: None)


def measure(name: str, folder: Path, utterances: int) -> None:
    """Run one stage in this process and print what it took."""
    import voxshard.diagnostics.status
    import voxshard.encoders.registry
    import voxshard.stages.prepare
    import voxshard.store.export
    import voxshard.store.verify  # noqa: F401

    register()
    before = _cpu_s()
    stage(name, folder, utterances)
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]
    print(json.dumps({"cpu_s": _cpu_s() - before, "peak_mb": peak / 1024}))


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(item.ru_utime + item.ru_stime for item in used)


def run(name: str, folder: Path, utterances: int, *, calls: bool = False) -> dict[str, float]:
    """One stage in a fresh process: CPU seconds, peak memory, files made; with `calls` system calls of files, too."""
    scale = Path(__file__).with_name("scale.py")
    command = [sys.executable, str(scale), "--step", f"stage {name} {utterances}", "--folder", str(folder)]
    counts = folder / "calls"
    if calls:
        command = ["strace", "-f", "-qq", "--seccomp-bpf", "-c", "-e", "trace=%file,%desc", "-o", str(counts), *command]
    files_before = _num_files(folder)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(scale.parent), os.environ.get("PYTHONPATH", "")))}
    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    result: dict[str, float] = json.loads(said.splitlines()[-1])
    if calls:
        total = next(line for line in counts.read_text().splitlines() if line.endswith("total"))
        result["calls"] = int(total.split()[3])
        counts.unlink()
    return result | {"files": _num_files(folder) - files_before}


def _num_files(folder: Path) -> int:
    """Files of the set, and those next to it."""
    below = sum(len(names) for _, _, names in os.walk(folder / "set"))
    return below + sum(1 for path in folder.iterdir() if path.is_file())


def compare(sizes: list[int], rows: list[int], folder: Path | None, *, calls: bool) -> None:
    """Measure every stage at every size, and print the table and the exponents of growth."""
    found: dict[str, dict[int, dict[str, float]]] = {name: {} for name in STAGES}
    for size in sorted({*sizes, *rows}):
        with tempfile.TemporaryDirectory(dir=folder) as text:
            place = Path(text)
            make = "make_corpus" if size in sizes else "make_rows"
            subprocess.run(
                [
                    sys.executable,
                    str(Path(__file__).with_name("scale.py")),
                    "--step",
                    f"{make} {size}",
                    "--folder",
                    text,
                ],
                check=True,
            )
            baseline = run("nothing", place, size, calls=True)["calls"] if calls else 0
            for name in STAGES if size in sizes else ROWS_ONLY:
                start = time.perf_counter()
                result = found[name][size] = run(name, place, size, calls=calls)
                if calls:
                    result["calls"] -= baseline
                shown = ", ".join(f"{key} {value:,.2f}" for key, value in result.items())
                print(f"{size:>10,} {name:8s} {shown}; {time.perf_counter() - start:.0f} s", flush=True)
    for what, unit in (("cpu_s", "CPU seconds"), ("peak_mb", "peak MB"), ("files", "files made"), ("calls", "calls")):
        if what == "calls" and not calls:
            continue
        print(
            f"\n| {unit} | "
            + " | ".join(f"{size:,}" for size in sorted({*sizes, *rows}))
            + " | exponent | of the last step |"
        )
        for name, results in found.items():
            cells = [f"{results[size][what]:,.4g}" if size in results else "" for size in sorted({*sizes, *rows})]
            print(f"| {name} | {' | '.join(cells)} | {_exponent(results, what, sizes)} |")


def _exponent(results: dict[int, dict[str, float]], what: str, sizes: list[int]) -> str:
    """Slope of log(quantity) over log(size), from the smallest corpus to the largest, and of the last step alone, where
    what every process costs counts least."""
    known = sorted(size for size in results if size in sizes and results[size][what] > 0)
    slopes = [
        f"{math.log(results[known[-1]][what] / results[first][what]) / math.log(known[-1] / first):.2f}"
        for first in (known[0], known[-2])
    ] if len(known) > 1 else []  # fmt: skip
    return " | ".join(slopes) or " | "


def make_many_tasks(folder: Path, tasks: int, shards: int) -> None:
    """A submitted experiment: a set of many shards, half of them published, and the traces of many tasks."""
    from voxshard.experiment.experiment import Experiment
    from voxshard.experiment.schema import ExperimentConfig
    from voxshard.extraction.heartbeat import TaskState, progress_file
    from voxshard.extraction.telemetry import Timers
    from voxshard.slurm import site
    from voxshard.slurm.record import Record, Submission, TaskRecord
    from voxshard.store.layout import FeatureDir

    config = {
        "out": folder,
        "prepare": {"format": "folder", "root": "corpus"},
        "extract": {"fast": {"encoder": "mfcc"}},
        "jobs": {"extract": {"tasks": tasks, "partitions": "gpu_a100"}},
    }
    Experiment(ExperimentConfig.model_validate(config)).freeze()
    record = Record(folder)
    record.write(Submission("token", "cluster", str(folder), sys.executable, 0.0), site.load("test"))
    record.folder("extract-fast").mkdir()
    make_rows(folder, shards * 20)
    register()
    stage("plan", folder, shards * PER_SHARD)
    target = FeatureDir(folder / "features" / "fast")
    target.path.parent.mkdir()
    (folder / "set").rename(target.path)
    for index in range(0, shards, 2):
        target.shard(index, shards).touch()
    timers = Timers(wait_decode_s=1.0, encode_s=2.0, decode_busy_s=3.0).as_dict()
    for task in range(tasks):
        state = TaskState(task, tasks, None, "cuda", 8, state="running", num_ok=100, audio_s=400.0, timers=timers)
        progress_file(target.progress, task, tasks, None).write_text(json.dumps(asdict(state)))
        now = time.time()
        record.write_task(
            "extract-fast", TaskRecord(task, 1, f"7_{task}", "n1", "gpu_a100", "running", now - 3600, now, gpus=1)
        )
