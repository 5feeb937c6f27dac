"""Small models with random weights in the layouts users download, made on the spot."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("torch") is None and os.environ.get("REQUIRE_FRAMEWORK") != "torch":
    collect_ignore_glob = ["test_*.py"]
else:
    import torch

    from support import torch_models

    torch.set_num_threads(1)

MakeModel = Callable[..., Path]


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """`make_model(kind, **overrides)` saves a model of `MODELS`, once, and gives its folder."""
    made: dict[str, Path] = {}

    def make(kind: str, **settings: Any) -> Path:
        key = f"{kind}-{sorted(settings.items())}"
        if key not in made:
            folder = tmp_path_factory.mktemp(kind)
            torch_models.save_hf(folder, kind, **settings)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(scope="session")
def make_metis(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make_metis(**sizes)` gives a folder in the layout of metis8d."""

    def make(**sizes: int) -> Path:
        folder = tmp_path_factory.mktemp("metis")
        torch_models.save_metis(folder, make_model("w2v-bert"), **sizes)
        return folder

    return make


@pytest.fixture(scope="session")
def make_ecapa(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make_ecapa(**sizes)` saves an ECAPA-TDNN as SpeechBrain does and gives its folder."""

    def make(**sizes: Any) -> Path:
        folder = tmp_path_factory.mktemp("ecapa")
        torch_models.save_ecapa(folder, **sizes)
        return folder

    return make


@pytest.fixture
def clips() -> list[np.ndarray]:
    """Noisy tones at 16 kHz, of different lengths and levels, two of them almost of one length."""
    rng = np.random.default_rng(11)
    lengths = (7000, 16000, 31999, 32160, 40321)
    return [
        (0.3**number * (np.sin(np.arange(n) * 0.02 * (number + 1)) + rng.standard_normal(n) * 0.2)).astype(np.float32)
        for number, n in enumerate(lengths)
    ]
