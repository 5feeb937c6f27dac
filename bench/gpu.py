"""Everything that only a GPU can tell, in one command with a time budget.

    python bench/gpu.py --device cuda --budget 480 --out gpu-results      on a machine with a GPU
    python bench/gpu.py --device cpu --budget 240 --out gpu-results       the same with small models

Every part runs in a process of its own, with the time that is left shared among the parts to come. An error is a line
of the results: OUT/results.jsonl has one JSON object per figure, and the table at the end shows all of them. Weights
are random: speed does not depend on them, and exactness is compared with the same weights in float32 on the CPU.

  environment  versions, devices, arithmetic flags, the order of attention kernels
  exactness    alone against in a batch, and against float32 on the CPU, in four precisions
  shapes       the first batch of a shape against the second
  memory       peak memory and speed against padded seconds per batch, up to out of memory, and the recovery from it
  efficiency   bare forward passes / a complete extraction, and the GPU's utilisation meanwhile
  loop         a complete extraction against `bench/plain_loop.py`: times as fast, files per second
  decode       2 s clips per second that reach an encoder which costs nothing
  writing      how long the thread that launches kernels waits while a shard of frames is written
  training     milliseconds per step of ECAPA-TDNN and wav2vec 2.0, and the device on which the test split is scored
  trillsson    rows per second through TensorFlow (where it is installed)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from voxshard.encoders.base import Encoder, EncoderSettings, KnownHashes, Output, describe

Row = dict[str, Any]
RATE = 16_000
PRECISIONS = ("float32", "tf32", "bf16", "fp16")
PACKAGES = ("voxshard", "numpy", "torch", "transformers", "lightning", "speechbrain", "tensorflow", "h5py", "pyarrow")


class ZeroCostEncoder(Encoder):
    """Returns a constant for every utterance: what is left is decoding, the hand-over, batching and writing."""

    settings_model: ClassVar[type[EncoderSettings]] = EncoderSettings

    def __init__(self, name: str, settings: EncoderSettings, known_hashes: KnownHashes) -> None:
        self.info = describe(
            name=name, settings=settings, code_version=1, libraries=["numpy"], sample_rate=RATE, dim=1,
            granularity="utterance", batch_policy="padded",
        )  # fmt: skip

    def encode(self, features: np.ndarray, lengths: np.ndarray) -> list[Output]:
        return [{"embedding": np.zeros(1, np.float32)} for _ in lengths]


def clips(seconds: list[float], seed: int = 0) -> list[np.ndarray]:
    """Noise whose loudness goes up and down as that of speech does, float32."""
    rng = np.random.default_rng(seed)
    found = []
    for length in seconds:
        time_s = np.arange(int(length * RATE)) / RATE
        envelope = 0.05 + 0.1 * np.abs(np.sin(2 * np.pi * 2.3 * time_s + rng.uniform(0, 6)))
        found.append((envelope * rng.standard_normal(len(time_s))).astype(np.float32))
    return found


def make_models(folder: Path, device: str) -> dict[str, Path]:
    """Randomly initialised models: of published size on a GPU, tiny ones of the same kinds on a CPU."""
    import torch
    from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel, Wav2Vec2Config, Wav2Vec2Model, WavLMConfig
    from transformers import WavLMModel as WavLM

    tiny: Row = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    small: Row = tiny if device == "cpu" else {}
    narrow: Row = {"conv_dim": [16] * 7} if device == "cpu" else {}
    large: Row = small or {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
                           "intermediate_size": 4096}  # fmt: skip
    waveform = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "sampling_rate": RATE,
                "padding_value": 0.0, "do_normalize": True, "return_attention_mask": False}  # fmt: skip
    bands = {"feature_extractor_type": "SeamlessM4TFeatureExtractor", "feature_size": 80, "num_mel_bins": 80,
             "stride": 2, "padding_value": 1, "sampling_rate": RATE, "return_attention_mask": True,
             "padding_side": "right"}  # fmt: skip
    layered: Row = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
    kinds: dict[str, tuple[Callable[[], Any], Row]] = {
        "wav2vec2-base": (lambda: Wav2Vec2Model(Wav2Vec2Config(**small, **narrow)), waveform),
        "wavlm-large": (lambda: WavLM(WavLMConfig(**large, **narrow, **layered)), waveform),
        "w2v-bert-2.0": (lambda: Wav2Vec2BertModel(Wav2Vec2BertConfig(**small)), bands),
    }
    for name, (build, preprocessor) in kinds.items():
        if not (folder / name / "preprocessor_config.json").exists():
            torch.manual_seed(0)
            build().save_pretrained(folder / name)
            (folder / name / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return {name: folder / name for name in kinds}


def loaded(weights: Path, device: str, **settings: Any) -> Encoder:
    from voxshard.encoders import registry

    encoder = registry.create("hf", {"weights": str(weights), **settings})
    encoder.load(device)
    return encoder


def batch_of(encoder: Encoder, waveforms: list[np.ndarray]) -> Any:
    from voxshard.encoders.batching import collate

    return collate([encoder.prepare(waveform) for waveform in waveforms], encoder.info.batch_policy)


def wall_s(step: Callable[..., Any], *arguments: Any) -> float:
    since = time.perf_counter()
    step(*arguments)
    return time.perf_counter() - since


def environment(device: str, folder: Path) -> Iterator[Row]:
    import torch

    found: Row = {"python": platform.python_version(), "cpus": os.cpu_count(), "cuda": torch.version.cuda}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    if device == "cuda":
        facts = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": facts.name,
            "memory_gb": round(facts.total_memory / 1e9, 1),
            "sm": f"{facts.major}.{facts.minor}",
        }
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found["driver"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    found["allow_tf32"] = [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]
    found["cudnn_attention"] = torch.backends.cuda.cudnn_sdp_enabled()
    yield found


def exactness(device: str, folder: Path) -> Iterator[Row]:
    from voxshard.extraction.encode import TOLERANCE_RMS, deviation_rms

    waveforms = clips([2.0, 3.1, 4.7, 7.9, 12.0])
    for name, weights in make_models(folder, device).items():
        truth_encoder = loaded(weights, "cpu")
        truth = truth_encoder.encode(*batch_of(truth_encoder, waveforms[:1]))[0]
        for precision in PRECISIONS:
            encoder = loaded(weights, device, precision=precision)
            together = encoder.encode(*batch_of(encoder, waveforms))
            alone = encoder.encode(*batch_of(encoder, waveforms[:1]))[0]
            yield {
                "model": name, "precision": precision, "tolerance": TOLERANCE_RMS[precision],
                "batch_vs_alone": deviation_rms(together[0], alone, precision),
                "alone_vs_cpu_float32": deviation_rms(alone, truth, precision),
            }  # fmt: skip


def shapes(device: str, folder: Path) -> Iterator[Row]:
    for name, weights in make_models(folder, device).items():
        encoder = loaded(weights, device)
        encoder.encode(*batch_of(encoder, clips([1.0, 0.9])))
        first, second = [], []
        for number in range(4):
            batch = batch_of(encoder, clips([3.0 + 0.41 * number] * (3 + number) + [2.0]))
            first.append(wall_s(encoder.encode, *batch))
            second.append(statistics.median(wall_s(encoder.encode, *batch) for _ in range(3)))
        one, other = statistics.median(first), statistics.median(second)
        yield {"model": name, "first_ms": 1000 * one, "second_ms": 1000 * other, "first_over_second": one / other}


def memory(device: str, folder: Path) -> Iterator[Row]:
    import torch

    from voxshard.encoders.batching import make_batches
    from voxshard.errors import DeviceMemoryError
    from voxshard.extraction.decode import PreparedUtterance
    from voxshard.extraction.encode import Budget, ShardEncoder
    from voxshard.extraction.telemetry import Timers

    largest = 40.0 if device == "cpu" else 81920.0
    for name, weights in make_models(folder, device).items():
        encoder = loaded(weights, device)
        budget_s = 10.0 if device == "cpu" else 160.0
        while budget_s <= largest:
            (rows, *_) = make_batches([10 * RATE] * int(budget_s), "padded", lambda length: length / RATE, budget_s)
            batch = batch_of(encoder, clips([10.0] * len(rows)))
            row: Row = {"model": name, "batch_seconds": budget_s}
            try:
                encoder.encode(*batch)
                if device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                row["x_real_time"] = 10 * len(rows) / wall_s(encoder.encode, *batch)
                if device == "cuda":
                    row["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
            except DeviceMemoryError as exc:
                yield row | {"out_of_memory": str(exc)}
                notes: list[str] = []
                count = int(budget_s / 10)
                shard = ShardEncoder(
                    encoder, Budget(budget_s, notes.append), [str(number) for number in range(count)],
                    store_dtype="float32", timers=Timers(),
                )  # fmt: skip
                (feature,) = (encoder.prepare(clip) for clip in clips([10.0]))
                for number in range(count):
                    shard.add(number, PreparedUtterance([feature], 10.0))
                yield {"model": name, "recovered_rows": len(shard.finish()), "of": count, "notes": notes}
                break
            yield row
            budget_s *= 2


def _extract(manifest: Path, weights: Path, device: str, out: Path) -> Any:
    from voxshard.extraction.heartbeat import read_progress
    from voxshard.stages.extract import ExtractConfig, run

    config = ExtractConfig(manifest=manifest, encoder="hf", settings={"weights": str(weights)}, out=out, device=device)
    result = run(config)
    assert not result.missing
    (state,) = read_progress(result.folder.progress)
    return state


def efficiency(device: str, folder: Path) -> Iterator[Row]:
    from extraction import make_corpus, time_bare, time_extraction
    from voxshard.extraction.encode import default_batch_seconds

    count = 24 if device == "cpu" else 2500
    manifest = make_corpus(folder / "efficiency", count, (2.0, 12.0), None)
    for name, weights in make_models(folder, device).items():
        bare_s = time_bare(manifest, weights, device, default_batch_seconds(device))
        complete_s, advice = time_extraction(manifest, weights, device, default_batch_seconds(device))
        yield {"model": name, "bare_s": bare_s, "complete_s": complete_s, "efficiency": bare_s / complete_s,
               "x_real_time": 7.0 * count / complete_s, "advice": advice}  # fmt: skip
    with tempfile.TemporaryDirectory() as out:
        state = _extract(manifest, make_models(folder, device)["wav2vec2-base"], device, Path(out) / "set")
        yield {"model": "wav2vec2-base", "gpu": state.gpu, "timers": state.timers}


def loop(device: str, folder: Path) -> Iterator[Row]:
    from extraction import audio_hours, cost_of_extraction, cost_of_loop, make_corpus
    from voxshard.extraction.encode import default_batch_seconds

    weights = make_models(folder, device)["wav2vec2-base"]
    cases = (("0.2 to 0.8 s", 60 if device == "cpu" else 4000, (0.2, 0.8)),
             ("2 to 12 s", 20 if device == "cpu" else 800, (2.0, 12.0)))  # fmt: skip
    for name, count, seconds in cases:
        manifest = make_corpus(folder / f"loop {name}", count, seconds, None)
        plain = cost_of_loop(manifest, weights, device, folder / "loop.json")
        ours = cost_of_extraction(manifest, weights, device, default_batch_seconds(device))
        yield {"clips": name, "files": count, "times_as_fast_after_load": plain.after_load_s / ours.after_load_s,
               "times_as_fast": plain.whole_s / ours.whole_s, "files_per_s": count / ours.after_load_s,
               "x_real_time": 3600 * audio_hours(manifest) / ours.after_load_s}  # fmt: skip


def decode(device: str, folder: Path) -> Iterator[Row]:
    from extraction import make_corpus
    from voxshard.encoders import registry
    from voxshard.extraction.heartbeat import read_progress
    from voxshard.stages.extract import ExtractConfig, run

    registry.SPECS["zero-cost"] = registry.EncoderSpec(
        "zero-cost", "gpu:ZeroCostEncoder", "voxshard.encoders.base:EncoderSettings", "costs nothing"
    )
    count = 2000 if device == "cpu" else 20000
    manifest = make_corpus(folder / "decode", count, (2.0, 2.0), None)
    for workers in sorted({1, max(1, (os.cpu_count() or 2) - 1)}):
        with tempfile.TemporaryDirectory() as out:
            config = ExtractConfig(manifest=manifest, encoder="zero-cost", out=Path(out) / "set", workers=workers)
            complete_s = wall_s(run, config)
            (state,) = read_progress(config.out / "progress")
            yield {"workers": workers, "clips_per_s": count / (complete_s - state.timers["load_s"])}


def writing(device: str, folder: Path) -> Iterator[Row]:
    """Another thread does nothing but look at the clock; where it cannot, the writer holds the interpreter's lock."""
    from voxshard.store.shard import ShardHeader, write_shard

    count = 100 if device == "cpu" else 400
    frames = np.zeros((500, 768), np.float32)
    header = ShardHeader(
        encoder="x", fingerprint="", plan_hash="", shard_index=0, num_shards=1, granularity="frames",
        sample_rate=RATE, dim=768, frame_rate_hz=50.0,
    )  # fmt: skip
    outputs = [(str(number), {"frames": frames + 1}) for number in range(count)]
    for name, work in (
        ("a shard of frames", lambda: write_shard(folder / "shard.h5", header, outputs, [], replace=True)),
        ("nothing", lambda: time.sleep(1.0)),
    ):
        writer = threading.Thread(target=work)
        since = last = time.perf_counter()
        waits = [0.0]
        writer.start()
        while writer.is_alive():
            now = time.perf_counter()
            if now - last > 0.005:  # the interpreter hands over its lock at least as often
                waits.append(now - last)
            last = now
        yield {"written": name, "audio_s": 10 * count, "seconds": last - since, "waited_s": sum(waits),
               "longest_wait_ms": 1000 * max(waits)}  # fmt: skip


