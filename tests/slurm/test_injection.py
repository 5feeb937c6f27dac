"""Nothing in a config, a site or the environment becomes a line of a job script, or a path outside the experiment."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from voxshard.config import load_yaml, validated
from voxshard.errors import ConfigError
from voxshard.experiment.experiment import Experiment
from voxshard.experiment.local import Job, run_many
from voxshard.experiment.schema import ExperimentConfig
from voxshard.progress import Silent
from voxshard.slurm import environment, site
from voxshard.slurm.site import Site

BREAKS = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1b[31m", "\x00", "\x85", "\u2028", "\u2029"]
ATTACK = "touch executed"


def config(**changes: Any) -> dict[str, Any]:
    return {"out": "exp", "prepare": {"format": "folder", "root": "corpus"}, "extract": {"one": {"encoder": "mfcc"}},
            **changes}  # fmt: skip


@pytest.mark.parametrize("line_break", BREAKS)
@pytest.mark.parametrize(
    "changes",
    [
        {"out": "expBREAK"},
        {"extract": {"oneBREAK": {"encoder": "mfcc"}}},
        {"networks": {"netBREAK": {"network": "vgg", "label": "x"}}},
        {"jobs": {"extract": {"partitions": ["gpuBREAK"]}}},
    ],
)
def test_a_config_value_that_reaches_a_script_is_one_line(line_break: str, changes: dict[str, Any]) -> None:
    attack = json.loads(json.dumps(changes).replace("BREAK", json.dumps(line_break + ATTACK)[1:-1]))
    with pytest.raises(ConfigError):
        validated(ExperimentConfig, config(**attack), where="config")


@pytest.mark.parametrize("line_break", BREAKS)
@pytest.mark.parametrize(
    "changes",
    [
        {"name": "siteBREAK"},
        {"account": "mineBREAK"},
        {"partitions": {"gpuBREAK": {}}},
        {"partitions": {"gpu": {"options": {"qos": "highBREAK"}}}},
        {"partitions": {"gpu": {"options": {"qosBREAK": "high"}}}},
        {"sbatch": {"reservation": "mineBREAK"}},
        {"sbatch": {"reservationBREAK": "mine"}},
        {"signal": "USR2BREAK"},
        {"setup": ["module load 2024BREAK"]},
        {"container": {"module": "apptainerBREAK"}},
        {"container": {"options": ["--containallBREAK"]}},
    ],
)
def test_a_site_value_is_one_line(line_break: str, changes: dict[str, Any]) -> None:
    content = {"name": "mine", "partitions": {"gpu": {}}}
    assert validated(Site, content, where="site").partitions
    attack = json.loads(json.dumps(changes).replace("BREAK", json.dumps(line_break + ATTACK)[1:-1]))
    with pytest.raises(ConfigError):
        validated(Site, content | attack, where="site")


@pytest.mark.parametrize("option", ["qos; touch executed", "qos high", "$(touch executed)", "`id`", "", "-p"])
def test_names_of_options_are_names(option: str) -> None:
    with pytest.raises(ConfigError):
        validated(Site, {"name": "mine", "partitions": {"gpu": {}}, "sbatch": {option: "x"}}, where="site")


def test_a_variable_of_the_environment_is_one_line_too() -> None:
    with pytest.raises(ConfigError, match="environment's SBATCH_ variables"):
        environment.fill_in(site.load("test"), {"SBATCH_ACCOUNT": f"mine\n{ATTACK}"})


def test_the_message_names_the_key_and_the_usual_cause() -> None:
    with pytest.raises(ConfigError, match=r"out: contains '\\n', .* on one line, .*\(after `KEY: \|` YAML keeps"):
        validated(ExperimentConfig, config(out="exp\n"), where="config")


@pytest.mark.parametrize(
    "name", ["..", ".", "../../elsewhere", "a/b", "/absolute", "", "-rf", ".hidden", "a\\b", "end."]
)
def test_names_cannot_leave_the_experiments_folder(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a folder"):
        validated(ExperimentConfig, config(extract={name: {"encoder": "mfcc"}}), where="config")


@pytest.mark.parametrize("name", ["mfcc", "wav2vec2-base_layer9", "mfcc 13", "größe", "v1.5", "a+b", "x"])
def test_usual_names_are_fine(name: str) -> None:
    assert validated(ExperimentConfig, config(extract={name: {"encoder": "mfcc"}}), where="config").extract


def test_a_split_names_no_log_outside_the_folder_of_logs(tmp_path: Path) -> None:
    job = Job("extract-one-../../escaped", [sys.executable, "-c", ""])
    run_many([job], 1, tmp_path / "exp" / "jobs", threading.Event(), Silent(), "jobs")
    assert [path.name for path in tmp_path.iterdir()] == ["exp"]
    assert len(list((tmp_path / "exp" / "jobs").iterdir())) == 1


def test_configs_of_splits_stay_in_the_folder_of_jobs_and_apart(tmp_path: Path) -> None:
    splits = [
        "../../../escaped",
        "a/b",
        "a_b",
        "/absolute",
        "-rf",
        "$(touch executed)",
        "`touch executed`",
        "..",
        "a\nb",
    ]
    content = config(out=tmp_path / "exp", extract={"one": {"encoder": "mfcc", "splits": splits}})
    experiment = Experiment(validated(ExperimentConfig, content, where="config"))
    for extraction in experiment.extractions("one"):
        experiment.extract_job("one", extraction)
    assert [path.name for path in tmp_path.iterdir()] == ["exp"]
    frozen = list((tmp_path / "exp" / "jobs").iterdir())
    assert sorted(load_yaml(path)["split"] for path in frozen) == sorted(splits)
    assert all("\n" not in path.name and "$" not in path.name and "`" not in path.name for path in frozen)
