"""Small models of both frameworks, saved by the environments they live in, and a small ASVspoof 5."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support import asvspoof5 as asvspoof5_corpus

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
ENVIRONMENTS = {name: ROOT / name / "bin" / "python" for name in (".venv", ".venv-torch", ".venv-tf")}
_LOAD = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("small_models", sys.argv[1])
small_models = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small_models)
"""
SAVE_TRILLSSON = _LOAD + "import tensorflow as tf; tf.saved_model.save(small_models.small_trillsson(), sys.argv[2])"
SAVE_WAV2VEC2 = (
    _LOAD
    + """
import transformers
family, settings = small_models.MODELS["wav2vec2-layer"]
model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**settings))
small_models.spread_weights(model)
model.save_pretrained(sys.argv[2])
transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(sys.argv[2])
"""
)


@pytest.fixture(scope="session", autouse=True)
def environments() -> None:
    missing = [name for name, python in ENVIRONMENTS.items() if not python.exists()]
    assert not missing, f"these tests need {', '.join(missing)}: make setup setup-torch setup-tf"


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with trillsson3 and hf/small/wav2vec2."""
    folder = tmp_path_factory.mktemp("weights")
    for environment, models, code, target in (
        (".venv-tf", "with_tensorflow", SAVE_TRILLSSON, folder / "trillsson3"),
        (".venv-torch", "with_torch", SAVE_WAV2VEC2, folder / "hf" / "small" / "wav2vec2"),
    ):
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [ENVIRONMENTS[environment], "-c", code, TESTS / models / "conftest.py", target]
        subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def asvspoof5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of twelve recordings a split, in the published layout."""
    root = tmp_path_factory.mktemp("asvspoof5")
    asvspoof5_corpus.write(root, {"T": 12, "D": 12, "E": 12})
    return root
