"""The `networks` of an experiment: its trainings, the steps they become, what their jobs ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from voxshard.config import validated
from voxshard.errors import ConfigError
from voxshard.experiment.experiment import Experiment
from voxshard.experiment.schema import ExperimentConfig
from voxshard.experiment.steps import steps_of
from voxshard.slurm import site
from voxshard.slurm.record import Submission
from voxshard.slurm.submit import Cluster

DIGITS = {"network": ["vgg", "ecapa"], "label": "digit", "seed": [0, 7]}


def experiment(tmp_path: Path, **changes: Any) -> Experiment:
    content = {
        "out": tmp_path / "exp",
        "prepare": {"format": "folder", "root": "corpus"},
        "networks": {"digits": DIGITS},
        **changes,
    }
    return Experiment(validated(ExperimentConfig, content, where="config"))


def test_every_network_with_every_seed_is_a_run_with_settings_of_its_own(tmp_path: Path) -> None:
    settings = {"sample_rate": 8000, "ecapa": {"width": 64}, "vgg": {"channels": 6}}
    found = experiment(tmp_path, networks={"digits": {**DIGITS, "settings": settings, "clip": {"max_seconds": 2}}})
    trainings = found.networks("digits")
    names = ["digits-vgg-0", "digits-vgg-7", "digits-ecapa-0", "digits-ecapa-7"]
    assert [training.out.name for training in trainings] == names
    assert [training.seed for training in trainings] == [0, 7, 0, 7]
    assert trainings[0].settings == {"sample_rate": 8000, "channels": 6}
    assert trainings[2].settings == {"sample_rate": 8000, "width": 64}
    assert {training.manifest for training in trainings} == {tmp_path / "exp/manifest.parquet"}
    assert trainings[0].clip.max_seconds == 2


def test_networks_alone_are_an_experiment_and_need_no_features(tmp_path: Path) -> None:
    steps = steps_of(experiment(tmp_path), {})
    assert {name: step.depends_on for name, step in steps.items()} == {
        "prepare": (),
        "networks-digits": ("prepare",),
        "report": ("networks-digits",),
    }
    assert steps["networks-digits"].num_tasks == 4


def test_networks_come_after_what_they_are_trained_on_and_are_evaluated_with_the_classifiers(tmp_path: Path) -> None:
    found = experiment(
        tmp_path,
        extract={"logmel": {"encoder": "logmel"}},
        train={"label": "digit"},
        networks={"digits": DIGITS, "stored": {"network": "vgg", "label": "digit", "features": "logmel"}},
        evaluate={"group_by": ["speaker"]},
    )
    steps = steps_of(found, {"logmel": 1})
    assert {
        name: step.depends_on for name, step in steps.items() if step.stage in ("networks", "evaluate", "report")
    } == {
        "networks-digits": ("prepare",),
        "networks-stored": ("merge-logmel",),
        "evaluate": ("train", "networks-digits", "networks-stored"),
        "report": ("evaluate",),
    }
    assert steps["evaluate"].num_tasks == 1 + 4 + 1
    (stored,) = found.networks("stored")
    assert (stored.manifest, stored.features) == (None, tmp_path / "exp/features/logmel")


def test_jobs_of_networks_ask_for_what_extractions_ask_for_unless_the_site_or_the_config_says(tmp_path: Path) -> None:
    networks = {"digits": DIGITS, "small": {**DIGITS, "device": "cpu"}}
    submission = Submission("t", "c", "/", "python", 0.0)
    found = experiment(tmp_path, networks=networks, jobs={"networks-small": {"minutes": 5}})
    cluster = Cluster(found, site.load("test"), submission)
    digits, small = (cluster.options(cluster.steps[f"networks-{name}"]) for name in networks)
    assert (digits.partitions, digits.minutes) == (("gpu_a100",), 20)
    assert (small.partitions, small.minutes) == (("cpu",), 5)
    own = site.load("test", {"stages": {"networks": {"partitions": "gpu_high"}}})
    cluster = Cluster(found, own, submission)
    assert cluster.options(cluster.steps["networks-digits"]).partitions == ("gpu_high",)


@pytest.mark.parametrize(
    ("share", "devices", "expected"),
    [
        ({}, 4, {"--gpus-per-node=4", "--cpus-per-task=4", "--mem=4096MB"}),
        ({"gpus": 2}, 4, {"--gpus-per-node=4", "--cpus-per-task=2"}),
        ({"gpus": 2}, 3, {"--gpus-per-node=4", "--cpus-per-task=2"}),  # whole shares
        ({"options": {"gres": "gpu:a100:1"}}, 4, {"--gres=gpu:a100:4", "--cpus-per-task=4"}),
        ({"options": {"gres": "gpu,tmpfs:10G"}}, 2, {"--gres=gpu:2,tmpfs:10G", "--cpus-per-task=2"}),
        ({"options": {"gres": "gpu:1g.5gb:2"}, "gpus": 2}, 4, {"--gres=gpu:1g.5gb:4", "--cpus-per-task=2"}),
        ({}, 1, {"--gpus-per-node=1", "--cpus-per-task=1"}),
        ({"gpus": 0}, 4, {"--cpus-per-task=1"}),
    ],
)
def test_a_training_on_several_gpus_asks_for_them_on_one_node(
    tmp_path: Path, share: dict[str, Any], devices: int, expected: set[str]
) -> None:
    training = {"network": "vgg", "label": "digit", "devices": devices, "training": {"batch_size": 12}}
    found = experiment(tmp_path, networks={"digits": training})
    cluster = Cluster(
        found, site.load("test", {"partitions": {"gpu_a100": share}}), Submission("t", "c", "/", "python", 0.0)
    )
    (array,) = cluster.arrays(cluster.steps["networks-digits"], [0], 1, 1, 100)
    lines = {line.removeprefix("#SBATCH ") for line in array.text.splitlines() if line.startswith("#SBATCH")}
    assert expected <= lines
    assert "--ntasks=1" in lines, "the first process starts the others"
    assert array.share.units_per_hour == 128 * max(
        1, -(-devices // max(1, share.get("gpus", 1))) if array.share.gpus else 1
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"networks": {}}, "give extract, networks, or both: there is nothing to do except preparing"),
        ({"train": {"label": "digit"}}, "train: there are no features to train on; give extract"),
        (
            {"networks": {"a": {**DIGITS, "features": "mel"}}},
            "networks.a.features: no mel under extract; available: none",
        ),
        (
            {"jobs": {"networks-a": {"minutes": 1}}},
            "no stage or step networks-a; available: prepare, networks-digits, ex",
        ),
        ({"networks": {"a": {**DIGITS, "network": "resnet"}}}, "networks.a.network.0: Input should be 'wav2vec2', "),
    ],
)
def test_an_experiment_that_cannot_work_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        experiment(tmp_path, **changes)
    assert message in str(caught.value)


def test_what_is_wrong_with_one_network_names_its_entry(tmp_path: Path) -> None:
    found = experiment(tmp_path, networks={"digits": {**DIGITS, "settings": {"vgg": {"width": 3}}}})
    with pytest.raises(ConfigError, match=r"settings of vgg: 1 problem\n  width: unknown key; valid keys: channels"):
        found.trainings()
