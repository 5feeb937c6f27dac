"""What a job does with its GPU on a real cluster: where networks are scored, and what follows when the GPU fails."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.network_trials import ECAPA, tone_corpus
from support.slurm_cluster import PATIENCE_S, ROOT, Experiment
from voxshard.slurm.record import Record

TORCH = ROOT / ".venv-torch" / "bin" / "python"
STAND_IN = ROOT / "tests" / "support" / "gpu_stand_in"
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(3000),  # frameworks are imported several times over, on machines that may be slow
    pytest.mark.skipif(not TORCH.exists(), reason="no .venv-torch (make setup-torch)"),
]
PREPARE = {
    "format": "folder",
    "label_from": r"(?P<pitch>[a-z]+)-(?P<take>\d)\.wav",
    "split_from": [r"-[67]\.wav$=test", r"-[0-5]\.wav$=train"],
}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 tones, 6 of them for tests."""
    folder = tmp_path_factory.mktemp("tones")
    tone_corpus(folder / "corpus", seconds=(0.2,))
    return folder / "corpus" / "audio"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny wav2vec 2.0, made in the environment that has PyTorch."""
    folder = tmp_path_factory.mktemp("model")
    code = (
        "import pathlib, sys; from support import torch_models as m; m.save_hf(pathlib.Path(sys.argv[1]), sys.argv[2])"
    )
    subprocess.run(
        [TORCH, "-c", code, folder, "wav2vec2-layer"], check=True, capture_output=True, timeout=PATIENCE_S,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])},
    )  # fmt: skip
    return folder


@pytest.fixture
def on_stand_in(experiment: Callable[..., Experiment], tmp_path: Path) -> Callable[..., Experiment]:
    """Make an experiment whose jobs have a stand-in for a GPU."""

    def make(**environment: str) -> Experiment:
        run = experiment(environment)
        run.environment["PYTHONPATH"] = os.pathsep.join([str(STAND_IN), run.environment["PYTHONPATH"]])
        return run

    return make


def test_a_network_is_scored_in_its_own_job_and_its_groups_need_neither_gpu_nor_recordings(
    on_stand_in: Callable[..., Experiment], recordings: Path, tmp_path: Path
) -> None:
    log = tmp_path / "scored"
    run = on_stand_in(GPU_STAND_IN_LOG=str(log))
    network = {"network": "ecapa", "label": "pitch", "runtime": f"venv:{ROOT / '.venv-torch'}", "settings": ECAPA,
               "training": {"epochs": 1, "batch_size": 6}, "workers": 0, "replicates": 0}  # fmt: skip
    run.submit(
        {
            "prepare": {**PREPARE, "root": str(recordings)},
            "networks": {"tones": network},
            "evaluate": {"group_by": "take"},
        }
    )
    run.cluster.wait_until_empty()
    assert {name: step["tasks"] for name, step in run.statuses().items()} == {
        name: {"done": 1} for name in ("prepare", "networks-tones", "evaluate", "report")
    }, run.logs("networks-tones") + run.logs("evaluate")
    (scored,) = log.read_text().splitlines()  # once, in the job that trained, on its GPU
    name, gpus, count = scored.split(" ")
    assert (name, count) == ("exp:networks-tones", "6")
    assert gpus.removeprefix("gpus=").isdigit()
    evaluated = Record(run.path).task("evaluate", 0)
    assert evaluated is not None
    assert (evaluated.partition, evaluated.gpus) == ("gpu_a100", 0), "the share without GPUs"
    assert "the stored scores have every column to group by: nothing is scored again" in run.logs("evaluate")
    assert list((run.path / "runs").glob("*/tables/by-take-*.csv"))


@pytest.mark.parametrize("broken", ["", "n1 n2"], ids=["one node", "both nodes"])
def test_a_task_whose_gpu_fails_is_tried_on_another_node(
    on_stand_in: Callable[..., Experiment], recordings: Path, model: Path, tmp_path: Path, broken: str
) -> None:
    file = tmp_path / "broken"
    file.write_text(broken)
    run = on_stand_in(GPU_STAND_IN_BROKEN=str(file))
    extraction: dict[str, Any] = {"encoder": {"name": "hf", "weights": str(model)}, "shards": 2, "workers": 1,
                                  "runtime": f"venv:{ROOT / '.venv-torch'}"}  # fmt: skip
    run.submit(
        {
            "prepare": {**PREPARE, "root": str(recordings)},
            "extract": {"one": extraction},
            "jobs": {"extract": {"tasks": 1}},
        }
    )
    run.cluster.wait_until_empty()
    text = run.logs("extract-one")
    assert (
        "CUDA error: uncorrectable ECC error encountered; the GPU or its driver fails. Run the same command on" in text
    )
    record = Record(run.path).task("extract-one", 0)
    assert record is not None
    status = run.voxshard("status", run.path).stdout
    if broken:
        assert (record.state, record.exit_code) == ("failed", 4)
        assert str(record.message).startswith("exit code 4: cpu on ")
        assert "CUDA error: uncorrectable ECC error encountered; the GPU or its driver fails" in str(record.message)
        assert run.attempts("extract-one") == 3, "as often as the site lets it"
        assert "extract-one" in status
        assert "exit code 4" in status
        return
    assert (record.state, record.attempt) == ("done", 2)
    assert record.node not in file.read_text()
    assert f"--exclude={file.read_text()}" in next((run.path / "jobs/extract-one").glob("attempt-002-*.sh")).read_text()
    assert (run.path / "report.html").exists()
