"""What cannot work is refused before anything is submitted, in one line; and what the doctor specifies of it."""

from __future__ import annotations

import getpass
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.slurm_cluster import MINI, Experiment, unavailable

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3000)]
MakeExperiment = Callable[..., Experiment]
CONFIG = {"prepare": {"format": "folder", "root": "corpus"}, "extract": {"mfcc": {"encoder": "mfcc"}}}
FEATURES_ONLY = {
    "prepare": {"format": "asvspoof5", "root": str(MINI), "limit": 20},
    "extract": {"mfcc": {"encoder": "mfcc", "shards": 4, "workers": 1}},
}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["site.partitions.cpu.options.partition=nowhere"],
         "FAIL  partition cpu: SLURM has no nowhere; it has gpu_a100, gpu_high"),
        (["site.partitions.cpu.cpus=999"], "FAIL  partition cpu: sbatch: "),
        (["site.sbatch={reservation: nobodys}"], "FAIL  partition gpu_a100: sbatch: "),
        (["site.max_submitted=3"], "FAIL  jobs: 5 tasks, the site lets a user queue 3"),
        (["jobs.extract.partitions=[gpu_b200]"], "FAIL  jobs: jobs.extract-mfcc: site test has no partition gpu_b200"),
    ],
)  # fmt: skip
def test_what_the_cluster_would_refuse_is_found(experiment: MakeExperiment, words: list[str], line: str) -> None:
    run = experiment()
    path = run.folder / "config.json"
    path.write_text(json.dumps({"out": str(run.path), **CONFIG}))
    given = [word for assignment in words for word in ("--set", assignment)]
    told = run.voxshard("doctor", path, "--site", "test", *given, check=4)
    assert line in told.stdout
    assert "checks failed" in told.stderr


def test_a_healthy_cluster_passes(experiment: MakeExperiment) -> None:
    told = experiment().voxshard("doctor", "--site", "test")
    assert "PASS  slurm: cluster t" in told.stdout
    assert "MaxArraySize 1001" in told.stdout
    assert told.stdout.count("PASS  partition") == 3
    assert "FAIL" not in told.stdout


@pytest.mark.parametrize(
    ("words", "said", "advice"),
    [
        (
            ["--set", "site.partitions.cpu.options.partition=nowhere"],
            "invalid partition specified: nowhere",
            "`sinfo` lists the partitions",
        ),
        (["--set", "site.sbatch={reservation: nobodys}"], "reservation", "`voxshard doctor CONFIG --site NAME`"),
        (["--set", "site.partitions.cpu.cpus=99"], "node configuration", "ask for less in the site's file"),
    ],
)
def test_what_slurm_refuses_is_said_in_one_line_and_nothing_is_submitted(
    experiment: MakeExperiment, words: list[str], said: str, advice: str
) -> None:
    run = experiment()
    told = run.submit(FEATURES_ONLY, *words, check=4)
    assert len(told.stderr.strip().splitlines()) == 1
    assert said in told.stderr
    assert "nothing was submitted. " in told.stderr
    assert advice in told.stderr
    assert run.cluster.queue() == []
    assert not run.path.exists()


def test_a_runtime_that_is_not_there_is_refused_before_anything_is_submitted(experiment: MakeExperiment) -> None:
    run = experiment()
    told = run.submit(FEATURES_ONLY, "--set", f"extract.mfcc.runtime=venv:{run.folder}/none", check=4)
    assert len(told.stderr.strip().splitlines()) == 1
    assert f"no {run.folder}/none/bin/python; make the environment" in told.stderr
    assert run.cluster.queue() == []
    assert not run.path.exists()


def test_weights_that_are_not_there_are_missed_before_anything_is_submitted(experiment: MakeExperiment) -> None:
    run = experiment()
    run.environment["VOXSHARD_WEIGHTS"] = str(run.folder)
    told = run.submit({**FEATURES_ONLY, "extract": {"speakers": {"encoder": "ge2e"}}}, check=4)
    assert len(told.stderr.strip().splitlines()) == 1
    assert f"weights speakers: weights of ge2e not found (looked in {run.folder}/ge2e)" in told.stderr
    assert run.cluster.queue() == []
    assert not run.path.exists()


def test_without_sbatch_it_says_where_to_go(experiment: MakeExperiment) -> None:
    run = experiment()
    run.environment["PATH"] = str(Path(sys.executable).parent)
    told = run.submit(FEATURES_ONLY, check=4)
    assert told.stderr == (
        "voxshard: sbatch: no such command here; submit from a login node of the cluster, or use `voxshard run`\n"
    )


def test_an_account_that_may_not_submit_is_refused_before_anything_is_submitted(experiment: MakeExperiment) -> None:
    if shutil.which("slurmdbd") is None or not Path("/usr/sbin/mariadbd").exists():
        unavailable("needs slurmdbd and mariadbd (slurm-cluster.sh install with ACCT=dbd)")
    run = experiment(ACCT="dbd", EXTRA_CONF="AccountingStorageEnforce=associations")
    run.cluster.call("sacctmgr", "-i", "add", "account", "ours")
    run.cluster.call("sacctmgr", "-i", "add", "user", getpass.getuser(), "account=ours")
    told = run.submit(FEATURES_ONLY, "--set", "site.account=theirs", check=4)
    assert len(told.stderr.strip().splitlines()) == 1
    assert "Invalid account or account/partition combination specified" in told.stderr
    assert "account theirs); nothing was submitted. Give one of your accounts with --set site.account=" in told.stderr
    assert run.cluster.queue() == []
    path = run.folder / "config.yaml"
    doctor = run.voxshard("doctor", path, "--site", "test", "--set", "site.account=theirs", check=4).stdout
    assert "FAIL  partition gpu_a100: sbatch: " in doctor
    run.submit(FEATURES_ONLY, "--set", "site.account=ours")
    run.cluster.wait_until_empty()
    assert (run.path / "report.html").exists()
