"""ecapa against SpeechBrain's own feature extraction and network, one file at a time."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from speechbrain.processing.features import InputNormalization

from voxshard.encoders._torch.ecapa import ReflectAtEnd
from voxshard.encoders.base import Encoder
from voxshard.encoders.registry import create
from voxshard.errors import CorruptFileError, MissingWeightsError
from voxshard.testing import EncoderConformance, encode_together

MakeFolder = Callable[..., Path]
SIZES = [
    {},
    {
        "input_size": 80,
        "channels": [24, 24, 24, 40],
        "kernel_sizes": [5, 3, 5, 1],
        "dilations": [1, 2, 3, 1],
        "groups": [1, 1, 1, 1],
        "res2net_scale": 2,
        "global_context": False,
    },
]


def loaded(folder: Path) -> Encoder:
    encoder = create("ecapa", {"weights": str(folder)})
    encoder.load("cpu")
    return encoder


class TestConformance(EncoderConformance):
    @pytest.fixture
    def encoder(self, make_ecapa: MakeFolder) -> Encoder:
        return loaded(make_ecapa())


def stock_features(clip: np.ndarray, num_mels: int) -> torch.Tensor:
    normalise = InputNormalization(norm_type="sentence", std_norm=False)
    return normalise(Fbank(n_mels=num_mels)(torch.from_numpy(clip)[None]), torch.ones(1))


@pytest.mark.parametrize("sizes", SIZES)
def test_embeddings_in_a_padded_batch_are_speechbrains_file_by_file(
    sizes: dict[str, Any], make_ecapa: MakeFolder, clips: list[np.ndarray]
) -> None:
    folder = make_ecapa(**sizes)
    encoder: Any = loaded(folder)
    network = ECAPA_TDNN(**encoder.sizes)
    network.load_state_dict(torch.load(folder / "embedding_model.ckpt", weights_only=True))
    network.eval()
    assert {key: encoder.sizes[key] for key in sizes if key != "groups"} == {
        k: v for k, v in sizes.items() if k != "groups"
    }
    for clip, output in zip(clips, encode_together(encoder, clips), strict=True):
        with torch.inference_mode():
            expected = network(stock_features(clip, encoder.sizes["input_size"]), torch.ones(1))[0, 0].numpy()
        np.testing.assert_allclose(output["embedding"], expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("difference", range(6))
def test_utterances_that_end_next_to_the_end_of_the_batch_are_exact(difference: int, make_ecapa: MakeFolder) -> None:
    encoder = loaded(make_ecapa())
    rng = np.random.default_rng(difference)
    clips = [rng.standard_normal(160 * (60 - n)).astype(np.float32) for n in (0, difference)]
    together = encode_together(encoder, clips)[1]["embedding"]
    alone = encode_together(encoder, clips[1:])[0]["embedding"]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5 * np.abs(alone).max())


def test_without_the_reflection_the_batch_would_show(
    make_ecapa: MakeFolder, clips: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ReflectAtEnd, "_filler", lambda self, reach: lambda module, inputs: inputs)
    encoder = loaded(make_ecapa())
    short = clips[0][:1600]
    together = encode_together(encoder, [short, *clips])[0]["embedding"]
    alone = encode_together(encoder, [short])[0]["embedding"]
    assert np.abs(together - alone).max() > 1e-3 * np.abs(alone).max()


@pytest.mark.parametrize("num_samples", [640, 16000, 31999])
def test_features_equal_speechbrains(num_samples: int, make_ecapa: MakeFolder) -> None:
    clip = np.random.default_rng(1).standard_normal(num_samples).astype(np.float32)
    found = create("ecapa", {"weights": str(make_ecapa())}).prepare(clip)
    np.testing.assert_allclose(found, stock_features(clip, 40)[0].numpy(), rtol=0, atol=5e-3)  # dB


def test_the_shortest_clip_is_the_shortest_speechbrain_takes(make_ecapa: MakeFolder) -> None:
    encoder = loaded(make_ecapa())
    assert encoder.info.min_samples == 640
    shortest = np.random.default_rng(2).standard_normal(640).astype(np.float32)
    assert np.isfinite(encode_together(encoder, [shortest])[0]["embedding"]).all()


def test_yaml_beside_the_checkpoint_is_not_executed(
    make_ecapa: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_ecapa()
    before = sorted(folder.iterdir())
    loaded(folder)
    assert list(tmp_path.iterdir()) == []
    assert sorted(folder.iterdir()) == before, "no symlinks, no copies"


class TestWhatIsWrongIsSaid:
    def test_no_checkpoint(self, tmp_path: Path) -> None:
        message = f"{tmp_path}: no embedding_model.ckpt in this folder; ecapa expects embedding_model.ckpt; "
        with pytest.raises(MissingWeightsError, match=f"^{re.escape(message)}"):
            create("ecapa", {"weights": str(tmp_path)})

    def test_another_models_checkpoint(self, tmp_path: Path) -> None:
        torch.save({"weight": torch.zeros(3)}, tmp_path / "embedding_model.ckpt")
        with pytest.raises(CorruptFileError, match=r"embedding_model\.ckpt: not an ECAPA-TDNN checkpoint"):
            create("ecapa", {"weights": str(tmp_path)})

    def test_a_pickle_that_would_run_code(self, tmp_path: Path) -> None:
        import subprocess

        class Attack:
            def __reduce__(self) -> Any:
                return subprocess.run, (["touch", str(tmp_path / "executed")],)

        torch.save({"blocks.0": Attack()}, tmp_path / "embedding_model.ckpt")
        with pytest.raises(
            CorruptFileError,
            match=r"embedding_model\.ckpt: refused: its checkpoint is a pickle",
        ):
            create("ecapa", {"weights": str(tmp_path)})
        assert not (tmp_path / "executed").exists()
