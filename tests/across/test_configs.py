"""Every shipped config, run to its end on a corpus of a few noises and on models of a few parameters."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

import voxshard
from support import small_weights
from support.tensorflow_models import DIM
from voxshard.store.runs import Run

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(1800)  # each test runs an experiment, with a framework to import


@pytest.fixture(scope="module")
def weights_of_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    small_weights.write(folder, "trillsson3", "metis8d", "ecapa", "vggish", "hf/facebook/wav2vec2-base")
    return folder


def write_noise(path: Path, seconds: float, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(int(16000 * seconds)), 16000)


def folder_of_wavs(root: Path) -> None:
    for number in range(6):
        write_noise(root / f"part_{number % 2:03d}" / "e8" / f"{number}.wav", 0.8 + 0.2 * number, number)


def gtzan(root: Path) -> None:
    for split, count in (("train", 4), ("valid", 2), ("test", 2)):
        names = [f"{genre}/{genre}.{split}{number}.wav" for genre in ("blues", "jazz") for number in range(count)]
        for seed, name in enumerate(names):
            write_noise(root / name, 2.1, seed)
        (root / f"{split}_filtered.txt").write_text("\n".join(names) + "\n")


def study(root: Path) -> None:
    for split in ("train", "test"):
        rows = ["uid,breathy,strained"]
        for number in range(8):
            uid = f"{split}{number}"
            write_noise(root / uid / "waveform.wav", 1.2, number)
            (root / uid / "metadata.json").write_text(json.dumps({"encoding": "PCM_16", "sample_rate_hz": 16000}))
            rows.append(f"{uid},{number % 2},{number // 2 % 2}")
        (root / f"{split}.csv").write_text("\n".join(rows) + "\n")


def us8k(root: Path) -> None:
    rows = ["slice_file_name,fsID,start,end,salience,fold,classID,class"]
    for fold in range(1, 4):
        for number in range(6):
            name = f"{1000 * fold + number}-{number % 2}-0-0.wav"
            write_noise(root / "audio" / f"fold{fold}" / name, 1.0 + number % 3, number)
            rows.append(f"{name},{1000 * fold + number},0,1,1,{fold},{number % 2},{('siren', 'drilling')[number % 2]}")
    (root / "metadata").mkdir()
    (root / "metadata" / "UrbanSound8K.csv").write_text("\n".join(rows) + "\n")


def tut(root: Path) -> None:
    for kind, count in (("development", 8), ("evaluation", 4)):
        folder = root / f"TUT-acoustic-scenes-2017-{kind}"
        names = [f"audio/{kind[0]}{number:03d}_0_10.wav" for number in range(count)]
        for number, name in enumerate(names):
            write_noise(folder / name, 3.2, number)
        lines = [f"{name}\t{('beach', 'park')[place % 2]}\t{kind[0]}{place}" for place, name in enumerate(names)]
        (folder / "meta.txt").write_text("\n".join(lines) + "\n")


_SMALL_SPEC = [
    "networks.spec.settings={preset: few-audio-2018, channels: 4}", "networks.spec.training.epochs=1",
    "networks.spec.training.batch_size=4",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "variable", "make", "features", "changes"),
    [
        ("metis", "CORPUS_ROOT", folder_of_wavs, "metis8d", ["extract.metis8d.device=cpu"]),
        ("sklearn-transfer", "GTZAN_ROOT", gtzan, "vggish", ["train.settings.pca=3"]),
        ("wav2vec2", "STUDY_ROOT", study, "wav2vec2", []),
        ("ecapa", "STUDY_ROOT", study, "ecapa", []),
        ("few-audio-us8k", "US8K_ROOT", us8k, "mfcc", _SMALL_SPEC),
        (
            "few-audio-tut",
            "TUT_ROOT",
            tut,
            "mfcc",
            [
                *_SMALL_SPEC,
                "train.n_shot=[2]",
                "networks.spec.n_shot=[2]",
                "networks.spec.runs=1",
                "networks.proto.n_shot=[2]",
                "networks.proto.runs=1",
                "networks.proto.training.epochs=1",
                "networks.proto.episodes={support: 1, query: 1, per_epoch: 1}",
                "networks.proto.settings={preset: few-audio-2018, channels: 4}",
            ],
        ),
    ],
)
def test_the_config_runs(
    weights_of_all: Path,
    tmp_path: Path,
    name: str,
    variable: str,
    make: Callable[[Path], None],
    features: str,
    changes: list[str],
) -> None:
    make(tmp_path / "corpus")
    finished = run_config(name, tmp_path, weights_of_all, {variable: str(tmp_path / "corpus")}, changes)
    assert len(voxshard.open_features(finished / "features" / features)) >= 6
    assert (finished / "report.html").exists()


def test_the_trillsson_config_runs(weights_of_all: Path, asvspoof5: Path, tmp_path: Path) -> None:
    # One of the three speakers here has the one codec.
    changes = ["train.also.codec.folds=flac_file", "train.also.codec.settings={standardize: true, num_folds: 2}"]
    finished = run_config("trillsson", tmp_path, weights_of_all, {"ASVSPOOF5_ROOT": str(asvspoof5)}, changes)
    assert voxshard.open_features(finished / "features" / "trillsson3").embeddings.shape == (36, DIM)
    task, codec = (Run.read(finished / "runs" / f"trillsson3-{name}0") for name in ("mlp-", "codec-mlp-"))
    assert (task.config["label"], task.config["splits"]) == (["label"], ["dev", "eval"])
    assert codec.config["label"] == ["codec"]
    assert "folds" in codec.metrics["metrics"]
    assert len(codec.config["classes"]) > 1


def run_config(name: str, place: Path, weights: Path, variables: dict[str, str], changes: list[str]) -> Path:
    environment = {**os.environ, **variables, "VOXSHARD_WEIGHTS": str(weights), "VOXSHARD_EXPERIMENTS": str(place)}
    command = [str(ROOT / ".venv/bin/python"), "-m", "voxshard", "run", str(ROOT / "configs" / f"{name}.yaml")]
    command += [word for change in changes for word in ("--set", change)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (report,) = place.glob("*/report.html")
    return report.parent
