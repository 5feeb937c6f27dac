"""Small models with fixed weights give the numbers that the models' own public code gave for them.

`python tests/with_torch/test_small_references.py` writes the numbers again, with transformers and SpeechBrain alone.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import torch_models
from voxshard.encoders.registry import create
from voxshard.testing import encode_together

EXPECTED = Path(__file__).parent / "data" / "small_references.npz"
KINDS = ("wav2vec2-group", "hubert-batch-norm", "wavlm-layer", "w2v-bert")
SECONDS = (0.43, 1.0, 1.51)


def waveforms() -> list[np.ndarray]:
    """Tones with noise from integers, so that every platform has the same ones."""
    made = []
    for number, seconds in enumerate(SECONDS):
        time = np.arange(int(16000 * seconds), dtype=np.int64)
        noise = (time * time * 7919 + number * 104729) % 1009 / 1009 - 0.5
        made.append((0.3 * np.sin(time * (0.02 + 0.01 * number)) + 0.2 * noise).astype(np.float32))
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_of_a_self_supervised_model(kind: str, tmp_path: Path) -> None:
    torch_models.save_hf(tmp_path, kind)
    encoder = create("hf", {"weights": str(tmp_path), "layer": [0, 1, 2, "last"], "pooling": "mean"})
    encoder.load("cpu")
    check(kind, [output["embedding"] for output in encode_together(encoder, waveforms())])


def test_ecapa(tmp_path: Path) -> None:
    torch_models.save_ecapa(tmp_path)
    encoder = create("ecapa", {"weights": str(tmp_path)})
    encoder.load("cpu")
    check("ecapa", [output["embedding"] for output in encode_together(encoder, waveforms())])


def check(name: str, found: list[np.ndarray]) -> None:
    with np.load(EXPECTED, allow_pickle=False) as arrays:
        for number, row in enumerate(found):
            want = arrays[f"{name}/{number}"]
            np.testing.assert_allclose(row, want, rtol=0, atol=1e-4 * np.abs(want).max(), err_msg=f"{name}/{number}")


def write() -> None:
    """Compute the numbers file by file."""
    import torch
    import transformers
    from speechbrain.lobes.features import Fbank
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    from speechbrain.processing.features import InputNormalization

    arrays: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for kind in KINDS:
            torch_models.save_hf(Path(folder) / kind, kind)
            extractor = transformers.AutoFeatureExtractor.from_pretrained(Path(folder) / kind)
            model = transformers.AutoModel.from_pretrained(Path(folder) / kind, attn_implementation="eager").eval()
            for number, waveform in enumerate(waveforms()):
                inputs = extractor(waveform, sampling_rate=16000, return_tensors="pt")
                output = model(**inputs, output_hidden_states=True)
                layers = torch.stack([*output.hidden_states[:3], output.last_hidden_state])[:, 0]
                # Filter banks are stacked in pairs; a last pair that is half padding is no frame.
                is_valid = inputs["attention_mask"][0].bool() if kind == "w2v-bert" else slice(None)
                arrays[f"{kind}/{number}"] = layers[:, is_valid].mean(1).numpy()
        torch_models.save_ecapa(Path(folder) / "ecapa")
        sizes = {"input_size": 40, "channels": [32, 32, 32, 32, 48], "attention_channels": 16, "se_channels": 8}
        network = ECAPA_TDNN(**sizes, lin_neurons=24, res2net_scale=4).eval()
        network.load_state_dict(torch.load(Path(folder) / "ecapa" / "embedding_model.ckpt", weights_only=True))
        for number, waveform in enumerate(waveforms()):
            length = torch.ones(1)
            features = Fbank(n_mels=40)(torch.from_numpy(waveform)[None])
            normalized = InputNormalization(norm_type="sentence", std_norm=False)(features, length)
            arrays[f"ecapa/{number}"] = network(normalized, length)[0, 0].numpy()
    EXPECTED.parent.mkdir(exist_ok=True)
    np.savez_compressed(EXPECTED, **arrays)


if __name__ == "__main__":
    write()
