"""Sites: found in their order, checked as a whole, and what a step's jobs ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from voxshard.errors import ConfigError
from voxshard.experiment.experiment import Experiment
from voxshard.experiment.schema import ExperimentConfig
from voxshard.experiment.steps import steps_of
from voxshard.slurm import queue, site
from voxshard.slurm.record import Submission
from voxshard.slurm.submit import Cluster


@pytest.mark.parametrize("path", sorted(site.PACKAGED.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_packaged_site_is_valid_and_named_after_its_file(path: Path) -> None:
    assert site.load(str(path)).name == path.stem


def test_a_path_wins_then_the_variable_then_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert site.find("test") == site.PACKAGED / "test.yaml"
    (tmp_path / "configs" / "sites").mkdir(parents=True)
    (tmp_path / "configs" / "sites" / "test.yaml").write_text("name: test\nscheduler: none\n")
    assert site.find("test") == Path("configs/sites/test.yaml")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "test.yaml").write_text("name: test\nscheduler: none\n")
    monkeypatch.setenv("VOXSHARD_SITES", f"{tmp_path / 'nothing'}:{mine}")
    assert site.find("test") == mine / "test.yaml"
    assert site.find("./here.yaml") == Path("./here.yaml")


def test_an_unknown_site_names_those_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VOXSHARD_SITES", raising=False)
    with pytest.raises(ConfigError) as caught:
        site.load("nowhere")
    assert str(caught.value) == (
        f"--site nowhere: no nowhere.yaml in configs/sites, {site.PACKAGED}; "
        "available: alliance, local, lumi, snellius, test. For a new cluster copy template.yaml, or give a path"
    )


def test_all_problems_of_a_site_come_at_once() -> None:
    with pytest.raises(ConfigError, match=r"test.yaml: 2 problems") as caught:
        site.load("test", {"partitions": {"gpu_a100": {"gpus": -1}}, "queue": "long"})
    assert "partitions.gpu_a100.gpus: Input should be greater than or equal to 0" in str(caught.value)
    assert "queue: unknown key; valid keys: account, container" in str(caught.value)


def test_a_stage_on_an_unknown_partition_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"stages\.merge: site test has no partition fat; available: gpu_a100, gpu_high"
    ):
        site.load("test", {"stages": {"merge": {"partitions": "fat"}}})


def experiment(tmp_path: Path, **more: object) -> Experiment:
    content = {
        "out": tmp_path / "exp",
        "prepare": {"format": "folder", "root": "corpus"},
        "extract": {"mfcc": {"encoder": "mfcc"}, "wav2vec2": {"encoder": {"name": "hf", "weights": "some/model"}}},
        "train": {"label": "label", "classifier": ["logistic", "knn"]},
        **more,
    }
    return Experiment(ExperimentConfig.model_validate(content))


def test_jobs_of_a_step_win_over_those_of_its_stage_and_these_over_the_sites(tmp_path: Path) -> None:
    jobs = {"extract": {"minutes": 77, "tasks": 3}, "extract-mfcc": {"tasks": 5, "mem_gb": 2}}
    cluster = Cluster(experiment(tmp_path, jobs=jobs), site.load("test"), Submission("t", "c", "/", "python", 0.0))
    mfcc, hf = (cluster.options(cluster.steps[name]) for name in ("extract-mfcc", "extract-wav2vec2"))
    assert (mfcc.partitions, mfcc.minutes, mfcc.tasks, mfcc.mem_gb) == (("cpu",), 77, 5, 2)
    assert (hf.partitions, hf.minutes, hf.tasks, hf.mem_gb) == (("gpu_a100",), 77, 3, None)
    assert cluster.steps["extract-mfcc"].num_tasks == 5


def test_a_config_that_names_an_unknown_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="jobs: no stage or step extract-lfcc; available: prepare, extract-mfcc"):
        experiment(tmp_path, jobs={"extract-lfcc": {"tasks": 2}})


def test_steps_come_after_those_they_need(tmp_path: Path) -> None:
    steps = steps_of(experiment(tmp_path, evaluate={"group_by": ["codec"]}), {"mfcc": 2, "wav2vec2": 2})
    assert {name: step.depends_on for name, step in steps.items()} == {
        "prepare": (),
        "extract-mfcc": ("prepare",),
        "merge-mfcc": ("extract-mfcc",),
        "extract-wav2vec2": ("prepare",),
        "merge-wav2vec2": ("extract-wav2vec2",),
        "train": ("merge-mfcc", "merge-wav2vec2"),
        "evaluate": ("train",),
        "report": ("evaluate",),
    }
    assert steps["train"].num_tasks == 4
    assert all(step.missing() for step in steps.values())


def test_elements_are_written_as_spans() -> None:
    assert queue.spans([5, 0, 1, 2, 8, 9]) == "0-2,5,8-9"
    assert queue.spans([3]) == "3"
    assert queue.spans([]) == ""
