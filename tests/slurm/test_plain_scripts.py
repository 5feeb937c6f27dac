"""slurm/*.sh with stand-ins for SLURM and Apptainer: what they run, and when they go back into the queue."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from support.container_stand_in import write_image
from voxshard.runtime import binds, images

SCRIPTS = Path(__file__).parents[2] / "slurm"
TOOLS = ("bash", "cat", "cut", "dirname", "hostname", "readlink", "realpath", "sed", "sha256sum", "sort")
SRUN = """#!{python}
import json, os, sys
with open({log!r}, "w") as log:
    json.dump({{"words": sys.argv[1:], "environment": dict(os.environ)}}, log)
sys.exit(int(os.environ.get("ENDS_WITH", "0")))
"""
SCONTROL = """#!/bin/bash
if [ "$1" = requeue ]; then echo "$2" >>requeued; else echo "   Command=${COMMAND:-(null)}"; fi
"""


@dataclass
class Job:
    """A node on which the scripts run, and the folder they are submitted from."""

    folder: Path
    environment: dict[str, str]

    def run(self, script: Path, *words: str, code: int = 0, **variables: str) -> str:
        """What it says; its exit code is checked."""
        done = subprocess.run(
            ["bash", str(script), *words], cwd=self.folder, env={**self.environment, **variables}, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done.stderr

    @property
    def step(self) -> dict[str, Any]:
        """Words and environment of what srun was to run."""
        found: dict[str, Any] = json.loads((self.folder / "step.json").read_text())
        return found

    @property
    def requeued(self) -> list[str]:
        log = self.folder / "requeued"
        return log.read_text().split() if log.exists() else []


@pytest.fixture
def job(tmp_path: Path) -> Job:
    tools, folder = tmp_path / "tools", tmp_path / "submitted from"
    folder.mkdir()
    tools.mkdir()
    for name in TOOLS:
        (tools / name).symlink_to(shutil.which(name) or pytest.skip(f"needs {name}"))
    programs = {
        "srun": SRUN.format(python=sys.executable, log=str(folder / "step.json")),
        "squeue": '#!/bin/bash\necho "$STATE"\n',
        "scontrol": SCONTROL,
        "apptainer": "#!/bin/bash\n",
    }
    for name, text in programs.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch(0o755)
    (folder / ".venv-torch").symlink_to(".venv")
    ours = {"PATH": str(tools), "STATE": "RUNNING", "OUT": "features", "HOME": "/nonexistent"}
    in_slurm = {"SLURM_JOB_ID": "17", "SLURM_SUBMIT_DIR": str(folder), "SLURM_JOB_NODELIST": "n[1,2]"}
    return Job(folder, {**ours, **in_slurm})


def shown(words: list[str]) -> list[str]:
    return [value for option, value in pairwise(words) if option == "--bind"]


def test_every_script_is_bash_and_clean_for_shellcheck() -> None:
    scripts = [*sorted(SCRIPTS.glob("*.sh")), *sorted((SCRIPTS.parent / "tests" / "tools").glob("*.sh"))]
    assert all(re.match(r"#!/bin/bash\n", path.read_text()) for path in scripts)
    tool = shutil.which("shellcheck")
    if tool is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([tool, *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_an_array_element_is_a_task_of_as_many_as_there_are_elements(job: Job) -> None:
    element = {"JOB_ID": "16", "TASK_ID": "5", "TASK_MIN": "2", "TASK_COUNT": "8"}
    element = {f"SLURM_ARRAY_{name}": value for name, value in element.items()}
    job.run(SCRIPTS / "metis_array.sh", SPLIT="dev", SLURM_CPUS_PER_TASK="4", **element)
    assert job.step["words"] == [
        "--unbuffered", ".venv-torch/bin/python", "-m", "voxshard", "extract", "manifest.parquet", "--encoder",
        "metis8d", "--out", "features", "--device", "cuda", "--split", "dev", "--task", "3", "--tasks", "8",
    ]  # fmt: skip
    assert job.step["environment"]["SRUN_CPUS_PER_TASK"] == "4"


@pytest.fixture
def spooled(tmp_path: Path) -> Path:
    """A script as sbatch copies it."""
    folder = tmp_path / "spool" / "job00017"
    folder.mkdir(parents=True)
    return Path(shutil.copy(SCRIPTS / "ecapa_train.sh", folder / "slurm_script"))


def checkout(folder: Path) -> Path:
    """A checkout's scripts."""
    shutil.copytree(SCRIPTS, folder / "slurm")
    return folder / "slurm" / "ecapa_train.sh"


WORDS = ("m.parquet", "pitch", "runs/a.sh b")


def test_a_copy_of_a_script_finds_what_lies_beside_the_original(job: Job, spooled: Path, tmp_path: Path) -> None:
    original = checkout(tmp_path / "my clone")
    job.run(spooled, *WORDS, COMMAND=f"{original} {' '.join(WORDS)}")
    assert job.step["words"][-6:] == ["--network", "ecapa", "--label", "pitch", "--out", "runs/a.sh b"]


def test_a_script_that_was_copied_or_read_from_a_pipe_finds_it_in_the_checkout(job: Job, spooled: Path) -> None:
    checkout(job.folder)
    job.run(spooled, *WORDS)
    job.run(spooled, *WORDS, COMMAND="/elsewhere/mine.sh m.parquet pitch runs/a")


