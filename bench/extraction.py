"""Extraction with a PyTorch encoder, beside the bare model and beside the loop people write.

    .venv-torch/bin/python bench/extraction.py [--device cpu|cuda] [--model base|w2v-bert] [--corpus FOLDER] [PART...]

Parts (default: all): efficiency, loop, memory, rows.

  efficiency   time of the bare encoder on the same batches, prepared in memory, warm, same threads, divided by the
               time of the whole extraction without importing PyTorch and without model load. 1: workers, decoding,
               batching, the self-check and writing cost nothing.
  loop         `bench/plain_loop.py` (librosa.load, model, .tolist(), one json.dump at the end, one file at a time)
               beside `voxshard extract`, on very short clips and on clips of 2 to 12 s. Ratios of whole processes,
               imports and model load included; of the time from the loaded model to the end of the process; and of
               CPU seconds, which say more where the machine has other work.
  memory       peak resident memory of the extracting process for 100, 1,000 and 10,000 files.
  rows         resident memory of a task that has opened a manifest of 1,000 and of 1,000,000 rows, and its peak.

Weights are random: speed does not depend on them. The corpus is made of noise unless a folder of wav files is given,
whose recordings are then joined to the lengths needed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile

from voxshard.encoders import registry
from voxshard.encoders.batching import collate, make_batches
from voxshard.extraction.decode import Decoder, PreparedUtterance
from voxshard.extraction.encode import default_batch_seconds
from voxshard.extraction.heartbeat import read_progress
from voxshard.manifest import Manifest
from voxshard.stages import extract
from voxshard.stages.base import Task
from voxshard.stages.extract import ExtractConfig, Extraction
from voxshard.stages.prepare import PrepareConfig
from voxshard.stages.prepare import run as prepare

RATE = 16_000


def make_model(folder: Path, size: str) -> Path:
    """A randomly initialised model in the layout `save_pretrained` gives."""
    import torch
    from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel, Wav2Vec2Config, Wav2Vec2Model

    torch.manual_seed(0)
    target = folder / size
    if size == "w2v-bert":
        Wav2Vec2BertModel(Wav2Vec2BertConfig()).save_pretrained(target)
        settings: dict[str, Any] = {"feature_extractor_type": "SeamlessM4TFeatureExtractor", "feature_size": 80,
                                    "num_mel_bins": 80, "stride": 2, "padding_value": 1, "sampling_rate": RATE,
                                    "return_attention_mask": True, "padding_side": "right"}  # fmt: skip
    else:
        small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
                 "conv_dim": [16] * 7}  # fmt: skip
        Wav2Vec2Model(Wav2Vec2Config(**(small if size == "tiny" else {}))).save_pretrained(target)
        settings = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "sampling_rate": RATE,
                    "padding_value": 0.0, "do_normalize": True, "return_attention_mask": False}  # fmt: skip
    (target / "preprocessor_config.json").write_text(json.dumps(settings))
    return target


def make_corpus(folder: Path, count: int, seconds: tuple[float, float], source: Path | None) -> Path:
    """Clips whose lengths are drawn evenly from `seconds`; returns their manifest."""
    rng = np.random.default_rng(count)
    sources = sorted(source.rglob("*.wav")) if source else []
    audio = folder / "audio"
    audio.mkdir(parents=True)
    for number in range(count):
        length = int(RATE * rng.uniform(*seconds))
        if sources:
            samples = np.zeros(0)
            while len(samples) < length:
                samples = np.concatenate([samples, soundfile.read(sources[int(rng.integers(len(sources)))])[0]])
        else:
            samples = 0.1 * rng.standard_normal(length)
        soundfile.write(audio / f"{number:06d}.wav", samples[:length], RATE)
    prepare(PrepareConfig(format="folder", root=str(audio), out=folder / "manifest.parquet"), Task())
    return folder / "manifest.parquet"


def time_extraction(manifest: Path, weights: Path, device: str, batch_seconds: float) -> tuple[float, str]:
    """Wall seconds of a whole extraction without imports and model load, and its advice."""
    registry.create("hf", {"weights": str(weights)})
    with tempfile.TemporaryDirectory() as out:
        settings = {"weights": str(weights)}
        place = Path(out) / "set"
        config = ExtractConfig(
            manifest=manifest, encoder="hf", settings=settings, out=place, device=device, batch_seconds=batch_seconds
        )
        since = time.perf_counter()
        result = extract.run(config)
        wall_s = time.perf_counter() - since
        (state,) = read_progress(result.folder.progress)
        assert not result.missing
        return wall_s - state.timers["load_s"], result.advice or ""


def time_bare(manifest: Path, weights: Path, device: str, batch_seconds: float) -> float:
    """Wall seconds of the encoder alone, on the batches the extraction makes, prepared in memory."""
    settings = {"weights": str(weights)}
    encoder = registry.create("hf", settings)
    encoder.load(device)
    corpus = Manifest.read(manifest)
    decoder = Decoder.of(corpus.root, encoder.info, registry.settings_of("hf", settings), encoder.preparer, ())
    features = [
        decoded.pieces[0]
        for decoded in map(decoder.decode, corpus.utterances())
        if isinstance(decoded, PreparedUtterance)
    ]
    lengths = [len(item) for item in features]
    batches = make_batches(lengths, encoder.info.batch_policy, encoder.cost, batch_seconds)
    arrays = [collate([features[row] for row in batch], encoder.info.batch_policy) for batch in batches]
    for wait in [encoder.start(*arrays[-1]) for _ in range(encoder.in_flight)]:  # warm, every stream
        wait()
    since = time.perf_counter()
    waiting: list[Callable[[], Any]] = []
    for batch in arrays:
        waiting.append(encoder.start(*batch))
        if len(waiting) == encoder.in_flight:
            waiting.pop(0)()
    for wait in waiting:
        wait()
    return time.perf_counter() - since


@dataclass(frozen=True)
class Cost:
    """What a process took, in seconds."""

    whole_s: float
    after_load_s: float
    """Wall time from the loaded model on."""
    cpu_s: float
    """User and system, children included."""

    def over(self, other: Cost) -> Cost:
        """Ratios."""
        return Cost(self.whole_s / other.whole_s, self.after_load_s / other.after_load_s, self.cpu_s / other.cpu_s)


def cost_of(command: Sequence[str], loaded_at: Callable[[str], float]) -> Cost:
    """Run a program; `loaded_at` gets its output and tells when its model was loaded."""
    before, since = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    output = subprocess.run([sys.executable, *command], check=True, stdout=subprocess.PIPE, text=True).stdout
    until, after = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(until - since, until - loaded_at(output), cpu_s)


def cost_of_loop(manifest: Path, weights: Path, device: str, out: Path) -> Cost:
    """The script this replaces."""
    script = Path(__file__).with_name("plain_loop.py")
    audio = Manifest.read(manifest).root
    return cost_of([str(script), audio, str(weights), str(out), device], float)


def cost_of_extraction(manifest: Path, weights: Path, device: str, batch_seconds: float) -> Cost:
    """`voxshard extract` as a user starts it."""
    with tempfile.TemporaryDirectory() as out:
        place = Path(out) / "set"
        command = ["-m", "voxshard", "extract", str(manifest), "--encoder", "hf", "--set", f"weights={weights}"]
        command += ["--out", str(place), "--device", device, "--batch-seconds", str(batch_seconds)]

        def loaded_at(_: str) -> float:
            (state,) = read_progress(place / "progress")
            assert state.state == "done"
            return state.started + state.timers["load_s"]

        return cost_of(command, loaded_at)


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a measurement in a process of its own, so that none warms or burdens the next."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def memory_mb(what: str) -> float:
    """`VmHWM`, the peak, or `VmRSS`, what is resident now; getrusage would remember what the parent held."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{what}:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]


