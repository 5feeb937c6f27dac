"""What needs more than one environment: two frameworks in one experiment, and the way from weights to a classifier."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.csv
import pytest

import voxshard
from voxshard.config import dump_yaml

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(1800)  # complete experiments, with frameworks to import


def run(command: list[str | Path], cwd: Path, **environment: str | Path) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    return subprocess.run(
        command, cwd=cwd, env=variables, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def test_one_experiment_extracts_with_both_frameworks_and_compares(
    weights: Path, asvspoof5: Path, tmp_path: Path
) -> None:
    config = {
        "out": str(tmp_path / "experiment"),
        "prepare": {"format": "asvspoof5", "root": str(asvspoof5)},
        "extract": {
            "trillsson3": {"encoder": "trillsson3", "runtime": f"venv:{ROOT / '.venv-tf'}"},
            "wav2vec2": {
                "encoder": {"name": "hf", "weights": "small/wav2vec2", "layer": 2, "pooling": "mean"},
                "runtime": f"venv:{ROOT / '.venv-torch'}",
            },
        },
        "train": {
            "label": "label",
            "features": ["trillsson3", "wav2vec2", ["trillsson3", "wav2vec2"]],
            "settings": {"standardize": True},
            "replicates": 20,
        },
        "evaluate": {"group_by": ["codec"]},
    }
    (tmp_path / "config.yaml").write_text(dump_yaml(config))
    command: list[str | Path] = [ROOT / ".venv/bin/python", "-X", "importtime", "-m", "voxshard", "run"]
    done = run([*command, tmp_path / "config.yaml"], tmp_path, VOXSHARD_WEIGHTS=weights)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not re.search(r"\| +(torch|tensorflow)$", done.stderr, re.M), "the parent imported a framework"
    experiment = tmp_path / "experiment"
    assert len(voxshard.open_features(experiment / "features" / "trillsson3")) == 36
    assert voxshard.open_features(experiment / "features" / "wav2vec2").embeddings.shape == (36, 32)
    runs = {path.name for path in (experiment / "runs").iterdir() if path.is_dir()}
    assert runs == {"trillsson3-logistic-0", "wav2vec2-logistic-0", "trillsson3+wav2vec2-logistic-0"}
    report = (experiment / "report.html").read_text()
    assert all(name in report for name in runs)


def test_make_extract_trillsson_ends_with_vectors_and_their_metadata(
    weights: Path, asvspoof5: Path, tmp_path: Path
) -> None:
    command: list[str | Path] = ["make", "--no-print-directory", "extract-trillsson", "SPLIT=train", f"OUT={tmp_path}"]
    done = run(command, ROOT, VOXSHARD_WEIGHTS=weights, ASVSPOOF5_ROOT=asvspoof5)
    assert done.returncode == 0, done.stderr[-3000:]
    vectors = np.load(tmp_path / "train.npy", allow_pickle=False)
    table = pyarrow.csv.read_csv(tmp_path / "train_metadata.csv")
    assert vectors.shape[0] == len(table) == 12
    wanted = {"flac_file", "y_task", "y_codec", "y_codec_q", "codec", "codec_q", "embedding_idx"}
    assert wanted <= set(table.column_names)
    assert table["embedding_idx"].to_pylist() == list(range(12))


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("ASVSPOOF5_ROOT", "ASVSPOOF5_ROOT is '': set it to the folder that holds flac_T, flac_D, flac_E_eval"),
        ("VOXSHARD_WEIGHTS", "no trillsson3 in VOXSHARD_WEIGHTS (''): on a machine with internet"),
    ],
)
def test_make_extract_trillsson_says_what_is_missing(
    weights: Path, asvspoof5: Path, tmp_path: Path, variable: str, message: str
) -> None:
    given = {"VOXSHARD_WEIGHTS": weights, "ASVSPOOF5_ROOT": asvspoof5, variable: ""}
    done = run(["make", "extract-trillsson", f"OUT={tmp_path}"], ROOT, **given)
    assert done.returncode != 0
    assert message in done.stdout


def test_the_documented_offline_workflow_runs_as_written(weights: Path, asvspoof5: Path, tmp_path: Path) -> None:
    for name in (".venv", ".venv-torch", ".venv-tf"):
        (tmp_path / name).symlink_to(ROOT / name)
    text = (ROOT / "docs" / "offline-workflow.md").read_text()
    script = "\n".join(re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S))
    assert script.count("voxshard") >= 10
    done = run(["bash", "-euo", "pipefail", "-c", script], tmp_path, VOXSHARD_WEIGHTS=weights, ASVSPOOF5_ROOT=asvspoof5)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {"train.npy", "train_metadata.csv", "dev.npy", "eval.npy"} <= {
        p.name for p in (tmp_path / "moved").iterdir()
    }
    assert (tmp_path / "report.html").stat().st_size > 10_000