def test_a_script_alone_says_what_is_missing(job: Job, spooled: Path) -> None:
    told = job.run(spooled, *WORDS, code=1, COMMAND="/elsewhere/mine.sh")
    assert len(told.splitlines()) == 1
    assert "no step.sh beside the script or in slurm/" in told


@pytest.mark.parametrize(
    ("changed", "back"),
    [
        ({}, ["17"]),
        ({"SLURM_ARRAY_JOB_ID": "16", "SLURM_ARRAY_TASK_ID": "5"}, ["16_5"]),
        ({"ENDS_WITH": "3"}, []),
        ({"STATE": "COMPLETING"}, []),
        ({"SLURM_RESTART_COUNT": "20"}, []),
        ({"SLURM_RESTART_COUNT": "4", "MAX_REQUEUES": "4"}, []),
    ],
    ids=["told to stop", "an element", "failed", "cancelled", "often", "often enough"],
)
def test_a_job_goes_back_into_the_queue_if_it_was_told_to_stop(
    job: Job, changed: dict[str, str], back: list[str]
) -> None:
    variables = {"ENDS_WITH": "75", **changed}
    job.run(SCRIPTS / "merge.sh", code=int(variables["ENDS_WITH"]), **variables)
    assert job.requeued == back


def test_in_an_image_a_step_sees_folders_by_every_name_on_the_way_and_the_variables_it_needs(
    job: Job, tmp_path: Path
) -> None:
    """The same folders as `voxshard submit` shows."""
    real = tmp_path / "gpfs" / "work" / "corpus"
    (real / "flac").mkdir(parents=True)
    (tmp_path / "projects").symlink_to("gpfs/work")
    (tmp_path / "data").symlink_to(tmp_path / "projects" / "." / "corpus")
    write_image(job.folder / "voxshard-pytorch.sif")
    given = [tmp_path / "data" / "flac", tmp_path / "projects", job.folder / ".venv"]
    (tmp_path / "scratch").mkdir()
    job.run(SCRIPTS / "merge.sh", BINDS=",".join(map(str, given)), OUT=str(tmp_path / "scratch" / "new" / "set"),
            APPTAINERENV_MINE="1", PYTHONPATH="/mine")  # fmt: skip
    words, environment = job.step["words"], job.step["environment"]
    wanted = binds.folders(
        need for path in [job.folder, tmp_path / "scratch", *given] for need in binds.needed(path, "given")
    )
    assert sorted(shown(words)) == sorted(map(str, wanted))
    assert str(tmp_path / "data" / "flac") in shown(words), "by the name that is used"
    assert str(tmp_path / "projects") in shown(words), "on the way"
    assert shown(words)[-1] != str(tmp_path / "gpfs" / "work"), "real folders come first"
    assert words[1:4] == ["apptainer", "exec", "--cleanenv"]
    assert words[words.index("--pwd") + 1] == str(job.folder)
    assert words[-8:-4] == ["voxshard-pytorch.sif", "python", "-m", "voxshard"]
    assert environment["APPTAINERENV_SLURM_JOB_NODELIST"] == "n[1,2]"
    assert "APPTAINERENV_PYTHONPATH" not in environment
    assert environment["APPTAINERENV_MINE"] == "1"


@pytest.mark.parametrize("noted", ["before", "after", "never"])
def test_a_step_in_an_image_notes_its_digest_as_a_submitted_one_does(job: Job, noted: str) -> None:
    image = write_image(job.folder / "voxshard-pytorch.sif")
    digest = images.digest(image)
    note = job.folder / "voxshard-pytorch.sif.sha256"
    note.write_text(f"{'0' * 64}  voxshard-pytorch.sif\n")
    if noted == "never":
        note.unlink()
    elif noted == "before":
        os.utime(note, (0, 0))
    job.run(SCRIPTS / "merge.sh")
    assert job.step["environment"]["APPTAINERENV_VOXSHARD_IMAGE_DIGEST"] == (
        f"sha256:{'0' * 64}" if noted == "after" else digest
    )


def test_an_unpacked_image_and_singularity_will_do(job: Job, tmp_path: Path) -> None:
    labels = tmp_path / "unpacked" / ".singularity.d" / "labels.json"
    labels.parent.mkdir(parents=True)
    labels.write_text("{}")
    (tmp_path / "tools" / "apptainer").rename(tmp_path / "tools" / "singularity")
    job.run(SCRIPTS / "merge.sh", IMAGE=str(tmp_path / "unpacked"))
    assert job.step["words"][1] == "singularity"
    assert job.step["environment"]["SINGULARITYENV_SLURM_JOB_ID"] == "17"
    wanted = images.digest(tmp_path / "unpacked")
    assert job.step["environment"]["SINGULARITYENV_VOXSHARD_IMAGE_DIGEST"] == wanted


def test_what_is_not_there_is_one_line(job: Job, tmp_path: Path) -> None:
    def told(**variables: str) -> str:
        said = job.run(SCRIPTS / "merge.sh", code=4, **variables)
        assert len(said.splitlines()) == 1
        return said

    assert "no image mine.sif on " in told(IMAGE="mine.sif")
    assert "no image voxshard-pytorch.sif and no envs/x/bin/python; set IMAGE or VENV" in told(VENV="envs/x")
    write_image(job.folder / "voxshard-pytorch.sif")
    assert "/projects/ours: not there on " in told(BINDS="/projects/ours")
    (tmp_path / "tools" / "apptainer").unlink()
    assert "no apptainer and no singularity on PATH on " in told()
