"""The scripts of docs/coming-from, as they are written there, on miniatures in the published layouts."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import soundfile

from support import small_weights
from support.tensorflow_models import DIM

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    small_weights.write(folder, "trillsson3", "metis8d", "vggish", "hf/small/wav2vec2")
    return folder


def run_script(page: str, place: Path, environment: str, **variables: object) -> None:
    """Run the shell block of a page in a folder, with the `voxshard` of an environment."""
    (script,) = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs" / "coming-from" / page).read_text(), re.M | re.S)
    path = f"{ROOT / environment / 'bin'}:{os.environ['PATH']}"
    values = {**os.environ, **{name: str(value) for name, value in variables.items()}, "PATH": path}
    done = subprocess.run(
        ["bash", "-euc", script], cwd=place, env=values, capture_output=True, text=True, check=False, timeout=1700
    )
    assert done.returncode == 0, done.stderr[-3000:]


def write_noise(path: Path, seconds: float, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(int(16000 * seconds)), 16000)


def test_trillsson(weights: Path, asvspoof5: Path, tmp_path: Path) -> None:
    run_script("trillsson.md", tmp_path, ".venv-tf", VOXSHARD_WEIGHTS=weights, ASVSPOOF5_ROOT=asvspoof5)
    for split in ("train", "dev"):
        table = pyarrow.csv.read_csv(tmp_path / "data" / "features" / "trillsson" / f"{split}_metadata.csv")
        columns = {"flac_file", "y_task", "y_codec", "y_codec_q", "codec", "codec_q", "embedding_idx"}
        assert columns <= set(table.column_names)
        assert np.load(tmp_path / "data" / "features" / "trillsson" / f"{split}.npy").shape == (table.num_rows, DIM)
    run = tmp_path / "runs" / "logistic"
    assert {"eer", "min_dcf", "accuracy"} <= set(json.loads((run / "metrics.json").read_text())["metrics"]["dev"])
    assert {"by-codec-dev.csv", "by-codec_q-dev.csv"} <= {path.name for path in (run / "tables").iterdir()}


def test_metis(weights: Path, tmp_path: Path) -> None:
    for number in range(4):
        write_noise(tmp_path / "audios" / f"part_00{number % 2 + 2}" / "e8" / "7b" / f"{number}.wav", 0.8, number)
    write_noise(tmp_path / "audios" / "part_003" / "e8" / "7b" / "9.wav", 1.2, 9)
    run_script("metis.md", tmp_path, ".venv-torch", VOXSHARD_WEIGHTS=weights)
    latents = json.loads((tmp_path / "jsons" / "part_003.json").read_text())
    assert list(latents) == [f"part_003/e8/7b/{number}.wav" for number in (1, 3, 9)]
    assert {len(frame) for frames in latents.values() for frame in frames} == {8}
    assert len(latents["part_003/e8/7b/9.wav"]) > len(latents["part_003/e8/7b/1.wav"]) > 1


def test_transfer_learning_with_scikit_learn(weights: Path, tmp_path: Path) -> None:
    lists = tmp_path / "data" / "index" / "GTZAN"
    lists.mkdir(parents=True)
    for split, count in (("train", 4), ("test", 2)):
        names = [f"{genre}/{genre}.{split}{number}.wav" for genre in ("blues", "jazz") for number in range(count)]
        for seed, name in enumerate(names):
            write_noise(tmp_path / "data" / "audio" / "GTZAN" / "genres" / name, 2.1, seed)
        (lists / f"{split}_filtered.txt").write_text("\n".join(names) + "\n")
    run_script("sklearn-transfer.md", tmp_path, ".venv-torch", VOXSHARD_WEIGHTS=weights)
    with np.load(tmp_path / "training_data_GTZAN_vggish.npz") as arrays:
        assert set(arrays) == {"X", "Y", "IDS"}
        assert arrays["X"].shape == (2 * 8, 128)  # two windows of 0.96 s from each recording
        assert len(arrays["Y"]) == len(arrays["IDS"]) == 2 * 8
    assert (tmp_path / "runs" / "gtzan" / "tables" / "confusion-test.csv").exists()


def test_networks_for_few_data(tmp_path: Path) -> None:
    root = tmp_path / "UrbanSound8K"
    lines = ["slice_file_name,fsID,start,end,salience,fold,classID,class"]
    for number in range(12):
        fold, kind = number % 2 + 1, number // 2 % 2
        write_noise(root / "audio" / f"fold{fold}" / f"{number}-{kind}-0-0.wav", 1.5, number)
        lines.append(f"{number}-{kind}-0-0.wav,{number},0,1.5,1,{fold},{kind},{('dog_bark', 'siren')[kind]}")
    (root / "metadata").mkdir()
    (root / "metadata" / "UrbanSound8K.csv").write_text("\n".join(lines) + "\n")
    run_script("few-audio.md", tmp_path, ".venv-torch")
    for run in ("vgg", "proto", "knn"):
        assert (tmp_path / "runs" / run / "metrics.json").exists()
    assert (tmp_path / "runs" / "vgg" / "tables" / "training.csv").exists()


def study(root: Path) -> None:
    for split in ("train", "test"):
        rows = ["uid,breathy,strained,hoarse"]
        for number in range(8):
            folder = root / "speech" / "uds" / f"{split}{number}"
            write_noise(folder / "waveform.wav", 1.2, number)
            (folder / "metadata.json").write_text(json.dumps({"encoding": "PCM_16", "sample_rate_hz": 16000}))
            rows.append(f"{split}{number},{number % 2},{number // 2 % 2},{number // 4}")
        (root / "speech" / f"{split}.csv").write_text("\n".join(rows) + "\n")
    (root / "labels.txt").write_text("breathy,strained\nhoarse\n")


@pytest.mark.parametrize(
    ("page", "features"), [("wav2vec2.md", ["pt", "st"]), ("ecapa.md", ["ft"])], ids=["wav2vec2", "ecapa"]
)
def test_speech_classification(weights: Path, tmp_path: Path, page: str, features: list[str]) -> None:
    study(tmp_path)
    run_script(page, tmp_path, ".venv-torch", VOXSHARD_WEIGHTS=weights)
    embeddings = pyarrow.parquet.read_table(tmp_path / "results" / "embeddings.parquet")
    assert embeddings.num_rows == 16
    assert {"utterance_id", "embedding", "breathy"} <= set(embeddings.column_names)
    for run in ("run", "evaluated"):
        metrics = json.loads((tmp_path / "results" / run / "metrics.json").read_text())["metrics"]["test"]
        assert {"auc.breathy", "auc.strained", "auc.hoarse"} <= set(metrics)
    aucs = pyarrow.csv.read_csv(tmp_path / "results" / "aucs.csv")
    assert aucs.column_names == ["Label", "AUC"]
    assert sorted(aucs["Label"].to_pylist()) == ["breathy", "hoarse", "strained"]
    for name in features:
        assert (tmp_path / "features" / name / "summary.json").exists()
