"""slurm/*.sh with stand-ins for SLURM and Apptainer: what they run, and when they go back into the queue."""

from __future__ import annotations

import ast
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
from voxshard.runtime import binds, images, runtime

SCRIPTS = Path(__file__).parents[2] / "slurm"
TOOLS = ("bash", "dirname", "hostname", "sed")
SRUN = """#!/bin/bash
export SRUN_OPTIONS=
while [[ $1 == --* ]]; do SRUN_OPTIONS+="$1 "; shift; done
exec "$@"
"""
RECORDER = """#!{python}
import json, os, sys
with open({log!r}, "w") as log:
    json.dump({{"words": sys.argv, "environment": dict(os.environ)}}, log)
sys.exit(int(os.environ.get("ENDS_WITH", "0")))
"""
LAUNCHER = SCRIPTS.parent / "src" / "voxshard" / "runtime" / "image_command.py"
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
        """Words and environment of what the step ran: Python, or the container program."""
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
    recorder = RECORDER.format(python=sys.executable, log=str(folder / "step.json"))
    (tools / "python3").symlink_to(Path(sys.executable).resolve())  # no voxshard there
    programs = {
        "srun": SRUN,
        "squeue": '#!/bin/bash\necho "$STATE"\n',
        "scontrol": SCONTROL,
        "apptainer": recorder,
    }
    for name, text in programs.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(recorder)
    python.chmod(0o755)
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
    job.run(SCRIPTS / "metis_array.sh", SPLIT="dev", SLURM_CPUS_PER_TASK="4", **ELEMENT)
    assert srun_options(job) == ["--unbuffered", "--nodes=1", "--ntasks=1", "--cpus-per-task=4", "--export=ALL"]
    assert job.step["words"] == [
        f"{job.folder}/.venv-torch/bin/python", "-P", "-m", "voxshard", "extract", "manifest.parquet", "--encoder",
        "metis8d", "--out", "features", "--device", "cuda", "--split", "dev", "--task", "3", "--tasks", "8",
    ]  # fmt: skip


def srun_options(job: Job) -> list[str]:
    found: list[str] = job.step["environment"]["SRUN_OPTIONS"].split()
    return found


ELEMENT = {
    "SLURM_ARRAY_JOB_ID": "16",
    "SLURM_ARRAY_TASK_ID": "5",
    "SLURM_ARRAY_TASK_MIN": "2",
    "SLURM_ARRAY_TASK_COUNT": "8",
}
LEAKED = {
    "SLURM_NTASKS": "3", "SLURM_NNODES": "2", "SLURM_MEM_PER_CPU": "100", "SLURM_GPUS": "4", "SLURM_STEP_GRES": "gpu:4",
    "SLURM_EXPORT_ENV": "NONE", "SLURM_CPU_BIND": "none", "SLURM_HINT": "nomultithread", "SLURM_DISTRIBUTION": "cyclic",
    "SLURM_OVERLAP": "1", "SLURM_WAIT": "1", "SRUN_CPUS_PER_TASK": "64", "SRUN_CONTAINER": "x", "SBATCH_WAIT": "1",
    "SBATCH_EXPORT": "NONE", "SQUEUE_STATES": "PENDING", "SQUEUE_FORMAT": "%i", "SCONTROL_ALL": "1",
}  # fmt: skip


def test_variables_of_the_terminal_reach_neither_srun_nor_squeue(job: Job, tmp_path: Path) -> None:
    """Those of an earlier allocation, of a login script, of another project."""
    squeue = tmp_path / "tools" / "squeue"
    squeue.write_text('#!/bin/bash\n[ -n "${!SQUEUE_*}" ] || echo "$STATE"\n')
    job.run(SCRIPTS / "hf_array.sh", code=75, MODEL="m", ENDS_WITH="75", **ELEMENT, **LEAKED)
    environment = job.step["environment"]
    assert not LEAKED.keys() & environment.keys()
    assert environment["SLURM_JOB_ID"] == "17"
    assert job.requeued == ["16_5"]


@pytest.mark.parametrize(
    ("given", "cpus"),
    [
        ({"SLURM_CPUS_PER_TASK": "4", "SLURM_JOB_CPUS_PER_NODE": "8"}, "4"),
        ({"SLURM_JOB_CPUS_PER_NODE": "18"}, "18"),
        ({"SLURM_CPUS_PER_TASK": "64", "SLURM_JOB_CPUS_PER_NODE": "2"}, "2"),
        ({"SLURM_CPUS_PER_TASK": "64", "SLURM_JOB_CPUS_PER_NODE": "16(x1)"}, "16"),
    ],
    ids=["as asked for", "not asked for", "of another job", "as SLURM abbreviates it"],
)
def test_a_step_gets_the_cpus_of_its_job(job: Job, given: dict[str, str], cpus: str) -> None:
    job.run(SCRIPTS / "merge.sh", **given)
    assert f"--cpus-per-task={cpus}" in srun_options(job)