def peak_memory(manifest: Path, weights: Path, device: str) -> float:
    """Peak resident memory of a whole extraction in MB, workers not counted."""
    time_extraction(manifest, weights, device, default_batch_seconds(device))
    return memory_mb("VmHWM")


def make_rows(folder: Path, count: int) -> Path:
    """A manifest of recordings that are not there."""
    folder.mkdir()
    names = pa.array([f"flac/part{number // 10_000:04d}/utterance_{number:010d}.flac" for number in range(count)])
    seconds = np.random.default_rng(0).uniform(1, 10, count)
    splits = np.repeat(["train", "dev", "eval"], [count - count // 4 * 2, count // 4, count // 4])
    columns = {"utterance_id": names, "path": names, "duration_s": seconds, "split": splits}
    manifest = Manifest.from_table(pa.table(columns), root=str(folder), corpus="folder")
    manifest.write(folder / "manifest.parquet")
    return folder / "manifest.parquet"


def opened_memory(manifest: Path) -> tuple[float, float]:
    """MB resident once an extraction is open, as one task of many opens it, and the peak."""
    config = ExtractConfig(manifest=manifest, encoder="mfcc", out=manifest.parent / "set")
    registry.create("mfcc", {})
    extraction = Extraction.open(config, Task(1, 64))
    assert extraction.utterances_of(0)
    return memory_mb("VmRSS"), memory_mb("VmHWM")


def audio_hours(manifest: Path) -> float:
    return sum(Manifest.read(manifest).table["duration_s"].to_pylist()) / 3600


class Bench:
    """The parts, over one model and one place for temporary files."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder, self.device = options, folder, options.device
        self.budget = options.batch_seconds or default_batch_seconds(self.device)

    def efficiency(self) -> None:
        weights = make_model(self.folder, self.options.model)
        manifest = make_corpus(self.folder / "efficiency", self.options.files, (2.0, 12.0), self.options.corpus)
        ratios = []
        for _ in range(self.options.repeats):
            bare_s = in_fresh_process(time_bare, manifest, weights, self.device, self.budget)
            whole_s, advice = in_fresh_process(time_extraction, manifest, weights, self.device, self.budget)
            ratios.append(bare_s / whole_s)
            print(
                f"efficiency: bare {bare_s:.1f} s, whole extraction {whole_s:.1f} s, ratio {ratios[-1]:.3f}; {advice}"
            )
        hours = audio_hours(manifest)
        what = f"{self.options.files} clips of 2 to 12 s, {hours:.2f} h, {self.options.model}, {self.device}"
        print(f"efficiency: {statistics.median(ratios):.3f} (median of {len(ratios)}), {what}")

    def loop(self) -> None:
        weights = make_model(self.folder, self.options.model)
        for name, count, seconds in (
            ("short clips", self.options.short_files, (0.2, 0.8)),
            ("2 to 12 s", self.options.files, (2.0, 12.0)),
        ):
            manifest = make_corpus(self.folder / f"loop {name}", count, seconds, self.options.corpus)
            ratios = []
            for _ in range(self.options.repeats):
                loop = cost_of_loop(manifest, weights, self.device, self.folder / "loop.json")
                ours = cost_of_extraction(manifest, weights, self.device, self.budget)
                ratios.append(loop.over(ours))
                print(f"loop, {name}: plain {loop}, ours {ours}")
            hours = audio_hours(manifest)
            what = f"{count} files, {hours:.2f} h, {self.options.model}, {self.device}"
            print(f"loop, {name}: {what}; medians of {len(ratios)}:")
            for figure in ("whole_s", "after_load_s", "cpu_s"):
                ratio = statistics.median(getattr(item, figure) for item in ratios)
                print(f"loop, {name}: {figure} of the plain loop / ours: {ratio:.2f}")

    def memory(self) -> None:
        weights = make_model(self.folder, "tiny")
        for count in (100, 1_000, 10_000):
            manifest = make_corpus(self.folder / f"memory {count}", count, (0.5, 1.5), self.options.corpus)
            peak_mb = in_fresh_process(peak_memory, manifest, weights, self.device)
            print(f"memory: {count:6d} files, peak {peak_mb:.0f} MB")
            shutil.rmtree(self.folder / f"memory {count}")

    def rows(self) -> None:
        for count in (1_000, 1_000_000):
            manifest = in_fresh_process(make_rows, self.folder / f"rows {count}", count)
            for who in ("the first task", "a later one"):
                resident_mb, peak_mb = in_fresh_process(opened_memory, manifest)
                print(f"rows: {count:7d}, {who}: {resident_mb:.0f} MB once open, peak {peak_mb:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=[], help="efficiency, loop, memory, rows")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default="base", choices=["base", "tiny", "w2v-bert"])
    parser.add_argument("--corpus", type=Path, help="folder of wav files at 16 kHz")
    parser.add_argument("--files", type=int, default=60, help="clips of 2 to 12 s")
    parser.add_argument("--short-files", type=int, default=1000, help="very short clips")
    parser.add_argument("--batch-seconds", type=float)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        for part in options.parts or ["efficiency", "loop", "memory", "rows"]:
            getattr(bench, part)()


if __name__ == "__main__":
    main()