def training(device: str, folder: Path) -> Iterator[Row]:
    import soundfile

    from voxshard.learning._torch.module import TrainedNetwork
    from voxshard.learning._torch.prediction import Predictor
    from voxshard.learning.network_config import NetworkConfig
    from voxshard.manifest import Manifest
    from voxshard.stages.train import run

    audio = folder / "training"
    audio.mkdir(exist_ok=True)
    count, epochs = (24, 1) if device == "cpu" else (640, 3)
    rows = []
    for number, samples in enumerate(clips([3.0] * count)):
        soundfile.write(audio / f"{number}.wav", samples, RATE)
        rows.append({"utterance_id": str(number), "path": f"{number}.wav", "duration_s": 3.0, "sample_rate": RATE,
                     "split": "test" if number % 4 == 0 else "train", "speaker_label": f"s{number % 4}"})  # fmt: skip
    Manifest.from_rows(rows, root=audio, corpus="folder").write(folder / "training.parquet")
    step, score = TrainedNetwork.training_step, Predictor._run
    begun: list[float] = []
    scored_on: list[str] = []

    def timed_step(self: TrainedNetwork, batch: Any, number: int) -> Any:
        begun.append(time.perf_counter())
        return step(self, batch, number)

    def recorded_score(self: Predictor, network: Any, forward: Any, utterances: Any) -> Any:
        scored_on.append(str(next(network.parameters()).device))
        return score(self, network, forward, utterances)

    TrainedNetwork.training_step, Predictor._run = timed_step, recorded_score
    wav2vec2 = {"weights": str(make_models(folder, device)["wav2vec2-base"])}
    width = {"width": 32, "attention_channels": 16} if device == "cpu" else {}
    for family, precision, settings in (
        ("ecapa", "float32", width),
        ("ecapa", "bf16", width),
        ("wav2vec2", "bf16", wav2vec2),
    ):
        begun.clear()
        config = NetworkConfig.model_validate(
            {"manifest": folder / "training.parquet", "label": "speaker_label", "network": family, "device": device,
             "precision": precision, "out": folder / f"run-{family}-{precision}", "settings": settings, "replicates": 0,
             "training": {"epochs": epochs, "batch_size": 8 if device == "cpu" else 64, "lr": 1e-4}}
        )  # fmt: skip
        run(config)
        between = np.diff(begun)
        yield {"network": family, "precision": precision, "ms_per_step": 1000 * float(np.median(between)),
               "scored_on": sorted(set(scored_on))}  # fmt: skip


