"""`load_encoder` with PyTorch models gives the rows that an extraction stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

import voxshard
from conftest import MakeCorpus
from voxshard.extraction.encode import TOLERANCE_RMS

SECONDS = [0.6, 1.9, 0.9, 1.2]


@pytest.mark.parametrize("settings", [{"layer": 2, "pooling": "mean"}, {"layer": [0, 3], "chunk_seconds": 1.0}])
def test_hf_gives_the_extracted_rows_of_paths_and_of_waveforms(
    settings: dict[str, object], make_corpus: MakeCorpus, make_model: object, tmp_path: Path
) -> None:
    weights = make_model("wav2vec2-group")
    features = voxshard.extract(
        make_corpus(SECONDS), encoder="hf", out=tmp_path / "out", settings={"weights": str(weights), **settings},
        workers=1, device="cpu",
    )  # fmt: skip
    encoder = voxshard.load_encoder("hf", weights=weights, device="cpu", **settings)
    paths = [tmp_path / "corpus" / f"{name}.wav" for name in features.ids]
    for path, name, found in zip(paths, features.ids, encoder.embed(paths), strict=True):
        expected = features[name]
        atol = TOLERANCE_RMS["float32"] * float(np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
        samples, rate = soundfile.read(path, dtype="float32")
        np.testing.assert_allclose(encoder.embed(samples, sample_rate=rate), expected, rtol=0, atol=atol)