def test_settings_can_be_words_where_the_environment_does_not_reach_the_job(job: Job) -> None:
    words = ["MODEL=a b", "OUT=else where", "MANIFEST=$(touch executed).parquet", "VOXSHARD_WEIGHTS=/w", "DEVICE=cpu"]
    del job.environment["OUT"]
    job.run(SCRIPTS / "hf_array.sh", *words, SLURM_EXPORT_ENV="NONE", **ELEMENT)
    found = job.step["words"]
    assert found[5:8] == ["$(touch executed).parquet", "--encoder", "hf"]
    assert [found[found.index(name) + 1] for name in ("--set", "--out", "--device")] == [
        "weights=a b",
        "else where",
        "cpu",
    ]
    assert job.step["environment"]["VOXSHARD_WEIGHTS"] == "/w"
    assert not (job.folder / "executed").exists()
    printed = job.run(SCRIPTS / "hf_array.sh", code=1, SLURM_EXPORT_ENV="NONE", **ELEMENT)
    assert "submitted with --export=NONE, so no setting reaches this job; give them as NAME=VALUE" in printed
    job.run(SCRIPTS / "ecapa_train.sh", "VENV=.venv", *WORDS, "--seed", "1", SLURM_EXPORT_ENV="NONE")
    assert job.step["words"][0] == f"{job.folder}/.venv/bin/python"
    assert "merge: expected NAME=VALUE" in job.run(SCRIPTS / "merge.sh", "merge", code=2)


def test_a_busy_controller_and_a_banner_do_not_keep_a_job_from_going_back(job: Job, tmp_path: Path) -> None:
    (tmp_path / "tools" / "sleep").write_text("#!/bin/bash\n")
    (tmp_path / "tools" / "sleep").chmod(0o755)
    busy = '[ -e asked ] || { : >asked; echo "slurm_load_jobs error: Socket timed out" >&2; exit 1; }\n'
    (tmp_path / "tools" / "squeue").write_text(f"#!/bin/bash\n{busy}echo This system is monitored\necho RUNNING\n")
    job.run(SCRIPTS / "merge.sh", code=75, ENDS_WITH="75")
    assert job.requeued == ["17"]


BANNERS = {
    "plain": "echo $n",
    "cluster": 'echo "$n;lisa"',
    "around": "echo Welcome to 3 nodes; echo $n; echo; echo bye",
}


@pytest.mark.parametrize("answer", BANNERS.values(), ids=BANNERS)
def test_the_pipeline_reads_the_id_whatever_is_printed_around_it_and_states_its_options(
    job: Job, tmp_path: Path, answer: str
) -> None:
    tools = tmp_path / "tools"
    for name in ("tail", "grep"):
        (tools / name).symlink_to(shutil.which(name) or pytest.skip(f"needs {name}"))
    count = 'n=$(($(cat last 2>/dev/null || echo 6) + 1)); echo $n >last; echo "$@" >>asked; echo ${!SBATCH_*} >>seen'
    (tools / "cat").symlink_to(shutil.which("cat") or pytest.skip("needs cat"))
    (tools / "sbatch").write_text(f"#!/bin/bash\n{count}\n{answer}\n")
    (tools / "sbatch").chmod(0o755)
    (job.folder / "manifest.parquet").touch()
    job.run(SCRIPTS / "pipeline.sh", "metis", PARTITION="gpu", SBATCH_ACCOUNT="mine", **LEAKED)
    extraction, merge = (job.folder / "asked").read_text().splitlines()
    assert "--export=ALL --partition=gpu --array=0-3" in extraction
    assert "--dependency=afterany:7 " in merge
    assert (job.folder / "seen").read_text().split() == ["SBATCH_ACCOUNT"] * 2


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


def test_a_copy_of_a_script_finds_what_is_next_to_the_original(job: Job, spooled: Path, tmp_path: Path) -> None:
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
    assert "no step.sh next to the script or in slurm/" in told


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
    ids=["asked to stop", "an element", "failed", "cancelled", "often", "often enough"],
)
def test_a_job_goes_back_into_the_queue_if_it_was_told_to_stop(
    job: Job, changed: dict[str, str], back: list[str]
) -> None:
    variables = {"ENDS_WITH": "75", **changed}
    job.run(SCRIPTS / "merge.sh", code=int(variables["ENDS_WITH"]), **variables)
    assert job.requeued == back


PASSED = (
    "SLURM_JOB_USER", "VOXSHARD_X", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TORCH_HOME", "PYTORCH_CUDA_ALLOC_CONF",
    "TF_CPP_MIN_LOG_LEVEL", "XLA_FLAGS", "NCCL_DEBUG", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "MIOPEN_DB_PATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS", "WANDB_MODE", "AWS_PROFILE", "FSSPEC_S3", "GOOGLE_APPLICATION_CREDENTIALS",
    "GPU_DEVICE_ORDINAL", "NUMBA_NUM_THREADS", "http_proxy", "NO_PROXY", "TERM", "COLUMNS", "NO_COLOR",
)  # fmt: skip


