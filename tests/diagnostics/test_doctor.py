"""Every check of the doctor that needs no cluster, made to fail once."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from voxshard.diagnostics import doctor
from voxshard.diagnostics.doctor import Finding
from voxshard.encoders import metis
from voxshard.errors import EnvironmentProblemError, SchedulerError
from voxshard.experiment.experiment import Experiment
from voxshard.experiment.schema import ExperimentConfig
from voxshard.runtime import apptainer
from voxshard.slurm import queue, site
from voxshard.slurm.record import Submission
from voxshard.slurm.site import Site
from voxshard.slurm.submit import Cluster
from voxshard.store.layout import FORMAT_VERSION, Identity


def facts(**changes: object) -> Site:
    return site.load("test", changes)


def cluster(tmp_path: Path, encoder: object = "mfcc", runtime: str = "here", **changes: object) -> Cluster:
    content = {
        "out": tmp_path / "exp",
        "prepare": {"format": "folder", "root": "corpus"},
        "extract": {"one": {"encoder": encoder, "runtime": runtime}},
    }
    experiment = Experiment(ExperimentConfig.model_validate(content))
    return Cluster(experiment, facts(**changes), Submission("t", "c", "/", sys.executable, 0.0))


def only(findings: object, name: str) -> Finding:
    (found,) = [item for item in findings if item.name == name]  # type: ignore[attr-defined]
    return found


def test_without_submitit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    monkeypatch.setattr(queue, "is_available", lambda: False)
    found = only(doctor.check_site(facts()), "submitit")
    assert (found.verdict, found.remedy) == ("FAIL", "pip install 'voxshard[slurm]'")


def test_without_sbatch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = only(doctor.check_site(facts()), "slurm")
    assert (found.verdict, found.what) == ("FAIL", "no sbatch on PATH")


def test_a_controller_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> str:
        raise SchedulerError("scontrol: Unable to contact slurm controller (connect failure)")

    monkeypatch.setattr(queue, "is_available", lambda: True)
    monkeypatch.setattr(queue, "setting", refuse)
    found = only(doctor.check_site(facts()), "slurm")
    assert (found.verdict, found.remedy) == ("FAIL", "is the controller up? `scontrol ping`")


def test_a_bind_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "is_available", lambda: False)
    found = only(doctor.check_site(facts(container={"binds": ["/tmp", "/nowhere"]})), "bind /nowhere")
    assert (found.verdict, found.what) == ("FAIL", "does not exist: a container that binds it does not start")


def test_a_site_without_a_container_program_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(queue, "is_available", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = only(doctor.check_site(facts()), "images")
    assert (found.verdict, found.remedy) == ("WARN", "needed by stages with runtime image:PATH only")
    assert "images need apptainer or singularity, not on PATH on" in found.what
    (tmp_path / "singularity").write_text("#!/bin/sh\n")
    (tmp_path / "singularity").chmod(0o755)
    found = only(doctor.check_site(facts()), "images")
    assert (found.verdict, found.what.partition(",")[0]) == ("PASS", str(tmp_path / "singularity"))


def test_a_quota_command_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "is_available", lambda: False)
    found = only(doctor.check_site(facts(paths={"quota_command": ["no-such-quota"]})), "quota")
    assert (found.verdict, found.what) == ("FAIL", "no no-such-quota here")


def test_a_quota_command_that_fails_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "is_available", lambda: False)
    assert only(doctor.check_site(facts(paths={"quota_command": ["false"]})), "quota").verdict == "WARN"


def test_a_site_without_slurm_is_told_to_run_here() -> None:
    (found,) = doctor.check_site(site.load("local"))
    assert found.what == "site local has no SLURM: use `voxshard run`"


def test_no_network_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "is_available", lambda: False)
    assert only(doctor.check_site(facts()), "network").verdict == "WARN"


def test_a_runtime_that_is_not_there(tmp_path: Path) -> None:
    found = only(
        doctor.check_runtimes(cluster(tmp_path, runtime=f"venv:{tmp_path}").experiment), f"runtime venv:{tmp_path}"
    )
    assert found.verdict == "FAIL"
    assert "no " in found.what


@pytest.mark.parametrize(
    ("says", "what"),
    [
        ("echo 0.0.1", "holds voxshard 0.0.1, this is"),
        ("echo No module named voxshard >&2; exit 1", "does not start voxshard: No module named voxshard"),
    ],
)
def test_a_runtime_without_this_version(tmp_path: Path, says: str, what: str) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\n{says}\n")
    python.chmod(0o755)
    found = only(
        doctor.check_runtimes(cluster(tmp_path, runtime=f"venv:{tmp_path}").experiment), f"runtime venv:{tmp_path}"
    )
    assert found.verdict == "FAIL"
    assert what in found.what


@pytest.fixture
def ecapa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the weights of an encoder that is one file, empty still."""
    monkeypatch.setenv("VOXSHARD_WEIGHTS", str(tmp_path))
    (tmp_path / "ecapa").mkdir()
    return tmp_path / "ecapa" / "embedding_model.ckpt"


