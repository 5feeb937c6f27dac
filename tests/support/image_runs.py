"""The two images and a program that runs them, for tests."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tests" / "tools" / "apptainer-here.sh"


def unavailable(why: str) -> None:
    """Skip, or fail where CI states that Apptainer must be there."""
    if os.environ.get("REQUIRE_APPTAINER") == "1":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


@dataclass(frozen=True)
class Images:
    """What the tests run stages in."""

    pytorch: Path
    tensorflow: Path
    environment: dict[str, str]
    """Ours, with a container program on PATH."""

    @classmethod
    def find(cls) -> Images:
        """Those in $VOXSHARD_IMAGES, or in the repository's root; skips where something is missing."""
        folder = Path(os.environ.get("VOXSHARD_IMAGES", ROOT))
        environment = _with_apptainer()
        images = [folder / f"voxshard-{name}.sif" for name in ("pytorch", "tensorflow")]
        missing = [str(image) for image in images if not image.exists()]
        if missing:
            unavailable(f"no {', '.join(missing)}: `make images` builds them, $VOXSHARD_IMAGES defines where they are")
        return cls(images[0], images[1], environment)

    def run(self, *words: object, cwd: Path, check: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command with apptainer on PATH; its exit code is checked."""
        done = subprocess.run(
            [str(word) for word in words], cwd=cwd, env={**self.environment, **environment}, capture_output=True,
            text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == check, f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def unpack(self, image: Path, folder: Path) -> None:
        """An image as a folder; ours to remove."""
        ours = "APPTAINER_NO_PRIVS" in self.environment
        program = [TOOL, "apptainer", "build", "--fakeroot"] if ours else ["apptainer", "build"]
        self.run(*program, "--sandbox", folder, image, cwd=folder.parent)
        for parent, folders, _ in os.walk(folder):
            for path in (Path(parent, name) for name in folders):
                if not path.is_symlink():
                    path.chmod(path.stat().st_mode | stat.S_IRWXU)

    def voxshard(self, *words: object, cwd: Path, check: int = 0, **environment: str) -> str:
        """The host's command line; what it states."""
        return self.run(sys.executable, "-m", "voxshard", *words, cwd=cwd, check=check, **environment).stderr


def _with_apptainer() -> dict[str, str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    if shutil.which("apptainer") or shutil.which("singularity"):
        return environment
    if os.getuid() != 0:
        unavailable(f"no apptainer on PATH, and only root can use {TOOL}")
    place = Path(os.environ.get("APPTAINER_HERE", "/var/tmp/apptainer-here"))
    subprocess.run([str(TOOL), "true"], check=True, capture_output=True)
    path = f"{place / 'ap' / 'bin'}{os.pathsep}{environment['PATH']}"
    return {**environment, "PATH": path, "APPTAINER_NO_PRIVS": "1"}
