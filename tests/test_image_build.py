"""containers/build.sh and `make pin-base`, with stand-ins for Apptainer, pip and skopeo."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PYTHON = """#!/bin/bash
# Downloads nothing, and builds an empty wheel.
for word; do
  [ "$before" = --wheel-dir ] && mkdir -p "$word" && touch "$word/voxshard-9.8.7-py3-none-any.whl"
  before=$word
done
exit 0
"""
APPTAINER = """#!/bin/bash
printf '%s\\n' "$@" > words
[ -z "${BROKEN:-}" ] || exit 255
printf 'an image' > "${@: -2:1}"
"""


@pytest.fixture
def checkout(tmp_path):
    """A folder with the build's files and stand-ins, no base recorded."""
    shutil.copytree(ROOT / "containers", tmp_path / "containers", ignore=shutil.ignore_patterns("base.txt"))
    for name, text in {"python": PYTHON, "apptainer": APPTAINER}.items():
        _program(tmp_path / "bin" / name, text)
    return tmp_path


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def build(checkout: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": f"{checkout / 'bin'}:{os.environ['PATH']}",
        "PYTHON": str(checkout / "bin" / "python"),
        **settings,
    }
    return subprocess.run(
        [checkout / "containers" / "build.sh", *words], env=environment, capture_output=True, text=True
    )


def build_arguments(checkout: Path) -> dict[str, str]:
    words = (checkout / "words").read_text().splitlines()
    pairs = [after for word, after in pairwise(words) if word == "--build-arg"]
    return dict(pair.split("=", 1) for pair in pairs)


def test_a_built_image_says_what_it_is_made_of_and_has_its_digest_beside_it(checkout):
    done = build(checkout, "pytorch", BASE_IMAGE="base.sif")
    assert done.returncode == 0, done.stderr
    given = build_arguments(checkout)
    assert (given["version"], given["framework"], given["bootstrap"], given["from"]) == (
        "9.8.7",
        "torch",
        "localimage",
        "base.sif",
    )
    assert given["lock_sha256"] == hashlib.sha256((checkout / "containers/pytorch.lock").read_bytes()).hexdigest()
    digest = hashlib.sha256((checkout / "voxshard-pytorch.sif").read_bytes()).hexdigest()
    assert (checkout / "voxshard-pytorch.sif.sha256").read_text().split() == [digest, "voxshard-pytorch.sif"]


def test_every_argument_of_the_definition_is_given(checkout):
    build(checkout, "tensorflow", BASE_IMAGE="base.sif")
    text = (checkout / "containers/voxshard.def").read_text()
    asked = {part.split("}}")[0].strip() for part in text.split("{{")[1:]}
    assert set(build_arguments(checkout)) == asked


def test_the_image_without_cuda_takes_the_place_of_the_one_with_it(checkout):
    build(checkout, "tensorflow-cpu", BASE_IMAGE="base.sif")
    assert build_arguments(checkout)["lock"] == "containers/tensorflow-cpu.lock"
    assert (checkout / "voxshard-tensorflow.sif").exists()


def test_without_a_base_it_says_how_to_get_one(checkout):
    done = build(checkout, "pytorch")
    assert done.returncode == 4
    assert "make pin-base" in done.stderr
    assert not (checkout / "words").exists()


def test_a_recorded_base_is_taken_by_its_digest(checkout):
    (checkout / "containers/base.txt").write_text("python@sha256:0123\n")
    build(checkout, "pytorch")
    given = build_arguments(checkout)
    assert (given["bootstrap"], given["from"]) == ("docker", "python@sha256:0123")


def test_a_build_that_fails_leaves_the_image_that_was_there(checkout):
    (checkout / "voxshard-pytorch.sif").write_text("the old one")
    assert build(checkout, "pytorch", BASE_IMAGE="base.sif", BROKEN="1").returncode != 0
    assert (checkout / "voxshard-pytorch.sif").read_text() == "the old one"


def test_the_wheels_alone_need_no_apptainer(checkout):
    done = build(checkout, "pytorch", "wheels", APPTAINER="not-there")
    assert done.returncode == 0, done.stderr
    done = build(checkout, "pytorch", BASE_IMAGE="base.sif", APPTAINER="not-there")
    assert (done.returncode, "no not-there here" in done.stderr) == (4, True)


def test_an_unknown_image_is_refused_with_those_there_are(checkout):
    done = build(checkout, "jax")
    assert (done.returncode, "pytorch, tensorflow, tensorflow-cpu" in done.stderr) == (2, True)


def test_pin_base_records_the_digest_of_the_tag(checkout):
    _program(checkout / "bin" / "skopeo", '#!/bin/sh\necho "$4" > asked\necho sha256:4567\n')
    shutil.copy(ROOT / "Makefile", checkout)
    command = ["make", "pin-base", "BASE_TAG=registry:5000/python:3.11-slim"]
    environment = {**os.environ, "PATH": f"{checkout / 'bin'}:{os.environ['PATH']}"}
    subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True)
    assert (checkout / "containers/base.txt").read_text() == "registry:5000/python@sha256:4567\n"
    assert (checkout / "asked").read_text() == "docker://registry:5000/python:3.11-slim\n"


@pytest.mark.parametrize(
    ("found", "framework", "line"),
    [
        ("580.65.06", "torch", "NVIDIA driver 580.65.06: new enough, 580 is needed"),
        ("570.86.15", "torch", "WARNING: NVIDIA driver 570.86.15 is older than 580: this image cannot use the GPUs"),
        ("570.86.15", "tensorflow", "NVIDIA driver 570.86.15: new enough, 525 is needed"),
        (None, "torch", "no NVIDIA driver here; on a GPU this image needs 580 or newer"),
    ],
)
def test_the_self_test_compares_the_driver_with_the_images_cuda(
    monkeypatch: pytest.MonkeyPatch, found: str | None, framework: str, line: str
) -> None:
    spec = importlib.util.spec_from_file_location("selftest", ROOT / "containers" / "selftest.py")
    assert spec is not None
    assert spec.loader is not None
    selftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(selftest)
    monkeypatch.setattr(selftest.gpus, "driver_version", lambda: found)
    assert selftest.driver(framework).startswith(line)
