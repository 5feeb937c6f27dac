"""The families of `hf` against outputs of the models' own public code, kept next to the repository where available."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import soundfile

from voxshard.encoders.base import Encoder
from voxshard.encoders.registry import create
from voxshard.testing import EncoderConformance, encode_together

REFERENCE = Path(__file__).parents[2] / "../shared/reference_more"
pytestmark = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference vectors at {REFERENCE}")
SELF_SUPERVISED = ["unispeech", "unispeech-sat", "wav2vec2-conformer-rope", "wav2vec2-conformer-rel-pos"]
WINDOWS = ["ast", "clap", "clap-fused", "clap-audio-projection"]
CODECS = ["mimi", "encodec", "dac"]


def loaded(model: str, **settings: Any) -> Encoder:
    encoder = create("hf", {"weights": str(REFERENCE / "hf" / model), **settings})
    encoder.load("cpu")
    return encoder


@pytest.fixture(scope="module")
def recordings() -> dict[str, np.ndarray]:
    paths = [*(REFERENCE / "../reference/wav").glob("*.wav"), REFERENCE / "wav/long_40s.flac"]
    return {path.stem: soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1) for path in sorted(paths)}


def compare(
    encoder: Encoder, recordings: dict[str, np.ndarray], reference: str, key: str, field: str, label: str
) -> None:
    """Alone and all in one mixed batch; prints the largest deviation of each."""
    expected = np.load(REFERENCE / reference)
    rate = encoder.info.sample_rate
    found_in = {name: key.format(name) for name in recordings if key.format(name) in expected}
    assert len(found_in) >= 8
    waveforms = [recordings[name] for name in found_in]
    if rate != 16000:
        waveforms = [librosa.resample(wave, orig_sr=16000, target_sr=rate, res_type="soxr_hq") for wave in waveforms]
    together = encode_together(encoder, waveforms)
    alone = [encode_together(encoder, [wave])[0] for wave in waveforms]
    for how, outputs in (("alone", alone), ("in one batch", together)):
        worst = 0.0
        for wanted, output in zip(found_in.values(), outputs, strict=True):
            want = expected[wanted]
            assert output[field].shape == want.shape, wanted
            if field == "codes":
                np.testing.assert_array_equal(output[field], want, err_msg=wanted)
            else:
                worst = max(worst, float(np.abs(output[field] - want).max()))
        print(f"{label} {how}: {len(outputs)} recordings, largest deviation {worst:.2g}")
        assert worst <= 2e-4


@pytest.mark.parametrize("model", SELF_SUPERVISED)
@pytest.mark.parametrize("pooling", ["mean", "max", "none"])
def test_self_supervised_models(model: str, pooling: str, recordings: dict[str, np.ndarray]) -> None:
    layer: Any = "last" if pooling == "none" else [0, 1, "last"]
    key, field = ("frames/last", "frames") if pooling == "none" else (pooling, "embedding")
    encoder = loaded(model, layer=layer, pooling=pooling)
    assert encoder.info.batch_policy == "padded"
    compare(encoder, recordings, "ssl_more_ref.npz", f"{model}/{{}}/{key}", field, f"{model} {pooling}")


@pytest.mark.parametrize("pooling", ["mean", "max", "none"])
def test_whisper(pooling: str, recordings: dict[str, np.ndarray]) -> None:
    layer: Any = "last" if pooling == "none" else [0, 1, "last"]
    key, field = ("frames/last", "frames") if pooling == "none" else (pooling, "embedding")
    encoder = loaded("whisper", layer=layer, pooling=pooling)
    compare(encoder, recordings, "whisper_ref.npz", f"whisper/{{}}/{key}", field, f"whisper {pooling}")


@pytest.mark.parametrize("model", WINDOWS)
@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_models_of_fixed_windows(model: str, pooling: str, recordings: dict[str, np.ndarray]) -> None:
    key, field = ("windows", "frames") if pooling == "none" else ("mean", "embedding")
    reference = "ast_ref.npz" if model == "ast" else "clap_ref.npz"
    compare(loaded(model, pooling=pooling), recordings, reference, f"{model}/{{}}/{key}", field, f"{model} {pooling}")


@pytest.mark.parametrize("model", CODECS)
def test_codecs(model: str, recordings: dict[str, np.ndarray]) -> None:
    encoder = loaded(model)
    for field in ("frames", "codes"):
        compare(encoder, recordings, "codecs_ref.npz", f"{model}/{{}}/{field}", field, f"{model} {field}")


class TestConformance(EncoderConformance):
    @pytest.fixture(params=[*SELF_SUPERVISED, "whisper", *WINDOWS, *CODECS])
    def encoder(self, request: pytest.FixtureRequest) -> Encoder:
        return loaded(request.param, pooling="none")
