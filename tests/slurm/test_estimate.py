"""What an extraction is said to cost, from what the encoder did before."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from support.earlier_runs import START_S, cluster, prepared, ran
from voxshard.config import parse_yaml
from voxshard.experiment.experiment import Experiment
from voxshard.experiment.local import Job
from voxshard.progress import Silent
from voxshard.slurm.estimate import PROBE_S, Estimate, estimate, lines_of, work_left
from voxshard.slurm.scripts import Array
from voxshard.slurm.submit import Cluster
from voxshard.stages import extract
from voxshard.store.layout import FeatureDir


def estimated(own: Cluster, seconds: list[float], splits: list[str] | None = None) -> Estimate:
    prepared(own.experiment, seconds, splits)
    step = own.steps["extract-one"]
    share = own.site.partitions["gpu_a100"]
    elements = list(range(step.num_tasks))
    array = Array(step.name, "gpu_a100", 0, elements, 60, None, share, own.experiment.path / "script", "")
    return estimate(own, step, [array], work_left(own, step))


@pytest.mark.parametrize("tasks", [1, 8])
def test_work_grows_with_the_audio_and_the_start_with_the_tasks(tmp_path: Path, tasks: int) -> None:
    ran(tmp_path, "ecapa")
    found = estimated(cluster(tmp_path, "now", "ecapa", tasks), [100.0] * 4000)
    assert found.task_hours == pytest.approx((400_000 / 50 + tasks * START_S) / 3600)
    assert found.gpu_hours == found.task_hours
    assert found.units == pytest.approx(128 * (found.task_hours or 0.0))
    assert "111.11 h of audio at 50 x real time per task (200 s of work measured in " in lines_of(found, "credits")[0]


def test_of_tasks_that_were_disturbed_only_the_work_is_believed(tmp_path: Path) -> None:
    ran(tmp_path, "ecapa", restarts=3)
    found = estimated(cluster(tmp_path, "now", "ecapa", 4), [1000.0])
    assert found.rate is not None
    assert found.rate.value == pytest.approx(50)
    assert found.rate.start_s == pytest.approx(12 + 5)


def test_workers_count_where_they_do_the_work(tmp_path: Path) -> None:
    ran(tmp_path, "mfcc", device="cpu", num_workers=2)
    found = estimated(cluster(tmp_path, "now", "mfcc", 1, workers=8), [1000.0])
    assert found.rate is not None
    assert found.rate.value == pytest.approx(200)


def test_other_settings_tell_nothing(tmp_path: Path) -> None:
    ran(tmp_path, "ecapa")
    found = estimated(cluster(tmp_path, "now", {"name": "ecapa", "max_seconds": 4}, 1), [1000.0])
    assert (found.rate, found.task_hours) == (None, None)
    assert "this encoder was never run here, so the cost is not known" in lines_of(found, "credits")[0]


def test_what_was_encoded_on_a_cpu_tells_nothing_of_a_gpu(tmp_path: Path) -> None:
    ran(tmp_path, "ecapa", device="cpu")
    assert estimated(cluster(tmp_path, "now", "ecapa", 1), [1000.0]).rate is None
    on_cpu = estimated(cluster(tmp_path, "on-cpu", "ecapa", 1, device="cpu"), [1000.0])
    assert on_cpu.rate is not None


def test_an_encoder_that_uses_no_gpu_is_known_wherever_it_ran(tmp_path: Path) -> None:
    ran(tmp_path, "egemaps", device="cpu")
    assert estimated(cluster(tmp_path, "now", "egemaps", 1), [1000.0]).rate is not None


def test_of_several_earlier_runs_the_one_that_worked_longest_is_believed(tmp_path: Path) -> None:
    ran(tmp_path, "ecapa", name="a-short-one", times=0.1)
    ran(tmp_path, "ecapa", name="long", times=2)
    ran(tmp_path, "ecapa", name="short", times=0.1)
    ran(tmp_path, "ecapa", name="somebody-elses", times=9)
    (tmp_path / "somebody-elses/features/one/config.yaml").write_text("encoder: [")
    found = estimated(cluster(tmp_path, "now", "ecapa", 1), [1000.0]).rate
    assert found is not None
    assert found.value == pytest.approx(25)
    assert found.source == f"400 s of work measured in {tmp_path}/long/features/one"


def test_only_the_audio_of_the_splits_that_are_asked_for_counts_and_of_shards_that_are_missing(tmp_path: Path) -> None:
    ran(tmp_path, "ecapa")
    own = cluster(tmp_path, "now", "ecapa", 1, splits=["dev", "eval"])
    seconds, splits = [1000.0, 200.0, 30.0, 4.0], ["train", "dev", "eval", "eval"]
    assert estimated(own, seconds, splits).audio_h == pytest.approx(234 / 3600)
    folder = FeatureDir(own.experiment.features("one"))
    config = extract.ExtractConfig(manifest=own.experiment.manifest, encoder="mfcc", out=folder.path, shards=4)
    num_shards = extract.run(config, plan_only=True).identity.num_shards
    folder.shard(1, num_shards).touch()
    assert estimated(own, seconds, splits).audio_h == pytest.approx(34 / 3600)


SLOW = """
import json, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[-1]).parent / "probe" / "progress"
folder.mkdir(parents=True)
def stop(*_):
    state = {"task": 0, "num_tasks": 1, "split": None, "device": "cpu", "num_workers": 1, "audio_s": 60.0,
             "timers": {"encode_s": 20.0}}
    (folder / "task-00000-of-00001.json").write_text(json.dumps(state))
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
(folder.parent.parent.parent / "began").touch()
while True:
    time.sleep(0.1)
"""


def test_an_encoder_that_never_ran_is_tried_for_a_while_and_what_it_did_by_then_tells_its_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(child: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        if timeout == PROBE_S:
            while not (tmp_path / "began").exists():
                time.sleep(0.01)
            raise subprocess.TimeoutExpired("extract", timeout)
        return wait_for(child, timeout)

    wait_for = subprocess.Popen.wait
    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def job(self: Experiment, name: str, config_file: Path) -> Job:
        configs.append(parse_yaml(config_file.read_text(), where="probe"))
        return Job(name, [sys.executable, "-c", SLOW, str(config_file)])

    configs: list[dict[str, Any]] = []
    monkeypatch.setattr(Experiment, "probe_job", job)
    own = cluster(tmp_path, "now", "mfcc", 1, workers=4, splits=["dev", "eval"])
    prepared(own.experiment, [1000.0], ["dev"])
    rate = work_left(own, own.steps["extract-one"], Silent()).rate
    assert rate is not None
    assert (rate.value, rate.source) == (12.0, "20.0 s of work, tried here")
    assert (configs[0]["split"], configs[0]["workers"], configs[0]["encoder"]) == (None, 1, "mfcc")
    assert work_left(own, own.steps["extract-one"]).rate is None