def trillsson(device: str, folder: Path) -> Iterator[Row]:
    try:
        import tensorflow as tf
    except ModuleNotFoundError:
        yield {"skipped": "TensorFlow is not installed in this environment"}
        return
    from voxshard.encoders._tensorflow.batches import in_batches

    layers = [tf.keras.layers.Dense(2048) for _ in range(2 if device == "cpu" else 12)]
    rows = np.zeros((512 if device == "cpu" else 8192, 2048), np.float32)

    @tf.function(input_signature=[tf.TensorSpec((None, 2048), tf.float32)])  # type: ignore[untyped-decorator]
    def network(batch: tf.Tensor) -> tf.Tensor:
        for layer in layers:
            batch = layer(batch)
        return batch

    list(in_batches(network, rows, np.arange(64)))
    seconds = wall_s(lambda: list(in_batches(network, rows, np.arange(len(rows)))))
    yield {"devices": [item.name for item in tf.config.list_physical_devices()], "rows_per_s": len(rows) / seconds}


PARTS: dict[str, Callable[[str, Path], Iterator[Row]]] = {
    part.__name__: part
    for part in (environment, exactness, shapes, memory, efficiency, loop, decode, writing, training, trillsson)
}


def run_part(name: str, device: str, folder: Path) -> None:
    """Print one JSON line per figure; an error is a line, too."""
    try:
        for row in PARTS[name](device, folder):
            print(json.dumps({"part": name, **row}), flush=True)
    except Exception as exc:  # noqa: BLE001  whatever fails on an unknown machine is a result
        print(json.dumps({"part": name, "error": f"{type(exc).__name__}: {exc}"}), flush=True)


