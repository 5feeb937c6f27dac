"""Each image by itself: what it states it is, and its self-test as any user would run it."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from support.image_runs import ROOT, Images
from voxshard import __version__

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]
WITH = {"pytorch": ("torch", "tensorflow"), "tensorflow": ("tensorflow", "torch")}


@pytest.fixture(params=sorted(WITH))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def image(images: Images, name: str) -> Path:
    return {"pytorch": images.pytorch, "tensorflow": images.tensorflow}[name]


def test_labels_tell_version_framework_and_the_lock_it_was_made_of(
    images: Images, image: Path, name: str, tmp_path: Path
) -> None:
    said = images.run("apptainer", "inspect", "--labels", "--json", image, cwd=tmp_path).stdout
    labels = json.loads(said)["data"]["attributes"]["labels"]
    locks = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (ROOT / "containers").glob(f"{name}*.lock")]
    assert labels["org.voxshard.lock"] in locks
    assert labels["org.voxshard.framework"] == WITH[name][0]
    assert labels["org.opencontainers.image.title"] == f"voxshard-{name}"
    assert labels["org.opencontainers.image.version"] == __version__


def test_the_digest_beside_an_image_is_its_own(image: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--quiet", f"{image.name}.sha256"], cwd=image.parent, check=True)


def test_the_self_test_passes_shut_in_and_says_what_is_there_and_what_is_not(
    images: Images, image: Path, name: str, tmp_path: Path
) -> None:
    done = images.run("apptainer", "test", "--containall", "--cleanenv", image, cwd=tmp_path)
    framework, other = WITH[name]
    assert f"with {framework} " in done.stdout
    assert f"no {other}" in done.stdout


def test_the_other_framework_cannot_be_imported(images: Images, image: Path, name: str, tmp_path: Path) -> None:
    words = ["apptainer", "exec", "--cleanenv", image, "python", "-c", f"import {WITH[name][1]}"]
    assert "ModuleNotFoundError" in images.run(*words, cwd=tmp_path, check=1).stderr


def test_an_image_is_read_only_and_the_user_s_own_packages_stay_out(
    images: Images, image: Path, tmp_path: Path
) -> None:
    write = ["apptainer", "exec", "--cleanenv", image, "touch", "/opt/venv/mine"]
    assert "Read-only" in images.run(*write, cwd=tmp_path, check=1).stderr
    look = ["apptainer", "exec", image, "python", "-c", "import site, sys; print(site.ENABLE_USER_SITE, *sys.path)"]
    said = images.run(*look, cwd=tmp_path, PYTHONPATH=str(tmp_path)).stdout
    assert said.startswith("False")
    assert str(tmp_path) not in said
