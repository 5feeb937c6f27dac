"""The two images, a small corpus with small models for them, and a SLURM cluster that runs tasks in them."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import small_weights
from support.image_runs import ROOT, Images, unavailable
from support.slurm_cluster import MINI, SCRIPT, Slurm

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


@pytest.fixture(scope="session")
def whole_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 420 recordings, behind links, for the tests that compare numbers.

    Beside 60 of them they cost 11 s of CPU time in each of three extractions.
    """
    return _linked(tmp_path_factory.mktemp("whole") / "corpus")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Some twenty recordings of each split, behind links to folders, for tests of what no number depends on."""
    root = _linked(tmp_path / "corpus")
    for path in root.glob("*.tsv"):
        lines = path.read_text().splitlines()
        path.unlink()
        path.write_text("\n".join(lines[:: max(1, len(lines) // PER_SPLIT)]) + "\n")
    return root


def _linked(root: Path) -> Path:
    root.mkdir()
    for path in MINI.iterdir():
        if path.is_dir() or path.suffix == ".tsv":
            (root / path.name).symlink_to(path)
    return root


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """$VOXSHARD_WEIGHTS, full of links."""
    models, folder = tmp_path_factory.mktemp("models") / "models", tmp_path_factory.mktemp("links") / "weights"
    names = ("trillsson3", "metis8d", "hf/small/wav2vec2")
    try:
        small_weights.write(models, *names)
    except small_weights.MissingEnvironmentError as exc:
        unavailable(str(exc))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(models / name)
    return folder


@pytest.fixture(scope="session")
def cluster(images: Images) -> Iterator[Slurm]:
    if shutil.which("slurmctld") is None:
        unavailable(f"slurmctld is not installed; as root: {SCRIPT} install")
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
