"""Every check of the doctor that needs no cluster, made to fail once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from voxshard.errors import SchedulerError
from voxshard.launch import doctor, queue, site
from voxshard.launch.doctor import Finding
from voxshard.launch.experiment import Experiment, ExperimentConfig
from voxshard.launch.record import Submission
from voxshard.launch.site import Site
from voxshard.launch.slurm import Cluster


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
    monkeypatch.setattr(queue, "is_there", lambda: False)
    found = only(doctor.check_site(facts()), "submitit")
    assert (found.verdict, found.mend) == ("FAIL", "pip install 'voxshard[slurm]'")


def test_without_sbatch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = only(doctor.check_site(facts()), "slurm")
    assert (found.verdict, found.what) == ("FAIL", "no sbatch on PATH")


def test_a_controller_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> str:
        raise SchedulerError("scontrol: Unable to contact slurm controller (connect failure)")

    monkeypatch.setattr(queue, "is_there", lambda: True)
    monkeypatch.setattr(queue, "setting", refuse)
    found = only(doctor.check_site(facts()), "slurm")
    assert (found.verdict, found.mend) == ("FAIL", "is the controller up? `scontrol ping`")


def test_a_bind_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "is_there", lambda: False)
    found = only(doctor.check_site(facts(container={"binds": ["/tmp", "/nowhere"]})), "bind /nowhere")
    assert (found.verdict, found.what) == ("FAIL", "does not exist: a container that binds it does not start")


def test_a_site_without_a_container_program_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(queue, "is_there", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = only(doctor.check_site(facts()), "images")
    assert (found.verdict, found.mend) == ("WARN", "needed by stages with runtime image:PATH only")
    assert "images need apptainer or singularity, not on PATH on" in found.what
    (tmp_path / "singularity").write_text("#!/bin/sh\n")
    (tmp_path / "singularity").chmod(0o755)
    found = only(doctor.check_site(facts()), "images")
    assert (found.verdict, found.what.partition(",")[0]) == ("PASS", str(tmp_path / "singularity"))


def test_a_quota_command_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "is_there", lambda: False)
    found = only(doctor.check_site(facts(paths={"quota_command": ["no-such-quota"]})), "quota")
    assert (found.verdict, found.what) == ("FAIL", "no no-such-quota here")


def test_no_network_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "is_there", lambda: False)
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


def test_weights_that_are_missing_or_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOXSHARD_WEIGHTS", str(tmp_path))
    experiment = cluster(tmp_path, encoder="metis8d").experiment
    assert only(doctor.check_weights(experiment), "weights one").verdict == "FAIL"
    (tmp_path / "metis8d").mkdir()
    assert only(doctor.check_weights(experiment), "weights one").what == f"{tmp_path / 'metis8d'}: holds nothing"
    (tmp_path / "metis8d" / "model.safetensors").touch()
    assert only(doctor.check_weights(experiment), "weights one").what.endswith("empty: model.safetensors")
    (tmp_path / "metis8d" / "model.safetensors").write_text("x")
    assert only(doctor.check_weights(experiment), "weights one").verdict == "PASS"


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
