"""Nothing of the working folder is imported: users keep files there that are called like modules."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voxshard.errors import BackendUnavailableError
from voxshard.learning.tracking import tracker_module
from voxshard.runtime import runtime

NAMES = ("random", "queue", "numpy", "socket", "tempfile", "click", "select", "secrets", "shlex", "csv", "yaml")
"""Of the standard library and of packages: what Python itself does not import before a program."""
SPLITS = ["_test_=test", ".*=train"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder whose files end every program that imports them."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text("raise SystemExit(f'{__file__} was imported')\n")
    (tmp_path / "wandb").mkdir()
    (tmp_path / "corpus").mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        sound = 0.1 * rng.standard_normal(4000)
        soundfile.write(
            tmp_path / "corpus" / f"{number % 2}_{'test' if number < 4 else 'train'}_{number}.wav", sound, 8000
        )
    return tmp_path


def call(folder: Path, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command, environment = [*map(str, words)], {**os.environ, **variables}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("program", "variables"),
    [
        ([str(Path(sys.executable).with_name("voxshard"))], {"PYTHONPATH": f"{os.pathsep}/my/code"}),
        ([sys.executable, "-m", "voxshard"], {}),
    ],
    ids=["voxshard", "python -m voxshard"],
)
def test_an_experiment_runs_in_a_folder_with_files_that_are_called_like_modules(
    folder: Path, program: list[str], variables: dict[str, str]
) -> None:
    config = {
        "out": "exp",
        "prepare": {"format": "folder", "root": "corpus", "label_from": r"(?P<x>\d)_", "split_from": SPLITS},
        "extract": {"mfcc": {"encoder": "mfcc", "workers": 1}},
        "train": {"label": "x", "classifier": "knn", "replicates": 0},
    }  # fmt: skip
    (folder / "config.yaml").write_text(json.dumps(config))
    done = call(folder, *program, "run", "config.yaml", **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "exp" / "report.html").exists()


def test_a_folder_of_earlier_runs_is_no_package_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    importlib.invalidate_caches()
    with pytest.raises(BackendUnavailableError, match="wandb, which is not installed here"):
        tracker_module("wandb")
    monkeypatch.delitem(sys.modules, "wandb", raising=False)


def test_what_is_started_gets_the_safe_path() -> None:
    assert runtime.command("here", ["prepare"]).words[:4] == [sys.executable, "-P", "-m", "voxshard"]


def test_a_program_that_imports_voxshard_keeps_its_path(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("found = 'mine'\n")
    code = "import voxshard, mine; print(mine.found)"
    assert call(tmp_path, sys.executable, "-c", code).stdout == "mine\n"
    (tmp_path / "program.py").write_text(code)
    assert call(tmp_path, sys.executable, "-m", "program").stdout == "mine\n"
    assert call(tmp_path, sys.executable, "-c", code, PYTHONPATH=f"{os.pathsep}/x").stdout == "mine\n"
