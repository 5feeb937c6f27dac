"""How many tasks an extraction gets. Those of the earlier run work at 50 x real time and take 20 s to start."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from support import scheduler_stand_in
from support.earlier_runs import cluster, config, prepared, ran
from voxshard.cli import retry, submit
from voxshard.config import load_yaml
from voxshard.diagnostics import doctor
from voxshard.progress import Silent
from voxshard.slurm import site, task_count
from voxshard.slurm.estimate import Rate
from voxshard.slurm.record import Record
from voxshard.slurm.submit import Cluster
from voxshard.slurm.task_count import TaskCount
from voxshard.stages import extract
from voxshard.store.layout import FeatureDir

HALF_HOUR = 1800 * 50.0
"""Seconds of audio that take a task half an hour."""
FACTS = {"stages": {"extract": {"partitions": "gpu_a100", "minutes": 600, "tasks": 8}}}


def fitted(own: Cluster, audio_s: float) -> tuple[Cluster, TaskCount]:
    prepared(own.experiment, [audio_s / 100] * 100)
    found, (choice,) = task_count.fitted(own, task_count.known_work(own, Silent()))
    return found, choice


@pytest.mark.parametrize(("half_hours", "num"), [(0.5, 1), (1, 1), (3, 5), (100, 8)])
def test_no_more_tasks_are_used_than_start_in_a_fiftieth_of_their_time(
    tmp_path: Path, half_hours: float, num: int
) -> None:
    ran(tmp_path, "ecapa")
    found, choice = fitted(cluster(tmp_path, "now", "ecapa", facts=FACTS), half_hours * HALF_HOUR)
    assert found.steps["extract-one"].num_tasks == choice.num_tasks == num
    assert choice.start_share(num) <= 0.02 or num == 1
    assert num == 8 or choice.start_share(num + 1) > 0.02
    assert choice.is_notable == (num < 8)


def test_what_is_chosen_is_told_in_one_line_with_the_way_to_have_more(tmp_path: Path) -> None:
    ran(tmp_path, "ecapa")
    _, choice = fitted(cluster(tmp_path, "now", "ecapa", facts=FACTS), 3 * HALF_HOUR)
    assert choice.line() == (
        "extract-one: 5 tasks of about 18.3 min, not the site's 8: starting one takes 20 s, 1.8% of its time "
        "(2.9% with 8); for more --set jobs.extract-one.tasks=N"
    )


def test_a_number_in_the_config_is_obeyed_and_a_better_one_told(tmp_path: Path) -> None:
    ran(tmp_path, "ecapa")
    found, choice = fitted(cluster(tmp_path, "now", "ecapa", 8, facts=FACTS), HALF_HOUR)
    assert found.steps["extract-one"].num_tasks == 8
    assert choice.line() == (
        "extract-one: 8 tasks of about 4.1 min: starting one takes 20 s, 8.2% of its time; "
        "1.1% with --set jobs.extract-one.tasks=1"
    )


def test_where_one_task_has_too_little_to_do_that_is_told(tmp_path: Path) -> None:
    ran(tmp_path, "ecapa")
    _, choice = fitted(cluster(tmp_path, "now", "ecapa", 1, facts=FACTS), HALF_HOUR / 10)
    assert choice.line() == (
        "extract-one: 1 task of about 3.3 min: starting one takes 20 s, 10.0% of its time; it is all the work"
    )


def test_tasks_are_not_made_longer_than_their_time_limit(tmp_path: Path) -> None:
    ran(tmp_path, "ecapa")
    facts = {"stages": {"extract": {"partitions": "gpu_a100", "minutes": 11, "tasks": 8}}}  # one of them for the signal
    found, choice = fitted(cluster(tmp_path, "now", "ecapa", facts=facts), HALF_HOUR)
    assert found.steps["extract-one"].num_tasks == 4
    assert "4 tasks of about 7.8 min, not the site's 8: starting one takes 20 s, 4.3% of its time" in choice.line()
    _, given = fitted(cluster(tmp_path, "given", "ecapa", 4, facts=facts), HALF_HOUR)
    assert given.line().endswith("with fewer they would meet their time limit")


def test_without_a_manifest_or_an_earlier_run_the_sites_number_is_used(tmp_path: Path) -> None:
    own = cluster(tmp_path, "now", "ecapa", facts=FACTS)
    for _ in range(2):
        found, choices = task_count.fitted(own, task_count.known_work(own, Silent()))
        assert (found.steps["extract-one"].num_tasks, choices) == (8, [])
        prepared(own.experiment, [HALF_HOUR])


class Cli:
    """`voxshard submit` and `retry` of one experiment, with a scheduler that takes everything."""

    def __init__(self, folder: Path) -> None:
        self.experiment = folder / "now"
        self.config, self.site = folder / "config.yaml", folder / "site.yaml"
        self.config.write_text(json.dumps(config(self.experiment, "mfcc")))
        facts = site.load("test").model_dump(mode="json")
        facts["stages"]["extract_cpu"] |= {"tasks": 8, "minutes": 600}
        self.site.write_text(json.dumps(facts))

    def submit(self, *words: str) -> str:
        result = CliRunner().invoke(
            submit.command, [str(self.config), "--site", str(self.site), *words], catch_exceptions=False
        )
        assert result.exit_code == 0, result.output
        return result.output

    def retry(self, *words: str) -> str:
        result = CliRunner().invoke(retry.command, [str(self.experiment), *words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    def num_tasks(self) -> int:
        """As any process on any node counts them."""
        return Cluster.of(self.experiment).steps["extract-one"].num_tasks

    def elements(self, attempt: int) -> str:
        """That were submitted."""
        (script,) = (self.experiment / "jobs/extract-one").glob(f"attempt-{attempt:03d}-*.sh")
        (found,) = re.findall("--array=(.*)", script.read_text())
        return str(found)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    pytest.importorskip("submitit", reason="jobs are written with submitit: pip install 'voxshard[slurm]'")
    folder = scheduler_stand_in.put_into(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(doctor, "check_runtimes", lambda experiment: iter(()))
    monkeypatch.chdir(tmp_path)
    return Cli(tmp_path)


def test_what_submit_chooses_holds_for_every_process_and_every_later_attempt(cli: Cli, tmp_path: Path) -> None:
    ran(tmp_path, "mfcc", device="cpu")
    experiment = cluster(tmp_path, "now", "mfcc").experiment
    prepared(experiment, [3 * HALF_HOUR / 100] * 100)
    line = "extract-one: 5 tasks of about 18.3 min, not the site's 8"
    assert line in cli.submit("--dry-run")
    assert not Record(cli.experiment).exists
    told = cli.submit()
    assert line in told
    assert "extract-one: 5 tasks, job" in told
    assert (cli.num_tasks(), cli.elements(1)) == (5, "0-4")
    assert load_yaml(cli.experiment / "config.yaml")["jobs"] == {}, "the config stays what was given"
    cli.retry()
    assert (cli.num_tasks(), cli.elements(2)) == (5, "0-4")
    cli.retry("--set", "jobs.extract.tasks=7")
    assert (cli.num_tasks(), cli.elements(3)) == (7, "0-6")
    assert "not the site's" not in cli.submit("--set", "jobs.extract.tasks=8")
    assert (cli.num_tasks(), cli.elements(4)) == (8, "0-7")
    cli.submit()
    assert (cli.num_tasks(), cli.elements(5)) == (5, "0-4")


def test_a_second_submit_weighs_what_is_left_and_leaves_what_is_done(cli: Cli, tmp_path: Path) -> None:
    ran(tmp_path, "mfcc", device="cpu")
    experiment = cluster(tmp_path, "now", "mfcc").experiment
    prepared(experiment, [3 * HALF_HOUR / 100] * 100)
    assert "extract-one: 5 tasks" in cli.submit()
    folder = FeatureDir(experiment.features("one"))
    extraction = extract.ExtractConfig(manifest=experiment.manifest, encoder="mfcc", out=folder.path, shards=20)
    num_shards = extract.run(extraction, plan_only=True).identity.num_shards
    for shard in range(num_shards // 2):
        folder.shard(shard, num_shards).touch()
    assert "extract-one: 2 tasks of about 22.8 min, not the site's 8" in cli.submit()
    assert cli.num_tasks() == 2
    for shard in range(num_shards):
        folder.shard(shard, num_shards).touch()
    assert "extract-one" not in cli.submit()
    assert cli.num_tasks() == 2


def test_a_cpu_encoder_that_never_ran_is_tried_by_the_dry_run_which_gives_advice_and_submit_does_as_it_said(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def probed(*_: Any) -> Rate:
        asked.append(True)
        return Rate(50.0, 20.0, "a probe", is_probe=True)

    asked: list[bool] = []
    monkeypatch.setattr("voxshard.slurm.estimate._probed", probed)
    prepared(cluster(tmp_path, "now", "mfcc").experiment, [3 * HALF_HOUR])
    told = cli.submit("--dry-run")
    assert "extract-one: this encoder was never run here; trying it for up to 30 s" in told
    assert "extract-one: 8 tasks of about " in told
    assert "1.8% with --set jobs.extract-one.tasks=5" in told
    cli.submit()
    assert (cli.num_tasks(), len(asked)) == (8, 1), "nobody waits for a trial to submit"
