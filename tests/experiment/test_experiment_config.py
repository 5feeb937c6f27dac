"""What is wrong with an experiment is reported before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from voxshard.config import load_yaml, parse_assignments
from voxshard.errors import ConfigError
from voxshard.experiment.experiment import Experiment
from voxshard.experiment.schema import load
from voxshard.learning.train_config import TrainConfig
from voxshard.manifest import Manifest
from voxshard.slurm.record import Record

TEXT = """
out: {out}
prepare: {{format: folder, root: /corpus}}
extract:
  mfcc:
    encoder: mfcc
train:
  label: digit
  classifier: [logistic]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(TEXT.format(out=tmp_path / "exp"))
    return path


def test_an_encoder_given_by_its_name_alone_takes_settings_from_the_command_line(config: Path) -> None:
    found = load(config, parse_assignments(["extract.mfcc.encoder.pooling=mean"]))
    assert found.extract["mfcc"].encoder == {"name": "mfcc", "pooling": "mean"}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.classifier=knnn", r"train\.classifier\.0: no such classifier; .* did you mean knn\? \(got 'knnn'\)"),
        ("extract.mfcc.encoder.n_mfc=3", r"(?s)extract.mfcc: settings of mfcc: .*n_mfc: unknown key"),
        ("train.runs=0", "train.runs: Input should be greater than or equal to 1"),
    ],
)
def test_a_slip_in_a_section_is_named_by_its_key(config: Path, assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(config, parse_assignments([assignment]))


def test_what_a_training_refuses_is_said_of_the_section(config: Path) -> None:
    experiment = Experiment(load(config, parse_assignments(["train.settings.standardise=true"])))
    with pytest.raises(ConfigError, match="standardise: unknown key"):
        experiment.trainings()
    with pytest.raises(ConfigError, match=r"train\.n_shot: a number of examples is at least 1"):
        load(config, parse_assignments(["train.n_shot=[0]"]))


def test_a_label_that_the_manifest_lacks_is_refused_before_anything_is_extracted(config: Path) -> None:
    rows = [{"utterance_id": "a", "path": "a.wav", "digit": "1"}]
    for assignments, missing in (
        ([], None),
        (["train.label=digt"], "train.label: digt"),
        (["train.folds=fald"], "fald"),
    ):
        experiment = Experiment(load(config, parse_assignments(assignments)))
        experiment.path.mkdir(exist_ok=True)
        Manifest.from_rows(rows, root="/corpus", corpus="folder").write(experiment.manifest)
        if missing is None:
            experiment.check_columns()
            continue
        with pytest.raises(ConfigError, match=f"{missing}: not in .*manifest.parquet; its columns: utterance_id"):
            experiment.check_columns()


def test_variables_are_replaced_once_however_often_a_config_is_written_and_read(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROOT", "/corpus/$cash/${HOME}")
    monkeypatch.setenv("cash", "other")
    given = parse_assignments(["prepare.root=$ROOT", "prepare.glob=$$cash/*.wav", "publish=s3://bucket/$$cash"])
    experiment = Experiment(load(config, given))
    prepare = experiment.config.prepare
    assert (prepare.root, prepare.glob) == ("/corpus/$cash/${HOME}", "$cash/*.wav")
    experiment.freeze()
    assert load(experiment.resolved, {}) == experiment.config
    assert Record(experiment.path).experiment().config == experiment.config
    experiment.freeze()  # compares with what is written
    for job in (experiment.prepare_job(), experiment.publish_job()):
        file = Path(job.command[job.command.index("--config") + 1])
        assert "$cash" in str(load_yaml(file))
        assert "other" not in str(load_yaml(file))


def test_every_stage_starts_from_a_config_in_the_experiments_folder(config: Path) -> None:
    experiment = Experiment(load(config, parse_assignments(["report.title=It's a title", "evaluate.group_by=[digit]"])))
    ((training, where),) = experiment.trainings()
    assert isinstance(training, TrainConfig)
    jobs = {
        "prepare": experiment.prepare_job(),
        "extract": experiment.extract_jobs("mfcc")[0],
        "merge": experiment.merge_job("mfcc"),
        "train": experiment.train_job(training),
        "evaluate": experiment.evaluate_job(training, where),
        "report": experiment.report_job(),
    }
    for stage, job in jobs.items():
        *_, command, option, file = job.command
        assert (command, option, Path(file).parent) == (stage, "--config", experiment.jobs)
    assert load_yaml(experiment.jobs / "report.yaml")["title"] == "It's a title"
    assert load_yaml(experiment.jobs / f"evaluate-{training.out.name}.yaml")["group_by"] == [["digit"]]
