"""Whatever file of an experiment the storage fails to give: a fault that passes is not noticed, one that stays is exit
code 4 and never a verdict on the content."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

SUPPORT = Path(__file__).parent / "support"
SETS, RUN = "exp/features/mfcc", "exp/runs/mfcc-logistic-0"
COMMANDS = {
    "run": ["run", "config.yaml"],
    "status": ["status", "exp"],
    "verify": ["verify", SETS],
    "merge": ["merge", SETS],
    "export": ["export", SETS, "--format", "tsv", "--out", "features.tsv"],
    "extract": ["extract", "exp/manifest.parquet", "--encoder", "mfcc", "--out", SETS],
    "evaluate": ["evaluate", RUN, "--split", "train"],
    "report": ["report", "exp", "--out", "report.html"],
    "retry": ["retry", SETS],
}
FILES = {
    "config.yaml": "run",
    "exp/config.yaml": "report",
    "exp/manifest.parquet": "extract",
    "/mfcc/config.yaml": "retry",
    "/mfcc/identity.json": "status",
    "/mfcc/manifest.parquet": "merge",
    "/mfcc/plan.parquet": "verify",
    "/mfcc/summary.json": "export",
    "/mfcc/features.h5": "export",
    "/mfcc/utterances.parquet": "verify",
    "/mfcc/failures.csv": "report",
    "/shards/shard-00000-of-00003.h5": "verify",
    "-0/config.yaml": "status",
    "-0/inputs.json": "run",
    "-0/metrics.json": "report",
    "-0/model/model.json": "report",
    "-0/model/model.skops": "evaluate",
    "-0/trials.parquet": "report",
    "-0/tables/confusion-test.csv": "report",
}
"""End of a file's path -> a command that cannot do without it."""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished experiment of one extraction and one training."""
    folder = tmp_path_factory.mktemp("experiment")
    generator = np.random.default_rng(0)
    for number in range(24):
        path = folder / "corpus" / f"{'test' if number % 3 == 0 else 'train'}-{number % 2}-{number}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, generator.normal(0, 0.05 + 0.1 * (number % 2), 8000), 16000)
    config = {
        "out": "exp",
        "prepare": {
            "format": "folder",
            "root": "corpus",
            "label_from": r"-(?P<label>\d)-",
            "split_from": ["test.*=test", ".*=train"],
        },
        "extract": {"mfcc": {"encoder": "mfcc", "shards": 2, "workers": 1}},
        "train": {"label": "label", "replicates": 10},
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    done = subprocess.run([sys.executable, "-m", "voxshard", "run", "config.yaml"], cwd=folder, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return folder


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("storage that fails needs a C compiler and Linux")
    path = tmp_path_factory.mktemp("library") / "faulty_storage.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-std=gnu11", "-o", path, SUPPORT / "faulty_storage.c", "-ldl"], check=True
    )
    return path


def outcomes(
    experiment: Path, library: Path, *, call: str, code: int, times: int, cases: dict[str, str]
) -> dict[str, list[object]]:
    """End of a file's path -> exit code and last message of a command while that file's storage fails."""
    fault = {"FAULT_CALL": call, "FAULT_ERRNO": str(code), "FAULT_TIMES": str(times)}
    todo = [[{**fault, "FAULT_PATH": path}, COMMANDS[command]] for path, command in cases.items()]
    done = subprocess.run(
        [sys.executable, "-P", SUPPORT / "run_with_faults.py"],
        input=json.dumps(todo).encode(),
        cwd=experiment,
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
    )
    lines = done.stdout.decode().splitlines()
    assert len(lines) == len(cases), done.stderr.decode()
    return dict(zip(cases, map(json.loads, lines), strict=True))


def test_a_fault_that_passes_is_not_noticed(experiment: Path, library: Path) -> None:
    found = outcomes(experiment, library, call="open", code=errno.ESTALE, times=2, cases=FILES)
    assert {path: exit_code for path, (exit_code, _) in found.items()} == dict.fromkeys(FILES, 0), found


@pytest.mark.parametrize(("call", "code"), [("open", errno.ESTALE), ("read", errno.EIO)])
def test_a_fault_that_stays_is_exit_code_4(experiment: Path, library: Path, call: str, code: int) -> None:
    found = outcomes(experiment, library, call=call, code=code, times=10**6, cases=FILES)
    assert {path: exit_code for path, (exit_code, _) in found.items()} == dict.fromkeys(FILES, 4), found
    unclear = {path: line for path, (_, line) in found.items() if os.strerror(code) not in str(line)}
    assert {path: line for path, line in unclear.items() if "ended with exit code 4" not in str(line)} == {}
