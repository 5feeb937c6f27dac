"""An older and a newer voxshard on one folder: hosts and images are not always renewed on the same day.

The newer one is this one with every format version raised by one, as its own package.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from voxshard.cli import main
from voxshard.store.layout import sealed

ROOT = Path(__file__).parents[2]
VERSIONED = ("manifest.py", "store/layout.py", "store/runs.py")


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What to put on PYTHONPATH for the newer one."""
    folder = tmp_path_factory.mktemp("newer")
    package = shutil.copytree(
        ROOT / "src" / "voxshard", folder / "voxshard", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in VERSIONED:
        text = (package / name).read_text()
        raised = re.sub(
            r"^FORMAT_VERSION = (\d+)$", lambda match: f"FORMAT_VERSION = {int(match[1]) + 1}", text, flags=re.M
        )
        assert raised != text
        (package / name).write_text(raised)
    return folder


SEVERAL = "import json, sys; from voxshard.cli import main; [main(words) for words in json.loads(sys.argv[1])]"


def voxshard(source: Path, folder: Path, *commands: list[str]) -> None:
    """Commands of the older (`src`) or the newer one, in its own process."""
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", SEVERAL, json.dumps(commands)]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What the older one, which we are, reports when it refuses a command."""
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    assert caught.value.code == 3
    return capsys.readouterr().err


EXTRACT = ["extract", "manifest.parquet", "--encoder", "mfcc", "--out", "set", "--workers", "1"]


def make_everything(source: Path, folder: Path) -> None:
    """A manifest, a feature set with a shard for each split, and a run."""
    for split in ("train", "test"):
        for number in range(6):
            path = folder / "corpus" / split / f"{'ab'[number % 2]}{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, [0.5 * ((n // (4 + number % 2)) % 2) for n in range(4000)], 16000)
    prepare = ["prepare", "folder", "corpus", "--out", "manifest.parquet", "--split-from", "(train)/=train"]
    prepare += ["--split-from", "(test)/=test", "--label-from", r"/(?P<kind>[ab])\d"]
    train = ["train", "set", "--label", "kind", "--classifier", "prototypes", "--out", "run"]
    voxshard(source, folder, prepare, EXTRACT, ["merge", "set"], train)


@pytest.fixture(scope="module")
def by_newer(newer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("by-newer")
    make_everything(newer, folder)
    return folder


@pytest.fixture(scope="module")
def by_older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("by-older")
    make_everything(ROOT / "src", folder)
    return folder


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (
            ["extract", "manifest.parquet", "--encoder", "mfcc", "--out", "other"],
            "manifest.parquet: manifest format 2",
        ),
        (["merge", "set"], "set/summary.json: format 3"),
        (["verify", "set"], "set/summary.json: format 3"),
        (["export", "set", "--format", "npy", "--out", "out"], "set/summary.json: format 3"),
        (
            ["train", "set", "--label", "kind", "--classifier", "prototypes", "--out", "r"],
            "set/summary.json: format 3",
        ),
        (["evaluate", "run"], "run: run format 2"),
    ],
)
def test_an_older_one_refuses_what_a_newer_one_wrote_by_name(
    by_newer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], named: str
) -> None:
    monkeypatch.chdir(by_newer)
    known = int(named[-1]) - 1
    assert refused(capsys, *words) == f"voxshard: {named}, this voxshard reads up to {known}; update it\n"


def test_an_older_one_refuses_single_files_of_a_newer_one(
    by_newer: Path,
    by_older: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(by_newer, tmp_path / "mixed")
    monkeypatch.chdir(tmp_path / "mixed")
    what = "format 3, this voxshard reads up to 2; update it"
    for name in ("identity.json", "summary.json"):
        path = Path("set", name)
        content = json.loads(path.read_text()) | {"format_version": 2}
        del content["digest"]
        path.write_text(json.dumps(sealed(content)))
    export = ["export", "set", "--format", "npy", "--out", "out"]
    assert refused(capsys, *export) == f"voxshard: set/features.h5: {what}\n"
    assert f"shard-00000-of-00002.h5: {what}" in refused(capsys, "verify", "set")


def test_a_newer_one_reads_what_an_older_one_wrote_and_goes_on_with_it(
    newer: Path, by_older: Path, tmp_path: Path
) -> None:
    shutil.copytree(by_older, tmp_path, dirs_exist_ok=True)
    export = ["export", "set", "--format", "npy", "--split", "train", "--out", "out"]
    voxshard(newer, tmp_path, ["merge", "set"], ["verify", "set"], export, ["evaluate", "run"])
    next((tmp_path / "set" / "shards").glob("*.h5")).unlink()
    voxshard(newer, tmp_path, EXTRACT, ["merge", "set"], ["verify", "set"])
