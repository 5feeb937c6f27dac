"""What status prints: complete lines, of feature sets and of runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("sklearn", reason="classifiers need scikit-learn: pip install 'voxshard[learn]'")

from support.feature_sets import write_set
from support.trees import write_audio, write_text
from voxshard.cli import main, status
from voxshard.cli.status import command
from voxshard.config import validated
from voxshard.diagnostics.step_status import StepStatus
from voxshard.errors import IncompleteError
from voxshard.learning.train_config import TrainConfig
from voxshard.stages import train
from voxshard.stages.base import Task


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """A feature set and a run on it, in a folder with a name longer than a narrow screen."""
    path = tmp_path / ("long-" * 20)
    vectors = np.eye(2, dtype=np.float32)[np.arange(20) % 2]
    columns = {"split": [("train", "test")[row // 2 % 2] for row in range(20)], "digit": [row % 2 for row in range(20)]}
    names = [f"u{row}" for row in range(20)]
    features = write_set(path / "features" / "mfcc", dict(zip(names, vectors, strict=True)), columns)
    content = {"features": features, "label": "digit", "classifier": "knn", "out": path / "runs" / "a", "replicates": 0}
    train.run(validated(TrainConfig, content, where="test"), Task())
    return path


def test_lines_are_never_broken_so_that_commands_can_be_copied(experiment: Path) -> None:
    lines = CliRunner().invoke(command, [str(experiment / "features" / "mfcc")]).output.splitlines()
    folder = experiment / "features" / "mfcc"
    assert f"next        voxshard train {folder} --label COLUMN --classifier logistic --out RUN" in lines


def test_lines_of_a_submitted_experiment_are_not_broken_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = "a disk is full; " * 10
    step = StepStatus(
        name="extract-mfcc", num_tasks=1, tasks={"failed": 1}, attempts=1, failures=[f"1 x {message}"], queue=[],
        next_step=f"voxshard retry {tmp_path}", elapsed_s=1.0, gpu_hours=0.0, cpu_hours=0.0, units=None, max_rss_gb=0.0,
        mem_gb=None,
    )  # fmt: skip
    monkeypatch.setattr(status, "step_statuses", lambda path: [step])
    monkeypatch.setattr(status, "status", lambda path: [])
    lines = CliRunner().invoke(command, [str(tmp_path)]).output.splitlines()
    assert f"extract-mfcc failed: 1 x {message}" in lines
    assert f"next: voxshard retry {tmp_path}" in lines


def test_a_run_tells_what_it_is_and_how_well_it_does(experiment: Path) -> None:
    run = experiment / "runs" / "a"
    lines = CliRunner().invoke(command, [str(run)]).output.splitlines()
    assert lines[0] == f"run         {run} (knn of digit, on mfcc)"
    assert lines[1].startswith("test        eer 0.0000, ")
    assert lines[2] == f"next        voxshard report {run} --out report.html"


def test_an_experiment_shows_its_feature_sets_and_its_runs(experiment: Path) -> None:
    found = json.loads(CliRunner().invoke(command, [str(experiment), "--json"]).output)
    assert [Path(item["path"]).name for item in found["features"]] == ["mfcc"]
    assert found["runs"][0]["results"]["test"]["eer"] == 0.0


def test_a_folder_of_sets_or_of_runs_shows_all_of_them(experiment: Path) -> None:
    found = json.loads(CliRunner().invoke(command, [str(experiment / "features"), "--json"]).output)
    assert [Path(item["path"]).name for item in found["features"]] == ["mfcc"]
    found = json.loads(CliRunner().invoke(command, [str(experiment / "runs"), "--json"]).output)
    assert [Path(item["path"]).name for item in found["runs"]] == ["a"]


def test_a_folder_of_experiments_names_them(experiment: Path) -> None:
    with pytest.raises(IncompleteError, match=f"a folder of experiments; give one of them: {experiment}$"):
        command.main([str(experiment.parent)], standalone_mode=False)


def test_what_failed_is_counted_and_its_table_named(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    write_audio(corpus / "good.wav", seconds=0.5)
    write_text(corpus / "bad.wav", "no audio")
    folder = tmp_path / "set"
    for arguments in (
        ["prepare", "folder", corpus, "--out", tmp_path / "m.parquet"],
        ["extract", tmp_path / "m.parquet", "--encoder", "mfcc", "--out", folder, "--max-failure-fraction", "1"],
    ):
        main([str(argument) for argument in arguments])
    assert "failures    `voxshard merge` lists them with their reasons in failures.csv" in (
        CliRunner().invoke(command, [str(folder)]).output
    )
    main(["merge", str(folder)])
    lines = CliRunner().invoke(command, [str(folder)]).output.splitlines()
    assert {"utterances  2 of 2, 1 failed", f"reasons     {folder / 'failures.csv'}"} <= set(lines)


@pytest.mark.parametrize("name", ["logs", "cancel"])
def test_a_set_of_this_machine_has_no_jobs(experiment: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = experiment / "features" / "mfcc"
    with pytest.raises(SystemExit, match="3"):
        main([name, str(folder)])
    assert capsys.readouterr().err == (
        f"voxshard: {folder}: was not submitted to a cluster, so it has no jobs; for its state: `voxshard status "
        f"{folder}`\n"
    )


@pytest.mark.parametrize("name", ["merge", "verify"])
def test_a_command_on_one_set_names_those_in_a_folder(
    experiment: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="3"):
        main([name, str(experiment)])
    assert capsys.readouterr().err.endswith(f"; give one of those in it: {experiment / 'features' / 'mfcc'}\n")
    with pytest.raises(SystemExit, match="3"):
        main([name, str(experiment / "runs" / "a" / "metrics.json")])
    assert capsys.readouterr().err.endswith("metrics.json: a file; expected a feature set, which is a folder\n")


def test_retry_of_a_run_and_status_of_a_config_name_what_to_give(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = experiment / "runs" / "a"
    for arguments, message in (
        (["retry", str(run)], f"{run}: a run; expected a feature set or an experiment"),
        (["status", str(run / "config.yaml")], "a file; expected the folder of a feature set, run or experiment"),
    ):
        with pytest.raises(SystemExit, match="3"):
            main(arguments)
        assert message in capsys.readouterr().err


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match="neither a feature set"):
        command.main([str(tmp_path)], standalone_mode=False)
