"""The text of job scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from voxshard.experiment.experiment import Experiment
from voxshard.experiment.schema import ExperimentConfig
from voxshard.experiment.steps import repair_request, steps_of
from voxshard.runtime.apptainer import Container
from voxshard.slurm import environment, site
from voxshard.slurm.record import Submission
from voxshard.slurm.scripts import Array
from voxshard.slurm.submit import Cluster

pytest.importorskip("submitit", reason="jobs are written with submitit: pip install 'voxshard[slurm]'")

SCRIPT = """\
#!/bin/bash

# Parameters
#SBATCH --account='o'"'"'neill'
#SBATCH --array=0-2,5%2
#SBATCH --chdir=/data/my work
#SBATCH --comment=0123456789ab
#SBATCH --cpus-per-task=18
#SBATCH --dependency=afterany:7:8
#SBATCH --gpus-per-node=1
#SBATCH --job-name=exp:extract-one
#SBATCH --mem=2048MB
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --open-mode=append
#SBATCH --output=FOLDER/jobs/extract-one/logs/%A_%a.out
#SBATCH --partition=gpu_a100
#SBATCH --requeue
#SBATCH --signal=USR2@180
#SBATCH --time=90

# setup
trap '' TERM USR1 USR2  # the program below hears them
module load 2024
ENVIRONMENT

# command
srun --unbuffered --nodes=1 --ntasks=1 --export=ALL --cpus-per-task=18 '/opt/my python' -P \
-m voxshard.slurm.array_task FOLDER --step extract-one \
--attempt 1 --first 0
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    content = {
        "out": tmp_path / "exp",
        "prepare": {"format": "folder", "root": "corpus"},
        "extract": {"one": {"encoder": {"name": "hf", "weights": "some/model"}}},
        "jobs": {"extract": {"tasks": 6, "minutes": 90, "mem_gb": 2, "throttle": 2, "growth": 2}},
    }
    facts = site.load("snellius", {"account": "o'neill", "setup": ["module load 2024"]})
    submission = Submission("0123456789ab", "snellius", "/data/my work", "/opt/my python", 0.0)
    return Cluster(Experiment(ExperimentConfig.model_validate(content)), facts, submission)


def array(cluster: Cluster, automatic: int = 1) -> Array:
    (found,) = cluster.arrays(cluster.steps["extract-one"], [0, 1, 2, 5], 1, automatic, 1001)
    return found


def test_a_script_says_everything_it_asks_for_and_quotes_its_words(cluster: Cluster, tmp_path: Path) -> None:
    text = SCRIPT.replace("ENVIRONMENT", "\n".join(environment.SCRIPT_LINES))
    wanted = text.replace("FOLDER", str(tmp_path / "exp")).replace("=/data/my work", "='/data/my work'")
    assert array(cluster).with_dependency([7, 8]) == wanted
    assert "--dependency" not in array(cluster).with_dependency([])


def test_the_module_of_the_container_program_is_loaded_where_a_stage_runs_in_an_image(cluster: Cluster) -> None:
    facts = cluster.site.model_copy(update={"container": Container(module="apptainer/1.3")})
    assert "module load apptainer" not in array(Cluster(cluster.experiment, facts, cluster.submission)).text
    config = cluster.experiment.config.model_copy(update={"runtime": "image:voxshard.sif"})
    text = array(Cluster(Experiment(config), facts, cluster.submission)).text
    assert text.index("module load apptainer/1.3") < text.index("srun ")


def test_memory_and_time_grow_with_attempts_where_asked_up_to_the_partitions_limit(cluster: Cluster) -> None:
    assert [(item.minutes, item.mem_gb) for item in (array(cluster, 1), array(cluster, 3))] == [(90, 2), (360, 8)]
    assert array(cluster, 10).minutes == 7200


def test_another_try_of_what_failed_is_a_step_before_merge_that_asks_for_what_the_extraction_asks(
    cluster: Cluster,
) -> None:
    assert "repair-one" not in cluster.steps
    request = repair_request(cluster.experiment, "one")
    request.parent.mkdir(parents=True)
    request.touch()
    steps = steps_of(cluster.experiment, {"one": 6})
    assert steps["merge-one"].depends_on == ("extract-one", "repair-one")
    repair = steps["repair-one"]
    assert cluster.options(repair) == cluster.options(steps["extract-one"])
    (command,) = repair.commands(0, False)
    folder = cluster.experiment.features("one")
    assert command.job.command[-3:] == ["retry", str(folder), "--failed"]
    assert (repair.missing(), command.request) == ([0], request)
    request.unlink()
    assert repair.missing() == []
