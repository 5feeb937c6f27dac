"""`voxshard submit` and what goes with it, on a real cluster."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from support.slurm_cluster import MINI, Experiment

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3000)]
MakeExperiment = Callable[..., Experiment]

TWO_ENCODERS = {
    "prepare": {"format": "asvspoof5", "root": str(MINI)},
    "extract": {"mfcc": {"encoder": "mfcc", "shards": 8}, "lfcc": {"encoder": "lfcc", "shards": 8}},
    "train": {
        "label": "label",
        "classifier": ["logistic", "knn"],
        "settings": {"standardize": True},
        "replicates": 100,
    },
    "evaluate": {"group_by": ["codec"]},
}
FEATURES_ONLY = {
    "prepare": {"format": "asvspoof5", "root": str(MINI), "limit": 20},
    "extract": {"mfcc": {"encoder": "mfcc", "shards": 4, "workers": 1}},
}
SLOW = {
    "prepare": {"format": "asvspoof5", "root": str(MINI)},
    "extract": {"mfcc": {"encoder": "slow-mfcc", "shards": 40, "workers": 1}},
    "jobs": {"extract": {"partitions": "gpu_a100", "tasks": 2}},
}


def metrics(experiment: Path) -> dict[str, Any]:
    return {
        path.parent.name: json.loads(path.read_text())["metrics"] for path in experiment.glob("runs/*/metrics.json")
    }


def test_one_call_goes_from_the_corpus_to_the_report_with_the_numbers_of_a_local_run(
    experiment: MakeExperiment, tmp_path: Path
) -> None:
    run = experiment()
    told = run.submit(TWO_ENCODERS)
    assert f"submitted; next: voxshard status {run.path}" in told.stderr
    names = {row[2] for row in run.cluster.queue()}
    assert {"exp:extract-lfcc", "exp:merge-mfcc", "exp:train", "exp:report"} <= names
    local = tmp_path / "local"
    run.voxshard("run", run.folder / "config.yaml", "--set", f"out={local}")  # next to the jobs, which need no user
    run.cluster.wait_until_empty()
    states = {name: step["tasks"] for name, step in run.statuses().items()}
    assert states == {
        "prepare": {"done": 1}, "extract-mfcc": {"done": 2}, "merge-mfcc": {"done": 1}, "extract-lfcc": {"done": 2},
        "merge-lfcc": {"done": 1}, "train": {"done": 4}, "evaluate": {"done": 4}, "report": {"done": 1},
    }  # fmt: skip
    assert len(metrics(local)) == 4
    assert metrics(run.path) == metrics(local)
    assert (run.path / "report.html").exists()
    assert run.voxshard("retry", run.path).stderr.strip() == f"{run.path}: nothing is missing"


def test_arrays_over_the_clusters_largest_index_are_split_and_every_task_runs(experiment: MakeExperiment) -> None:
    run = experiment()
    run.submit(FEATURES_ONLY, "--set", "jobs.extract.tasks=5", "--set", "site.max_array_size=2")
    assert len({row[0] for row in run.cluster.queue() if row[2] == "exp:extract-mfcc"}) == 3
    run.cluster.wait_until_empty()
    assert run.statuses()["extract-mfcc"]["tasks"] == {"done": 5}
    records = sorted((run.path / "jobs" / "extract-mfcc").glob("task-*.json"))
    assert len(records) == 5
    assert len(run.shards()) == 4
    assert json.loads(records[4].read_text())["message"] == "other tasks process the remaining shards", (
        "there is no fifth shard"
    )


def test_tasks_are_split_over_several_partitions(experiment: MakeExperiment) -> None:
    run = experiment()
    told = run.submit(FEATURES_ONLY, "--dry-run", "--set", "jobs.extract={tasks: 5, partitions: [gpu_a100, cpu]}")
    scripts = [text for text in told.stdout.split("#!/bin/bash") if "exp:extract-mfcc" in text]
    assert ["--gpus-per-node=1" in text for text in scripts] == [True, False]
    assert [re.search(r"--array=(\S+)", text)[1] for text in scripts] == ["0-1", "2-4"]  # type: ignore[index]
    assert not run.path.exists(), "a dry run writes nothing"
    assert run.cluster.queue() == []


def test_a_dry_run_knows_the_cost_from_an_earlier_run_and_the_accounting_agrees(experiment: MakeExperiment) -> None:
    run = experiment({"SLOW_MFCC_S": "1.8"})  # sleep, so that the machine's load matters little
    first = {
        **SLOW,
        "prepare": {**SLOW["prepare"], "limit": 60},
        "extract": {"mfcc": {**SLOW["extract"]["mfcc"], "shards": 10}},
    }
    second = {**SLOW, "prepare": {**SLOW["prepare"], "limit": 160}}
    run.path = run.folder / "first"
    told = run.submit(first, "--dry-run").stderr
    assert "cost unknown until `voxshard prepare` has measured the audio" in told
    run.submit(first)
    run.cluster.wait_until_empty()
    run.path = run.folder / "second"
    run.path.mkdir()
    run.voxshard("prepare", "asvspoof5", MINI, "--out", run.path / "manifest.parquet", "--limit", 160)
    told = run.submit(second, "--dry-run").stderr
    found = re.search(
        r"measured in \S+first/features/mfcc\): ([\d.]+) task hours, ([\d.]+) GPU hours, ([\d.]+) credits", told
    )
    assert found, told
    run.submit(second)
    run.cluster.wait_until_empty()
    entries = {entry["step"]: entry for entry in json.loads((run.path / "jobs" / "accounting.json").read_text())}
    spent = entries["extract-mfcc"]
    print(f"\nestimated {found[3]} credits, spent {spent['units']}")
    assert float(found[3]) == pytest.approx(spent["units"], rel=0.25)
    assert spent["gpu_hours"] == pytest.approx(spent["units"] / 128, rel=0.01)
    summary = json.loads((run.path / "features" / "mfcc" / "summary.json").read_text())
    assert summary["jobs"]["units"] == spent["units"]
    assert any("--set jobs.extract-mfcc.minutes=" in line for line in spent["advice"])
    assert "credits per 1,000 h of audio" in (run.path / "report.html").read_text()


def test_cancel_ends_this_experiments_jobs_and_no_others_and_retry_goes_on(experiment: MakeExperiment) -> None:
    run = experiment({"SLOW_MFCC_S": "0.5"})
    other = run.cluster.call("sbatch", "--parsable", "-p", "gpu_a100", "-o", "/dev/null", "--wrap", "sleep 300").strip()
    run.submit(SLOW)
    run.wait_for_shards(2)
    assert "are in the queue already" in run.voxshard("retry", run.path, check=4).stderr
    told = run.voxshard("cancel", run.path).stderr
    assert "2 running and 2 queued tasks are cancelled" in told
    run.cluster.wait_until(lambda: [row[0] for row in run.cluster.queue()] == [other], "only the other job to be there")
    run.cluster.call("scancel", other)
    run.hurry()
    run.voxshard("retry", run.path)
    run.cluster.wait_until_empty()
    assert (run.path / "report.html").exists()


def test_recordings_that_failed_are_tried_again_in_jobs_and_what_comes_after_is_made_anew(
    experiment: MakeExperiment, tmp_path: Path
) -> None:
    run = experiment()
    corpus = tmp_path / "corpus"
    for number in range(12):
        write_noise(corpus / f"{number}.wav", seed=number)
    (corpus / "3.wav").write_bytes(b"not audio")
    run.submit({"prepare": {"format": "folder", "root": str(corpus)}, "extract": FEATURES_ONLY["extract"]})
    run.cluster.wait_until_empty()
    folder = run.path / "features" / "mfcc"
    assert summary(run)["reasons"] == {"UnreadableAudioError": 1}
    shards = {path.name: path.stat().st_mtime_ns for path in run.shards()}
    write_noise(corpus / "3.wav", seed=3)
    told = run.voxshard("retry", run.path, "--failed").stderr
    assert "repair-mfcc: 1 task, job" in told
    run.cluster.wait_until_empty()
    assert summary(run)["utterances"]["ok"] == 12
    assert (summary(run)["reasons"], summary(run)["stale"]) == ({}, False)
    changed = [path.name for path in run.shards() if path.stat().st_mtime_ns != shards[path.name]]
    assert len(changed) == 1, "only the shard with the failure is written again"
    assert (run.path / "report.html").stat().st_mtime_ns > (folder / "summary.json").stat().st_mtime_ns
    assert run.statuses()["repair-mfcc"]["tasks"] == {"done": 1}
    told = run.voxshard("retry", run.path, "--failed").stderr
    assert told.strip() == f"{run.path}: nothing is missing, nothing has failed"


def write_noise(path: Path, *, seed: int) -> None:
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, 8000), 16000)


def summary(run: Experiment) -> dict[str, Any]:
    return dict(json.loads((run.path / "features" / "mfcc" / "summary.json").read_text()))


def test_a_wrong_input_stops_the_chain_and_logs_say_why(experiment: MakeExperiment, tmp_path: Path) -> None:
    run = experiment()
    run.submit({**FEATURES_ONLY, "prepare": {"format": "folder", "root": str(tmp_path / "nothing")}})
    run.cluster.wait_until_empty()
    steps = run.statuses()
    assert steps["prepare"]["tasks"] == {"failed": 1}
    assert steps["extract-mfcc"]["attempts"] == 1, "data do not get better by trying again"
    assert steps["report"]["tasks"] == {"blocked": 1}
    told = run.voxshard("logs", run.path, "--failed")
    assert "nothing: no such folder" in told.stdout
    assert told.stdout.count("==> ") == 1
    assert f"fix it, then voxshard retry {run.path}" in told.stderr


def test_a_kept_script_can_be_submitted_again_by_hand_whatever_the_folder_is_called(
    experiment: MakeExperiment,
) -> None:
    run = experiment()
    run.path = run.folder / "an experiment's 100%"
    run.submit(FEATURES_ONLY)
    run.cluster.wait_until_empty()
    assert (run.path / "report.html").exists(), run.logs("prepare")
    shards = run.shards()
    shards[0].unlink()
    (script,) = (run.path / "jobs" / "extract-mfcc").glob("attempt-001-*.sh")
    words = [line for line in script.read_text().splitlines(keepends=True) if "--dependency" not in line]
    script.write_text("".join(words))
    run.cluster.call("sbatch", str(script))
    run.cluster.wait_until_empty()
    assert run.shards() == shards