def measure(parts: list[str], device: str, budget_s: float, out: Path) -> list[Row]:
    """Run the parts one after the other, each in a process and within its share of the time that is left."""
    out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + budget_s
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, open(out / "results.jsonl", "w") as results:
        for position, name in enumerate(parts):
            left_s = max(5.0, deadline - time.monotonic())
            share_s = left_s if position + 1 == len(parts) else 2 * left_s / (len(parts) - position)
            command = [sys.executable, __file__, "--part", name, "--device", device, "--work", folder]
            print(f"# {name}, at most {share_s:.0f} s", flush=True)
            since = time.monotonic()
            output, problem = _output_of(command, out / f"{name}.log", share_s)
            found = [json.loads(line) for line in output.splitlines() if line.startswith('{"part"')]
            if problem:
                found.append({"part": name, "error": problem})
            found.append({"part": name, "seconds": time.monotonic() - since})
            rows += found
            results.writelines(json.dumps(row) + "\n" for row in found)
            results.flush()
    return rows


def _output_of(command: list[str], log: Path, timeout_s: float) -> tuple[str, str | None]:
    """Return what a part printed, and what ended it early."""
    with open(log, "w") as stream:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, text=True)
        try:
            output, _ = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            output, _ = child.communicate()
            return output, f"ended after its share of {timeout_s:.0f} s"
    return output, None if child.returncode == 0 else f"ended with exit code {child.returncode}; see {log.name}"


def table(rows: list[Row]) -> str:
    """One line per figure."""
    return "\n".join(
        f"| {row['part']} | "
        + ", ".join(f"{key} {_short(value)}" for key, value in row.items() if key != "part")
        + " |"
        for row in rows
    )


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=[], help=", ".join(PARTS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--budget", type=float, default=480.0, help="seconds for everything")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        run_part(options.part, options.device, options.work)
        return
    rows = measure(options.parts or list(PARTS), options.device, options.budget, options.out)
    print(table(rows))


if __name__ == "__main__":
    main()
