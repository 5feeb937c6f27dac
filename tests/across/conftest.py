"""Small models of both frameworks, saved by the environments they live in, and a small ASVspoof 5."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import asvspoof5 as asvspoof5_corpus
from support import small_weights

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = {name: ROOT / name / "bin" / "python" for name in (".venv", ".venv-torch", ".venv-tf")}


@pytest.fixture(scope="session", autouse=True)
def environments() -> None:
    missing = [name for name, python in ENVIRONMENTS.items() if not python.exists()]
    assert not missing, f"these tests need {', '.join(missing)}: make setup setup-torch setup-tf"


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with trillsson3 and hf/small/wav2vec2."""
    folder = tmp_path_factory.mktemp("weights")
    small_weights.write(folder, "trillsson3", "hf/small/wav2vec2")
    return folder


@pytest.fixture(scope="session")
def asvspoof5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of twelve recordings a split, in the published layout."""
    root = tmp_path_factory.mktemp("asvspoof5")
    asvspoof5_corpus.write(root, {"T": 12, "D": 12, "E": 12})
    return root