def weights(tmp_path: Path, *, read: bool = True, encoder: object = "ecapa") -> tuple[str, str, str]:
    found = only(doctor.check_weights(cluster(tmp_path, encoder=encoder).experiment, read=read), "weights one")
    return found.verdict, found.what.replace(str(tmp_path), "STORE"), found.remedy


FETCH = "voxshard weights fetch ecapa"


def test_weights_that_are_not_there(tmp_path: Path, ecapa: Path) -> None:
    ecapa.parent.rmdir()
    verdict, what, remedy = weights(tmp_path)
    assert (verdict, remedy) == ("FAIL", FETCH)
    assert what.startswith("weights of ecapa not found (looked in STORE/ecapa)")


def test_weights_that_are_half_there_or_empty(tmp_path: Path, ecapa: Path) -> None:
    wanted = ("FAIL", "STORE/ecapa: missing or empty: embedding_model.ckpt", FETCH)
    assert weights(tmp_path) == wanted
    ecapa.touch()
    assert weights(tmp_path, read=False) == wanted
    ecapa.write_bytes(b"weights")
    assert weights(tmp_path) == ("PASS", "STORE/ecapa: 1 files exist, SHA-256 of 0 checked", "")


def test_weights_that_changed_since_they_were_fetched(tmp_path: Path, ecapa: Path) -> None:
    entry = {"name": ecapa.name, "num_bytes": 7, "sha256": hashlib.sha256(b"weights").hexdigest(), "url": "",
             "checked_against": "nothing"}  # fmt: skip
    (ecapa.parent / "weights.json").write_text(json.dumps({"files": [entry]}))
    ecapa.write_bytes(b"weights")
    assert weights(tmp_path) == ("PASS", "STORE/ecapa: 1 files exist, SHA-256 of 1 checked", "")
    ecapa.write_bytes(b"WEIGHTS")
    changed = ("FAIL", "STORE/ecapa: embedding_model.ckpt changed since the fetch", FETCH)
    assert weights(tmp_path) == changed
    assert weights(tmp_path, read=False)[0] == "PASS", "submit looks at sizes only"
    ecapa.write_bytes(b"half")
    assert weights(tmp_path, read=False) == changed


