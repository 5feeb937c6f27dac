"""The data path of network training against the bare training step, and against a plain DataLoader with librosa.

    python bench/training.py [--recordings 400] [--workers 1] [--width 128]

Three ways to feed the same ECAPA training step with the same recordings (synthetic, 3 s, 16 kHz FLAC), in one process:
  bare      batches prepared in memory beforehand: what the step itself takes
  voxshard  recordings read, cropped and made into MFCC by the worker processes of the data path
  plain     torch's DataLoader with one worker that decodes with librosa and makes MFCC with librosa
`efficiency` is the bare time over the time of each way.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import librosa
import numpy as np
import soundfile
import torch
from torch.utils.data import DataLoader, Dataset

from voxshard.learning._torch.data import Recordings, ResumableBatchSampler, loader
from voxshard.learning._torch.losses import NetworkLoss
from voxshard.learning.network_config import TrainingClipSettings
from voxshard.manifest import Manifest
from voxshard.networks.network import Network
from voxshard.networks.settings import LabelGroup, NetworkSpec

RATE, SECONDS, CLASSES = 16000, 3.0, 8
Fed: TypeAlias = tuple[torch.Tensor, np.ndarray, torch.Tensor]
"""Features, lengths, targets."""


class Plain(Dataset[Any]):
    """What a training script usually has."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        wave, _ = librosa.load(self.paths[row], sr=RATE)
        mfcc = librosa.feature.mfcc(y=wave, sr=RATE, n_mfcc=80, n_fft=400, hop_length=200, n_mels=128)
        return torch.from_numpy(np.ascontiguousarray(mfcc.T)), row % CLASSES


class Step:
    """One step of training."""

    def __init__(self, width: int) -> None:
        labels = tuple(str(number) for number in range(CLASSES))
        spec = NetworkSpec(
            family="ecapa",
            settings={"width": width},
            groups=(LabelGroup(labels=labels, column="label"),),
            loss="cross_entropy",
        )
        torch.manual_seed(0)
        self.network = Network(spec, None).train()
        self.loss = NetworkLoss("cross_entropy", [CLASSES], None, 0.2, 30.0)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), 3e-4)

    def __call__(self, features: torch.Tensor, lengths: np.ndarray, targets: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        self.loss(self.network(features, lengths), targets).backward()
        self.optimizer.step()


def timed(step: Step, batches: Iterable[Fed]) -> float:
    """Seconds for all batches, the start of workers included."""
    start = time.perf_counter()
    for batch in batches:
        step(*batch)
    return time.perf_counter() - start


def main() -> None:
    """Print a line per way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=400)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1, help="of the training step")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    step = Step(options.width)
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        rows = []
        for number in range(options.recordings):
            wave = 0.1 * rng.standard_normal(int(SECONDS * RATE)).cumsum().clip(-5, 5)
            soundfile.write(Path(folder) / f"{number}.flac", wave, RATE)
            rows.append({"utterance_id": str(number), "path": f"{number}.flac", "duration_s": SECONDS})
        manifest = Manifest.from_rows(rows, root=folder, corpus="table")
        targets = np.eye(CLASSES, dtype=np.float32)[np.arange(options.recordings) % CLASSES]
        recordings = Recordings.of(
            manifest, targets, step.network.backbone, clip=TrainingClipSettings.model_validate({}), seed=0
        )
        order = ResumableBatchSampler(np.arange(options.recordings), options.batch, 0)
        prepared = [
            (batch.features, batch.lengths_B, batch.targets_BC) for batch in loader(recordings, order, "padded", 0)
        ]
        timed(step, prepared[:3])  # warm
        plain = DataLoader(
            Plain([Path(folder) / f"{number}.flac" for number in range(options.recordings)]),
            batch_size=options.batch,
            shuffle=True,
            num_workers=1,
            drop_last=True,
        )
        eye = torch.eye(CLASSES)

        def ours() -> Iterator[Fed]:
            for item in loader(recordings, order, "padded", options.workers):
                yield item.features, item.lengths_B, item.targets_BC

        def theirs() -> Iterator[Fed]:
            for features, labels in plain:
                yield features, np.full(len(features), features.shape[1], np.int64), eye[labels]

        seconds = {"bare": float("inf"), "voxshard": float("inf"), "plain": float("inf")}
        for _ in range(options.repeats):  # in turn, the fastest of each: other work on the machine hits all alike
            for name, batches in (("bare", prepared), ("voxshard", ours()), ("plain", theirs())):
                seconds[name] = min(seconds[name], timed(step, batches))
    audio_s = len(prepared) * options.batch * SECONDS
    print(f"{options.recordings} recordings of {SECONDS:g} s, batch {options.batch}, {options.workers} worker(s)")
    for name, taken in seconds.items():
        print(f"{name:9s} {taken:6.1f} s  {audio_s / taken:7.1f} x real time  efficiency {seconds['bare'] / taken:.2f}")


if __name__ == "__main__":
    main()
