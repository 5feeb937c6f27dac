"""The plain sbatch scripts and the make targets, as a user types them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import soundfile

from support import small_weights
from support.slurm_cluster import MINI, PATIENCE_S, ROOT, Experiment, unavailable

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3000)]
MakeExperiment = Callable[..., Experiment]


@dataclass(frozen=True)
class Model:
    """A small model under the name a user has its weights by, and where its framework is installed."""

    encoder: str
    weights: str
    """Below $VOXSHARD_WEIGHTS."""
    venv: str
    environment: dict[str, str] = field(default_factory=dict)
    settings: tuple[str, ...] = ()

    def put(self, store: Path) -> None:
        """Lay the weights where $VOXSHARD_WEIGHTS=store finds them."""
        try:
            small_weights.write(store, self.weights)
        except small_weights.MissingEnvironmentError as exc:
            unavailable(str(exc))


METIS = Model("metis8d", "metis8d", ".venv-torch")
TRILLSSON = Model("trillsson3", "trillsson3", ".venv-tf", {"MODEL": "trillsson3"})
HF = Model("hf", "hf/facebook/wav2vec2-base", ".venv-torch",
           {"MODEL": "facebook/wav2vec2-base", "LAYER": "1"},
           ("--set", "weights=facebook/wav2vec2-base", "--set", "layer=1", "--set", "pooling=mean"))  # fmt: skip


@pytest.mark.parametrize(
    ("script", "model"), [("metis_array.sh", METIS), ("trillsson_array.sh", TRILLSSON), ("hf_array.sh", HF)]
)
def test_the_plain_scripts_go_through_preemption(experiment: MakeExperiment, script: str, model: Model) -> None:
    run = experiment()
    model.put(run.folder / "weights")
    out = run.folder / "a set's"
    run.voxshard("prepare", "asvspoof5", MINI, "--out", "manifest.parquet", "--limit", "420")
    venv = ROOT / model.venv
    run.environment |= {"VENV": str(venv), "DEVICE": "cpu", "OUT": str(out), "MANIFEST": "manifest.parquet",
                        "VOXSHARD_WEIGHTS": str(run.folder / "weights"), **model.environment}  # fmt: skip
    plan = ["extract", "manifest.parquet", "--encoder", model.encoder, *model.settings, "--out", str(out),
            "--shards", "140", "--plan-only"]  # fmt: skip
    call(run, [str(venv / "bin" / "python"), "-m", "voxshard", *plan])
    job = call(run, ["sbatch", "--parsable", "--mem=3000", "--array=0-1", str(ROOT / "slurm" / script)]).strip()
    run.cluster.wait_until(lambda: len(list(out.glob("shards/*.h5"))) >= 1, "a shard")
    run.cluster.preempt()
    run.cluster.wait_until_empty()
    logs = "\n".join(path.read_text() for path in run.folder.glob("*.out"))
    assert re.search(r"all (\d+) shards are done", logs), logs
    assert "Restarts=0" not in run.cluster.call("scontrol", "show", "job", "-o", job), "they were preempted at work"
    assert "420 utterances, 0 failures" in call(run, ["bash", str(ROOT / "slurm" / "merge.sh")])


def call(run: Experiment, words: list[str]) -> str:
    """Run a command as at the user's terminal; what it prints."""
    done = subprocess.run(words, env=run.environment, cwd=run.folder, check=False, capture_output=True, text=True,
                          timeout=PATIENCE_S)  # fmt: skip
    assert done.returncode == 0, f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def test_the_pipeline_script_submits_and_merges(experiment: MakeExperiment) -> None:
    run = experiment()
    METIS.put(run.folder / "weights")
    run.voxshard("prepare", "asvspoof5", MINI, "--out", "manifest.parquet", "--limit", "30")
    run.environment |= {"VENV": str(ROOT / METIS.venv), "DEVICE": "cpu", "TASKS": "2",
                        "VOXSHARD_WEIGHTS": str(run.folder / "weights"), "SBATCH_MEM_PER_NODE": "3000"}  # fmt: skip
    told = call(run, ["bash", str(ROOT / "slurm" / "pipeline.sh"), "metis"])
    assert re.fullmatch(r"metis: extraction \d+, then merge \d+; voxshard status features/metis\n", told)
    run.cluster.wait_until_empty()
    assert (run.folder / "features" / "metis" / "features.h5").exists(), [
        path.read_text() for path in run.folder.glob("*.out")
    ]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What `make extract-...` needs of a checkout with its environments made, so that nothing is installed."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    os.utime(folder / "pyproject.toml", (0, 0))  # older than the environments
    shutil.copytree(ROOT / "configs", folder / "configs")
    for name in (".venv", ".venv-torch", ".venv-tf"):
        if not (ROOT / name / ".installed").exists():
            unavailable(f"needs {name} (make setup, setup-torch, setup-tf)")
        (folder / name).symlink_to(ROOT / name)
    return folder


def recordings(folder: Path) -> None:
    """Six recordings as `folder` and, with labels, as `uid-folders` reads them."""
    for number in range(6):
        place = folder / f"uid{number}"
        place.mkdir(parents=True)
        noise = np.random.default_rng(number).uniform(-0.5, 0.5, 12000)
        soundfile.write(place / "waveform.wav", noise, 16000)
        (place / "metadata.json").write_text("{}")
    for name, numbers in (("train.csv", range(4)), ("test.csv", range(4, 6))):
        rows = [f"uid{number},{number % 2},{number % 2}" for number in numbers]
        (folder / name).write_text("\n".join(["uid,breathy,strained", *rows]) + "\n")


@pytest.mark.parametrize(
    ("target", "model", "features"),
    [
        ("extract-metis", METIS, "metis/features/metis8d"),
        ("extract-hf", HF, "wav2vec2/features/wav2vec2"),
    ],
)
def test_make_extracts_the_same_here_and_with_a_site(
    experiment: MakeExperiment, checkout: Path, target: str, model: Model, features: str
) -> None:
    run = experiment()
    model.put(run.folder / "weights")
    recordings(run.folder / "corpus")
    corpus = str(run.folder / "corpus")
    run.environment |= {"VOXSHARD_WEIGHTS": str(run.folder / "weights"), "CORPUS_ROOT": corpus, "STUDY_ROOT": corpus}
    found: list[dict[str, Any]] = []
    for where, words in (("there", ["SITE=test"]), ("here", [])):
        run.environment["VOXSHARD_EXPERIMENTS"] = str(run.folder / where)
        call(run, ["make", "-C", str(checkout), target, "DEVICE=cpu", *words])
        if words:
            run.cluster.wait_until_empty()
        with h5py.File(run.folder / where / features / "features.h5", "r", locking=False) as file:
            numbers = file["frames" if "frames" in file else "embeddings"][:]
            found.append({"ids": file["utterance_id"].asstr()[:].tolist(), "bytes": numbers.tobytes()})
    assert len(found[0]["ids"]) == 6
    assert found[0] == found[1]
