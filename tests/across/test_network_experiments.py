"""Networks as part of an experiment: next to classifiers, each in its own environment, in one report."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voxshard.store.runs import Run

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(1800)  # a complete experiment, with frameworks to import
SMALL = [
    word
    for name in ("audio", "stored")
    for setting in ("training.epochs=2", "training.batch_size=6", "settings.channels=4", "replicates=20", "workers=0")
    for word in ("--set", f"networks.{name}.{setting}")
]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tones of three pitches by two `speakers`, named like the recordings of the Free Spoken Digit Dataset."""
    folder = tmp_path_factory.mktemp("digits")
    rng = np.random.default_rng(0)
    time = np.arange(3000) / 8000
    for number in range(36):
        digit, speaker, take = number % 3, ("ann", "bob")[number // 3 % 2], number // 6 + 2
        tone = 0.3 * np.sin(2 * np.pi * 400 * 2**digit * time) + 0.01 * rng.standard_normal(len(time))
        soundfile.write(folder / f"{digit}_{speaker}_{take}.wav", tone, 8000)
    return folder


def run(digits: Path, place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [ROOT / ".venv/bin/python", "-m", "voxshard", "run", ROOT / "configs/digits.yaml", *SMALL, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FSDD_ROOT": str(digits), "VOXSHARD_EXPERIMENTS": str(place)}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def test_an_experiment_trains_networks_beside_classifiers_and_reports_them_together(
    digits: Path, tmp_path: Path
) -> None:
    done = run(digits, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    experiment = tmp_path / "digits"
    runs = {path.name: Run.read(path) for path in (experiment / "runs").iterdir() if path.is_dir()}
    assert set(runs) == {"mfcc-knn-0", "audio-vgg-0", "stored-vgg-0"}
    settings = [runs[name].config["settings"] for name in ("audio-vgg-0", "stored-vgg-0")]
    assert [(found["features"], found["num_mels"]) for found in settings] == [("mel", 48), ("logmel", 48)]
    assert all((item.path / "tables/by-name-test.csv").exists() for item in runs.values())
    report = (experiment / "report.html").read_text()
    assert all(name in report for name in runs)
    assert "learning rate" in report.lower()
    written = {name: (item.path / "metrics.json").stat().st_mtime_ns for name, item in runs.items()}
    again = run(digits, tmp_path)
    assert again.returncode == 0, again.stderr[-3000:]
    assert {name: (item.path / "metrics.json").stat().st_mtime_ns for name, item in runs.items()} == written


def test_a_mistake_in_a_network_is_told_before_anything_is_prepared(digits: Path, tmp_path: Path) -> None:
    done = run(digits, tmp_path, "--set", "networks.stored.augment.gain=6")
    assert done.returncode == 2
    assert "networks.stored (vgg): 1 problem\n  augment.gain changes waveforms" in done.stderr
    assert not (tmp_path / "digits").exists()
