"""The two images, a small corpus with small models for them, and a SLURM cluster that runs tasks in them."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from on_images_support import ROOT, SHARED, Images, unavailable
from on_slurm_support import MINI, SCRIPT, Slurm

PER_SPLIT = 20


@pytest.fixture(scope="session")
def images() -> Images:
    return Images.find()


@pytest.fixture(scope="session")
def unpacked(images: Images) -> Iterator[Path]:
    """An image as a folder: on a cluster without cgroups SLURM signals the process that serves a SIF, too."""
    folder = Path(tempfile.mkdtemp(prefix="vx-image-", dir="/var/tmp"))
    images.unpack(images.tensorflow, folder / "image")  # the smaller one
    yield folder / "image"
    subprocess.run(["rm", "-rf", str(folder)], check=True)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """The first recordings of each split, behind links to folders."""
    if not MINI.exists():
        unavailable(f"no test audio: {MINI} is not there")
    root = tmp_path / "corpus"
    root.mkdir()
    for path in MINI.iterdir():
        if path.is_dir():
            (root / path.name).symlink_to(path)
        elif path.suffix == ".tsv":
            lines = path.read_text().splitlines()
            (root / path.name).write_text("\n".join(lines[:: max(1, len(lines) // PER_SPLIT)]) + "\n")
    return root


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """$VOXSHARD_WEIGHTS, full of links."""
    reference = SHARED / "reference"
    if not reference.exists():
        unavailable(f"no small models: {reference} is not there")
    folder = tmp_path / "weights"
    (folder / "hf" / "small").mkdir(parents=True)
    for name, source in (
        ("trillsson3", "trillsson_module"), ("metis8d", "metis_tiny"), ("hf/small/wav2vec2", "ssl/wav2vec2-base"),
    ):  # fmt: skip
        (folder / name).symlink_to(reference / source)
    return folder


@pytest.fixture(scope="session")
def cluster(images: Images) -> Iterator[Slurm]:
    if not SCRIPT.exists() or shutil.which("slurmctld") is None:
        unavailable(f"no cluster to test on: needs slurmctld and {SCRIPT}")
    made = Slurm(Path(tempfile.mkdtemp(prefix="vx-slurm-", dir="/tmp")), LOW_EXTRA="GraceTime=10")
    yield made
    made.down()


@pytest.fixture(scope="session")
def environments() -> dict[str, Path]:
    """The virtual environments that images are held against."""
    found = {name: ROOT / name for name in (".venv-torch", ".venv-tf")}
    if not all((path / "bin" / "python").exists() for path in found.values()):
        pytest.skip("needs .venv-torch and .venv-tf to compare with: make setup-torch setup-tf")
    return found


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may use."""
    path = Path(tempfile.mkdtemp(prefix="vx-user-", dir="/var/tmp"))
    path.chmod(0o777)
    yield path
    subprocess.run(["rm", "-rf", str(path)], check=True)
