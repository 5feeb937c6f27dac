"""The script text that a private method of submitit writes, over the versions that pyproject.toml allows.

A release that changes it is noticed here; docs/decisions/slurm.md describes what replaces the method.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WRITE = """
import pathlib, submitit, sys
from voxshard.slurm.scripts import sbatch_text
more = {"array": "0-2%1", "chdir": "/data/my work", "comment": "token", "ntasks": 1, "requeue": True, "qos": "o'neill",
    "signal": "USR2@180"}
parameters = {"job_name": "exp:one", "partition": "gpu", "time": 90, "cpus_per_task": 18, "gpus_per_node": None,
    "mem": "2048MB", "account": None, "setup": ["module load 2024"], "use_srun": False, "stderr_to_stdout": True,
    "additional_parameters": {**more, "output": "/exp/%A_%a.out"}}
sys.stdout.write(sbatch_text(pathlib.Path("/exp"), parameters, "srun python -m x"))
"""
TEXT = """\
#!/bin/bash

# Parameters
#SBATCH --array=0-2%1
#SBATCH --chdir='/data/my work'
#SBATCH --comment=token
#SBATCH --cpus-per-task=18
#SBATCH --job-name=exp:one
#SBATCH --mem=2048MB
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --open-mode=append
#SBATCH --output=/exp/%A_%a.out
#SBATCH --partition=gpu
#SBATCH --qos='o'"'"'neill'
#SBATCH --requeue
#SBATCH --signal=USR2@180
#SBATCH --time=90

# setup
module load 2024

# command
srun python -m x
"""


def versions() -> list[str]:
    """The requirement's lower bound, and the newest release that it allows."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["slurm"]
    (requirement,) = [item for item in extras if item.startswith("submitit")]
    lowest = re.search(r">=([\d.]+)", requirement)
    assert lowest is not None
    return [f"submitit=={lowest[1]}", requirement]


def write(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Write a script with the submitit of an environment."""
    command = [sys.executable, "-P", "-c", WRITE]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("requirement", versions())
def test_submitit_writes_the_script_that_is_expected(requirement: str, tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="jobs are written with submitit: pip install 'voxshard[slurm]'")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--disable-pip-version-check", "--target",
               str(tmp_path / "packages"), requirement]  # fmt: skip
    if subprocess.run(command, capture_output=True, check=False, timeout=100).returncode != 0:
        pytest.skip(f"{requirement} cannot be installed here: no package index")
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text("#!/bin/sh\n")
    srun.chmod(0o755)
    environment = {**os.environ, "PATH": f"{srun.parent}{os.pathsep}{os.environ['PATH']}"}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "packages"), str(ROOT / "src")])
    done = write(environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == TEXT


def test_a_submitit_without_the_method_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "submitit").mkdir()
    (tmp_path / "submitit" / "__init__.py").write_text(
        "__version__ = '9.0'\nclass SlurmExecutor:\n"
        "    def __init__(self, folder): pass\n    def update_parameters(self, **given): pass\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "src")])}
    done = write(environment)
    assert "BackendUnavailableError: submitit 9.0 writes no script text that voxshard knows" in done.stderr
