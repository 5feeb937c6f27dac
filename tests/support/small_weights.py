"""A weights folder with small models of both frameworks, made by the environments that have the frameworks."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


class MissingEnvironmentError(Exception):
    """A virtual environment that is needed to save a model was not made."""


def write(folder: Path, *names: str) -> None:
    """Save the models with these names (as below $VOXSHARD_WEIGHTS) in a folder.

    Raises
    ------
    MissingEnvironmentError : the environment that saves one of them does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    of_tensorflow = [name for name in names if name.startswith("trillsson")]
    for environment, module, chosen in (
        (".venv-tf", "support.tensorflow_models", of_tensorflow),
        (".venv-torch", "support.torch_models", [name for name in names if name not in of_tensorflow]),
    ):
        python = ROOT / environment / "bin" / "python"
        if chosen and not python.exists():
            raise MissingEnvironmentError(
                f"{', '.join(chosen)}: saving them needs {environment} (make setup-torch setup-tf)"
            )
        if chosen:
            paths = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
            command = [python, "-m", module, folder, *chosen]
            done = subprocess.run(command, env=paths, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
