"""The encoders against outputs of the models' own public code, kept next to the repository where they are at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from voxshard.encoders.base import Encoder
from voxshard.encoders.registry import create
from voxshard.testing import encode_together

REFERENCE = Path(__file__).parents[2] / "../shared/reference"
pytestmark = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference vectors at {REFERENCE}")
MODELS = sorted(path.name for path in (REFERENCE / "ssl").glob("*"))


@pytest.fixture(scope="module")
def wavs() -> dict[str, np.ndarray]:
    paths = sorted((REFERENCE / "wav").glob("*.wav"))
    return {path.stem: soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1) for path in paths}


def loaded(name: str, **settings: Any) -> Encoder:
    encoder = create(name, settings)
    encoder.load("cpu")
    return encoder


def alone_and_together(encoder: Encoder, wavs: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    together = dict(zip(wavs, encode_together(encoder, list(wavs.values())), strict=True))
    alone = {name: encode_together(encoder, [wav])[0] for name, wav in wavs.items()}
    return [together, alone]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("pooling", ["mean", "sum", "max", "none"])
def test_self_supervised_models(model: str, pooling: str, wavs: dict[str, np.ndarray]) -> None:
    expected = np.load(REFERENCE / "ssl_ref.npz")
    encoder = loaded("hf", weights=str(REFERENCE / "ssl" / model), layer=[0, 1, 2, 3, "last"], pooling=pooling)
    count = 0
    for outputs in alone_and_together(encoder, wavs):
        for name, output in outputs.items():
            for layer in range(5):
                key = f"{model}/{name}/frames/{layer}" if pooling == "none" else f"{model}/{name}/{pooling}"
                if key not in expected:
                    continue
                want = expected[key] if pooling == "none" else expected[key][layer]
                found = output["frames"][:, layer] if pooling == "none" else output["embedding"][layer]
                np.testing.assert_allclose(found, want, rtol=0, atol=1e-4 * np.abs(want).max(), err_msg=key)
                count += 1
    assert count >= 10


def test_metis8d(wavs: dict[str, np.ndarray]) -> None:
    expected = np.load(REFERENCE / "metis_tiny_ref.npz")
    for outputs in alone_and_together(loaded("metis8d", weights=str(REFERENCE / "metis_tiny"), codes=True), wavs):
        compared = [name for name in outputs if f"{name}.latents" in expected]
        for name in compared:
            np.testing.assert_allclose(outputs[name]["frames"], expected[f"{name}.latents"], rtol=0, atol=1e-4)
            np.testing.assert_array_equal(outputs[name]["codes"], expected[f"{name}.codes"])
        assert len(compared) >= 7


def test_ecapa(wavs: dict[str, np.ndarray]) -> None:
    expected = np.load(REFERENCE / "ecapa_ref.npz")
    for outputs in alone_and_together(loaded("ecapa", weights=str(REFERENCE / "spkrec-ecapa-fake")), wavs):
        compared = [name for name in outputs if name in expected]
        for name in compared:
            want = expected[name]
            np.testing.assert_allclose(outputs[name]["embedding"], want, rtol=0, atol=1e-4 * np.abs(want).max())
        assert len(compared) >= 7