def test_weights_other_than_those_an_experiment_was_begun_with(tmp_path: Path, ecapa: Path) -> None:
    ecapa.write_bytes(b"weights")
    nothing: dict[str, Any] = dict.fromkeys(field.name for field in fields(Identity))
    nothing |= dict.fromkeys(("encoder", "fingerprint", "manifest_hash", "plan_hash"), "x")
    nothing |= dict.fromkeys(("num_shards", "num_utterances", "dim", "sample_rate"), 1) | {
        "provenance": {},
        "granularity": "utterance",
    }
    item = {"name": ecapa.name, "num_bytes": 7, "mtime_ns": 0, "sha256": hashlib.sha256(b"others!").hexdigest()}
    path = tmp_path / "exp" / "features" / "one" / "identity.json"
    path.parent.mkdir(parents=True)
    known = {"weights_folder": str(ecapa.parent.resolve()), "weight_files": [item], "format_version": FORMAT_VERSION}
    Identity(**{**nothing, **known}).write(path)
    verdict, what, remedy = weights(tmp_path)
    assert (verdict, remedy) == ("FAIL", "restore those files, or choose another `out`")
    assert what == ("STORE/ecapa: embedding_model.ckpt changed since this experiment began: its jobs would be refused")


def test_weights_other_than_the_published_ones_are_a_warning(tmp_path: Path, ecapa: Path) -> None:
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        path = tmp_path / "metis8d" / "w2v-bert-2.0" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    assert weights(tmp_path, encoder="metis8d")[0] == "FAIL"
    for name in (metis.CODEC, metis.STATISTICS):
        (tmp_path / "metis8d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "metis8d" / name).write_text("my own")
    verdict, what, _ = weights(tmp_path, encoder="metis8d")
    assert verdict == "WARN"
    assert what == f"STORE/metis8d: {metis.CODEC}, {metis.STATISTICS}: not the published file"


@pytest.mark.parametrize(
    ("encoder", "said", "remedy"),
    [
        ({"name": "hf", "weights": "org/name"}, "no model in this folder", "voxshard weights fetch hf/org/name"),
        ("trillsson3", "missing or empty: saved_model.pb", "voxshard weights fetch trillsson3"),
        ("vggish", "neither vggish_model.ckpt nor", "voxshard weights fetch vggish"),
    ],
)
def test_half_a_download_of_each_encoder(tmp_path: Path, ecapa: Path, encoder: object, said: str, remedy: str) -> None:
    folder = "hf/org/name" if isinstance(encoder, dict) else str(encoder)
    (tmp_path / folder).mkdir(parents=True)
    verdict, what, told = weights(tmp_path, encoder=encoder, read=False)
    assert (verdict, told) == ("FAIL", remedy)
    assert said in what


def test_storage_that_is_full_or_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = cluster(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(doctor, "MIN_FREE_BYTES", 1 << 62)
        assert only(doctor.check_experiment(own), "storage").verdict == "FAIL"
    with monkeypatch.context() as patch:
        patch.setattr(doctor, "MIN_FREE_FILES", 1 << 62)
        assert only(doctor.check_experiment(own), "storage").verdict == "FAIL"
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda place, mode: False)
        assert only(doctor.check_experiment(own), "storage").what == f"{tmp_path} cannot be written"
    monkeypatch.setattr(doctor, "MIN_FREE_BYTES", 0)
    assert only(doctor.check_experiment(own), "storage").verdict == "PASS"


def test_storage_that_is_purged_is_a_warning(tmp_path: Path) -> None:
    own = cluster(tmp_path, paths={"scratch": str(tmp_path), "scratch_purge_days": 14})
    found = only(doctor.check_experiment(own), "purge")
    assert (found.verdict, found.what) == ("WARN", f"{tmp_path} is purged of files older than 14 days")


@pytest.mark.parametrize(("answer", "verdicts"), [("580.65.06", ["PASS", "PASS"]), ("550.54.14", ["WARN", "PASS"])])
def test_an_old_driver_is_a_warning_for_the_framework_that_needs_a_newer_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str, verdicts: list[str]
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho {answer}\necho {answer}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(queue, "is_available", lambda: False)
    found = [item for item in doctor.check_site(facts()) if item.name.startswith("driver for")]
    assert [item.verdict for item in found] == verdicts
    assert all(answer in item.what for item in found)


@pytest.mark.parametrize(
    ("lines", "verdicts"),
    [
        ("GPU 0: NVIDIA A100 (UUID: GPU-1)", {"42.9 GB": "PASS"}),
        ("GPU 0: NVIDIA A100 (UUID: GPU-1)\n  MIG 1g.5gb Device 0: (UUID: MIG-1)", {"5 GB": "WARN"}),
        (
            "GPU 0: NVIDIA A100 (UUID: GPU-1)\n  MIG 3g.20gb Device 0: (UUID: MIG-1)\n"
            "  MIG 1g.5gb Device 1: (UUID: MIG-2)\n  MIG 1g.5gb Device 2: (UUID: MIG-3)",
            {"5 GB": "WARN", "20 GB": "PASS"},
        ),
        ("No devices were found", {}),
    ],
)
def test_a_slice_that_is_too_small_for_the_default_batch_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: str, verdicts: dict[str, str]
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nif [ $1 = -L ]; then printf '{lines}\n'; else echo 'GPU-1, 40960'; fi\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(queue, "is_available", lambda: False)
    found = [item for item in doctor.check_site(facts()) if item.name == "GPU memory"]
    assert {item.what.partition(" has ")[2].partition(";")[0]: item.verdict for item in found} == verdicts
    assert all("--batch-seconds 80" in item.remedy for item in found if item.verdict == "WARN")


def test_without_a_driver_nothing_is_reported_about_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho No devices were found\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(queue, "is_available", lambda: False)
    assert not [item for item in doctor.check_site(facts()) if item.name.startswith("driver")]


def test_packages_that_a_stage_needs_are_missed_before_it_runs(tmp_path: Path) -> None:
    """Weights & Biases is asked for; it is not installed in the environment of the tests."""
    content = cluster(tmp_path).experiment.config.model_dump() | {"train": {"label": "x", "wandb": True}}
    experiment = Experiment(ExperimentConfig.model_validate(content))
    found = list(doctor.check_runtimes(experiment))
    if found[0].verdict == "PASS":
        pytest.skip("wandb is installed here")
    assert found == [
        Finding("runtime here", "FAIL", "lacks wandb (train.wandb)", "install it there, or leave out what needs it")
    ]


def test_packages_that_pythonpath_hides_are_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = cluster(tmp_path).experiment.config.model_dump() | {"train": {"label": "x"}}
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "skops.py").touch()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(mine), os.environ.get("PYTHONPATH")])))
    found = list(doctor.check_runtimes(Experiment(ExperimentConfig.model_validate(content))))
    assert [item.verdict for item in found] == ["PASS", "WARN"]
    assert found[1].name == "runtime here: PYTHONPATH"
    assert found[1].what == f"skops is imported from {mine / 'skops.py'}, not from the runtime"


@pytest.mark.parametrize(
    ("variable", "value", "path"),
    [
        ("APPTAINER_TMPDIR", "/gone/tmp", "/gone/tmp"),
        ("APPTAINER_BIND", "/,/gone/data:/data:ro", "/gone/data"),
        ("SINGULARITY_CACHEDIR", "/gone/cache", "/gone/cache"),
        ("HF_HOME", "/gone/hub", "/gone/hub"),
    ],
)
def test_a_folder_that_a_variable_names_and_that_does_not_exist_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, path: str
) -> None:
    assert variable not in {item.name.removeprefix("$") for item in doctor.check_folders()}
    monkeypatch.setenv(variable, value)
    (item,) = (item for item in doctor.check_folders() if item.name == f"${variable}")
    assert item.verdict == "WARN"
    assert item.what.startswith(f"{path} does not exist on ")
    assert f"mkdir -p {path}" in item.remedy
    if variable != "HF_HOME":
        with pytest.raises(EnvironmentProblemError, match=re.escape(f"{path} (${variable}): does not exist on")):
            apptainer.check_temporary_folders()
