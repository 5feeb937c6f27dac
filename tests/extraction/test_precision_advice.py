"""One line about what another precision would gain, from a measurement on the device; a stand-in for a GPU has a clock
of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from support import toy_encoder
from support.toy_encoder import ToyEncoder, ToySettings
from support.trees import Notes
from voxshard.encoders.base import Output, Precision
from voxshard.errors import DeviceMemoryError
from voxshard.extraction import precision_advice as module
from voxshard.extraction.precision_advice import precision_advice
from voxshard.manifest import Manifest
from voxshard.stages import extract
from voxshard.stages.base import Task
from voxshard.stages.extract import ExtractConfig

RATE = 16_000


class TwoSpeeds(ToyEncoder):
    """Takes a second per row in float32, less in tf32, in which every number is off by a thousandth of its size."""

    precisions = ("float32", "tf32")
    gain = 4.0

    def __init__(self, name: str, settings: ToySettings, known_hashes: Any) -> None:
        super().__init__(name, settings, known_hashes)
        self.seconds = 0.0
        self.tried: list[tuple[str, int]] = []

    def choose_device(self, request: str) -> tuple[str, str]:
        return "cuda:0", "a stand-in"

    def encode(self, features: np.ndarray, lengths: np.ndarray) -> list[Output]:
        self.seconds += len(lengths)
        return super().encode(features, lengths)

    def encode_in(self, precision: Precision, features: np.ndarray, lengths: np.ndarray) -> list[Output]:
        self.tried.append((precision, len(lengths)))
        self.seconds += len(lengths) / self.gain
        return [
            {key: value * np.float32(1.001) for key, value in row.items()} for row in super().encode(features, lengths)
        ]


def features(count: int, seconds: float = 10.0) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(0, 0.1, int(seconds * RATE)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize(("policy", "count"), [("padded", 7), ("windows", 8), ("equal_length", 8), ("single", 1)])
def test_the_gain_and_the_deviation_are_measured_on_one_batch(policy: Any, count: int) -> None:
    encoder = TwoSpeeds("toy", ToySettings(policy=policy), {})
    text = precision_advice(encoder, features(30), clock=lambda: encoder.seconds)
    assert text is not None
    assert text.startswith(
        "precision=tf32 would be about 4.0 x as fast here, with numbers that differ by up to 0.001 x rms from float32 "
        f"(measured on {count} utterances)"
    )
    assert encoder.tried == [("tf32", count)] * 2, "once to warm up"


def test_nothing_is_advised_where_little_is_gained_or_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TwoSpeeds("toy", ToySettings(), {})
    encoder.gain = 1.1
    assert precision_advice(encoder, features(3), clock=lambda: encoder.seconds) is None

    def too_large(*_: object) -> None:
        raise DeviceMemoryError("does not fit")

    monkeypatch.setattr(encoder, "encode_in", too_large)
    assert precision_advice(encoder, features(3), clock=lambda: encoder.seconds) is None


@pytest.mark.parametrize(
    ("changes", "task", "expected"),
    [
        ({}, (0, 2), 1),
        ({}, (1, 2), 0),  # one of several tasks prints it
        ({"settings": {"precision": "tf32"}}, (0, 2), 0),
        ({"batch_seconds": 100.0}, (0, 2), 0),  # fewer batches than are worth a measurement
    ],
)
def test_an_extraction_on_a_gpu_in_float32_prints_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], task: tuple[int, int], expected: int
) -> None:
    toy_encoder.install(monkeypatch)
    monkeypatch.setattr(toy_encoder, "ToyEncoder", TwoSpeeds)
    monkeypatch.setattr(module, "WORTH_SAYING", 0.0)  # of the clock of this machine nothing is claimed
    rows = []
    for number in range(60):
        soundfile.write(tmp_path / f"{number}.wav", np.full(RATE, 0.1), RATE)
        rows.append({"utterance_id": str(number), "path": f"{number}.wav", "duration_s": 1.0, "sample_rate": RATE})
    Manifest.from_rows(rows, root=tmp_path, corpus="folder").write(tmp_path / "manifest.parquet")
    config = {"manifest": tmp_path / "manifest.parquet", "encoder": "toy", "out": tmp_path / "set", "shards": 6,
              "batch_seconds": 1.0, "workers": 1, **changes}  # fmt: skip
    notes = Notes()
    extract.run(ExtractConfig.model_validate(config), Task(index=task[0], count=task[1], progress=notes))
    assert sum(note.startswith("precision=tf32 would be about") for note in notes.lines) == expected