def test_in_an_image_a_plain_script_and_a_submitted_job_bind_the_same_paths_and_set_the_same_variables(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tmp_path / "gpfs" / "work" / "corpus"
    (real / "flac").mkdir(parents=True)
    (tmp_path / "projects").symlink_to("gpfs/work")
    (tmp_path / "data").symlink_to(tmp_path / "projects" / "." / "corpus")
    for name in ("models", "hub", "scratch", "odd: a"):
        (tmp_path / name).mkdir()
    image = write_image(job.folder / "voxshard-pytorch.sif")
    given = [tmp_path / "data" / "flac", tmp_path / "projects", job.folder / ".venv", tmp_path / "odd: a"]
    variables = dict.fromkeys(PASSED, "1")
    variables |= {"VOXSHARD_WEIGHTS": str(tmp_path / "models"), "HF_HOME": str(tmp_path / "hub")}
    variables |= {"TMPDIR": str(tmp_path / "scratch"), "PYTHONPATH": "/mine", "LD_PRELOAD": "", "PWD": str(job.folder)}
    job.run(SCRIPTS / "merge.sh", BINDS=",".join(map(str, given)), OUT=str(tmp_path / "scratch" / "new" / "set"),
            APPTAINERENV_MINE="1", **variables)  # fmt: skip
    found = job.step

    for name in set(os.environ) - {"PYTEST_CURRENT_TEST"}:
        monkeypatch.delenv(name)
    for name, value in {**job.environment, **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(job.folder)
    needs = [need for path in [tmp_path / "scratch", *given] for need in binds.needed(path, "given")]
    words = ["merge", str(tmp_path / "scratch" / "new" / "set"), "--mode", "auto"]
    wanted = runtime.command(f"image:{image}", words, needs=needs)
    assert found["words"][1:] == [word if word != str(image) else image.name for word in wanted.words[1:]]
    inside = {name: value for name, value in found["environment"].items() if name.startswith("APPTAINERENV_")}
    assert inside.pop("APPTAINERENV_MINE") == "1"
    assert inside == wanted.environment
    assert {f"APPTAINERENV_{name}" for name in PASSED} < {*inside}
    assert not {"APPTAINERENV_PYTHONPATH", "APPTAINERENV_LD_PRELOAD"} & {*inside}
    bound = shown(found["words"])
    assert str(tmp_path / "data" / "flac") in bound, "by the name that is used"
    assert str(tmp_path / "projects") in bound, "on the way"
    assert {str(tmp_path / name) for name in ("models", "hub", "scratch")} < {*bound}
    assert bound[-1] != str(tmp_path / "gpfs" / "work"), "real folders come first"


def test_the_launcher_of_the_plain_scripts_runs_with_an_old_python_alone() -> None:
    text = LAUNCHER.read_text()
    tree = ast.parse(text, feature_version=(3, 9))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [part.name for part in node.names])
    }
    assert imported <= sys.stdlib_module_names
    old = shutil.which("python3.9")
    if old is not None and subprocess.run([old, "-V"], capture_output=True, check=False).returncode == 0:
        done = subprocess.run([old, "-I", LAUNCHER, "--help"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_scripts_copied_without_the_launcher_report_it(job: Job, tmp_path: Path) -> None:
    checkout(tmp_path / "copy")
    write_image(job.folder / "voxshard-pytorch.sif")
    script = tmp_path / "copy" / "slurm" / "merge.sh"
    assert "no image_command.py next to step.sh" in job.run(script, code=4)
    shutil.copy(LAUNCHER, script.parent)
    job.run(script)
    assert job.step["words"][-5:] == ["voxshard", "merge", "features", "--mode", "auto"]


@pytest.mark.parametrize("noted", ["of this image", "of another one", "never"])
def test_a_step_in_an_image_notes_its_digest_as_a_submitted_one_does(job: Job, noted: str) -> None:
    image = write_image(job.folder / "voxshard-pytorch.sif")
    digest = images.digest(image)
    note = job.folder / "voxshard-pytorch.sif.sha256"
    mark = note.read_text().splitlines()[1]
    note.write_text(f"{'0' * 64}  voxshard-pytorch.sif\n{mark if noted == 'of this image' else mark + '0'}\n")
    os.utime(note, (0, 0))
    if noted == "never":
        note.unlink()
    job.run(SCRIPTS / "merge.sh")
    assert job.step["environment"]["APPTAINERENV_VOXSHARD_IMAGE_DIGEST"] == (
        f"sha256:{'0' * 64}" if noted == "of this image" else digest
    )


def test_an_unpacked_image_and_singularity_will_do(job: Job, tmp_path: Path) -> None:
    labels = tmp_path / "unpacked" / ".singularity.d" / "labels.json"
    labels.parent.mkdir(parents=True)
    labels.write_text("{}")
    (tmp_path / "tools" / "apptainer").rename(tmp_path / "tools" / "singularity")
    job.run(SCRIPTS / "merge.sh", IMAGE=str(tmp_path / "unpacked"))
    assert Path(job.step["words"][0]).name == "singularity"
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
    assert "/projects/ours (BINDS): does not exist on " in told(BINDS="/projects/ours")
    (tmp_path / "tools" / "apptainer").unlink()
    assert "no apptainer and no singularity on PATH on " in told()
