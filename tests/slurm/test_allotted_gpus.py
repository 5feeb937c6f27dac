"""A job uses the GPU it was given, or ends: it does not work on the CPU for the price of a GPU."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest

from support.earlier_runs import cluster as draft_of
from support.earlier_runs import prepared
from voxshard.encoders.device_request import allotted_gpus, check_allotted
from voxshard.errors import DeviceUnavailableError, EnvironmentProblemError
from voxshard.experiment.schema import load
from voxshard.slurm.array_task import ArrayTask

ROOT = Path(__file__).parents[2]
MODEL = {"name": "hf", "weights": "some/model"}


@pytest.mark.parametrize(
    ("step", "encoder", "section", "gpus", "wanted"),
    [
        ("extract-one", MODEL, {}, 1, ["--device", "cuda"]),
        ("repair-one", MODEL, {}, 1, ["--set", "device=cuda"]),
        ("extract-one", MODEL, {}, 0, []),
        ("extract-one", MODEL, {"device": "cpu"}, 1, []),
        ("extract-one", "mfcc", {}, 1, []),
        ("prepare", MODEL, {}, 1, []),
    ],
)
def test_an_extraction_on_a_partition_with_gpus_is_given_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, encoder: object, section: dict[str, str], gpus: int,
    wanted: list[str],
) -> None:  # fmt: skip
    found = draft_of(tmp_path, "exp", encoder, 2, **section)
    prepared(found.experiment, [100.0] * 4)
    found.experiment.freeze()
    found.record.write(found.submission, found.site)
    (found.record.path / "repair-one").mkdir()
    (found.record.path / "repair-one" / "wanted").touch()
    monkeypatch.setattr(ArrayTask, "_asked", lambda self: {"gpus": gpus})
    started: list[list[str]] = []
    monkeypatch.setattr(ArrayTask, "_child", lambda self, words, environment: started.append(words) or 0)
    monkeypatch.setattr(ArrayTask, "_check_inputs", lambda self: None)
    found.record.folder(step).mkdir(exist_ok=True)
    assert ArrayTask(found.experiment.path, step, 1, 0, "7_0", 0, threading.Event()).run() == 0
    words = started[0]
    if wanted:
        assert words[-2:] == wanted
    else:
        assert "cuda" not in words
        assert "device=cuda" not in words


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0"}, None),
        ({"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0"}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "0"}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "2"}, "SLURM_GPUS_ON_NODE=2"),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "0"}, "SLURM_JOB_GPUS=0"),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_GPUS": "0", "SLURM_JOB_GPUS": "0,1"}, "SLURM_STEP_GPUS=0"),
    ],
)
def test_slurms_variables_say_whether_a_job_has_gpus(variables: dict[str, str], found: str | None) -> None:
    assert allotted_gpus(variables) == found


def test_auto_ends_with_exit_code_4_and_the_reason_on_a_gpu_it_cannot_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    check_allotted("no driver")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_GPUS", "1")
    with pytest.raises(DeviceUnavailableError, match=r"given a GPU \(SLURM_JOB_GPUS=1\) .*: old driver") as caught:
        check_allotted("old driver")
    assert caught.value.exit_code == EnvironmentProblemError.exit_code == 4


def test_metis_requires_a_gpu_unless_it_is_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORPUS_ROOT", "/corpus")
    path = ROOT / "configs" / "metis.yaml"
    assert load(path, {}).extract["metis8d"].device == "cuda"
    assert load(path, {"extract": {"metis8d": {"device": "cpu"}}}).extract["metis8d"].device == "cpu"
    for words, option in (([], ""), (["DEVICE=cpu"], " --set extract.metis8d.device=cpu")):
        done = subprocess.run(["make", "-n", "-C", str(ROOT), "extract-metis", *words], capture_output=True, text=True,
                              check=False)  # fmt: skip
        assert f"voxshard run configs/metis.yaml{option} \n" in done.stdout
