"""Networks as part of an experiment: beside classifiers, each in its own environment, in one report."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from network_trials import LOGMEL, SPECTROGRAM, tone_corpus
from voxshard.config import dump_yaml
from voxshard.store.runs import Run

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(900)  # a whole experiment, with frameworks to import


def experiment(folder: Path) -> dict[str, Any]:
    """A network from audio, one from stored frames and a classifier, on 12 tones to train and 6 to test on."""
    tone_corpus(folder / "corpus", per_class=6)
    common = {
        "label": "pitch", "runtime": f"venv:{ROOT / '.venv-torch'}", "replicates": 20, "device": "cpu", "workers": 0,
        "training": {"epochs": 2, "batch_size": 6, "lr": 0.01},
    }  # fmt: skip
    patches = {"patch_frames": 32, "channels": 4, "embedding_size": 8}
    return {
        "out": str(folder / "exp"),
        "prepare": {
            "format": "folder", "root": str(folder / "corpus/audio"), "label_from": r"(?P<pitch>[a-z]+)-(?P<take>\d)",
            "split_from": [r"-[45]\.wav$=test", r"-[0-3]\.wav$=train"],
        },
        "extract": {"logmel": {"encoder": {"name": "logmel", **LOGMEL}}, "mfcc": {"encoder": "mfcc"}},
        "train": {"label": "pitch", "classifier": "knn", "features": ["mfcc"], "replicates": 20},
        "networks": {
            "tones": {**common, "network": ["vgg"], "settings": {**SPECTROGRAM, "vgg": {"channels": 6}}},
            "stored": {**common, "network": "timbre", "features": "logmel", "settings": patches, "seed": [1]},
        },
        "evaluate": {"group_by": ["take"]},
    }  # fmt: skip


def run(config: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    path = folder / "config.yaml"
    path.write_text(dump_yaml(config))
    command = [ROOT / ".venv/bin/python", "-m", "voxshard", "run", path]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def test_an_experiment_trains_networks_beside_classifiers_and_reports_them_together(tmp_path: Path) -> None:
    config = experiment(tmp_path)
    done = run(config, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    runs = {path.name: Run.read(path) for path in (tmp_path / "exp/runs").iterdir() if path.is_dir()}
    assert set(runs) == {"mfcc-knn-0", "tones-vgg-0", "stored-timbre-1"}
    assert runs["tones-vgg-0"].config["settings"]["channels"] == 6
    assert runs["stored-timbre-1"].config["settings"]["features"] == "logmel"
    assert all((item.path / "tables/by-take-test.csv").exists() for item in runs.values())
    report = (tmp_path / "exp/report.html").read_text()
    assert all(name in report for name in runs)
    assert "learning rate" in report.lower()
    written = {name: (item.path / "metrics.json").stat().st_mtime_ns for name, item in runs.items()}
    again = run(config, tmp_path)
    assert again.returncode == 0, again.stderr[-3000:]
    assert {name: (item.path / "metrics.json").stat().st_mtime_ns for name, item in runs.items()} == written


def test_a_mistake_in_a_network_is_told_before_anything_is_prepared(tmp_path: Path) -> None:
    config = experiment(tmp_path)
    config["networks"]["stored"]["augment"] = {"gain": 6}
    done = run(config, tmp_path)
    assert done.returncode == 2
    assert "networks.stored (timbre): 1 problem\n  (whole): augment.gain changes waveforms" in done.stderr
    assert not (tmp_path / "exp").exists()
