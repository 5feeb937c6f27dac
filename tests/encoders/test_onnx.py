"""onnx: models in WeSpeaker's layout and on waveforms, exact in any batch, and what is wrong with a folder."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from support.onnx_models import save_speaker_model, save_waveform_model
from voxshard.encoders.base import Encoder
from voxshard.encoders.filterbanks import KaldiFbank
from voxshard.encoders.registry import create
from voxshard.errors import (
    BackendUnavailableError,
    ConfigError,
    CorruptFileError,
    DeviceFaultError,
    DeviceMemoryError,
    DeviceUnavailableError,
    MissingWeightsError,
    VoxshardError,
)
from voxshard.testing import EncoderConformance, encode_together
from voxshard.weights.catalogue import known_sets

REFERENCE = Path(__file__).parents[2] / "../shared/reference_more"


def loaded(folder: Path) -> Encoder:
    encoder = create("onnx", {"weights": str(folder)})
    encoder.load("cpu")
    return encoder


@pytest.fixture(scope="module")
def recordings() -> dict[str, np.ndarray]:
    paths = [*(REFERENCE / "../reference/wav").glob("*.wav"), REFERENCE / "wav/long_40s.flac"]
    return {path.stem: soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1) for path in paths}


@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference vectors at {REFERENCE}")
class TestReference:
    @pytest.mark.parametrize("model", ["wave", "feats80"])
    def test_models_give_what_onnxruntime_gives_alone_and_in_one_batch(
        self, model: str, recordings: dict[str, np.ndarray]
    ) -> None:
        expected = np.load(REFERENCE / "onnx_ref.npz")
        encoder = loaded(REFERENCE / "onnx" / model)
        waves = list(recordings.values())
        alone = [encode_together(encoder, [wave])[0] for wave in waves]
        for how, outputs in (("alone", alone), ("in one batch", encode_together(encoder, waves))):
            worst = max(
                float(np.abs(output["embedding"] - expected[f"{model}/{name}"]).max())
                for name, output in zip(recordings, outputs, strict=True)
            )
            print(f"onnx {model} {how}: {len(outputs)} recordings, largest deviation {worst:.2g}")
            assert worst <= 2e-4

    def test_the_filter_bank_is_kaldis(self, recordings: dict[str, np.ndarray]) -> None:
        expected = np.load(REFERENCE / "fbank_ref.npz")
        names = [key.removesuffix("/fbank") for key in expected if key.endswith("/fbank")]
        for name in names:
            wave = recordings[name] - recordings[name].mean(dtype=np.float32)
            found = KaldiFbank(128, window="hanning")(wave)
            np.testing.assert_allclose(found, expected[f"{name}/fbank"], rtol=0, atol=2e-4)
        assert len(names) == 3


class TestConformance(EncoderConformance):
    @pytest.fixture(params=["utterance", "frames", "waveform"])
    def encoder(self, request: pytest.FixtureRequest, tmp_path: Path) -> Encoder:
        if request.param == "waveform":
            return loaded(save_waveform_model(tmp_path))
        output = "embs" if request.param == "utterance" else "frames"
        return loaded(save_speaker_model(tmp_path, granularity=request.param, output=output))


def test_equal_lengths_share_a_batch_unless_the_export_fixed_its_size(tmp_path: Path) -> None:
    assert create("onnx", {"weights": str(save_speaker_model(tmp_path / "a"))}).info.batch_policy == "equal_length"
    fixed = create("onnx", {"weights": str(save_speaker_model(tmp_path / "b", batch=1))})
    assert fixed.info.batch_policy == "single"


def test_the_shortest_clip_is_found_by_running_the_model(tmp_path: Path) -> None:
    folder = save_waveform_model(tmp_path, kernel=1234)
    assert create("onnx", {"weights": str(folder)}).info.min_samples == 1234
    assert create("onnx", {"weights": str(save_speaker_model(tmp_path / "fbank"))}).info.min_samples == 400


def test_frames_have_the_rate_of_the_model(tmp_path: Path) -> None:
    info = create("onnx", {"weights": str(save_speaker_model(tmp_path, granularity="frames", output="frames"))}).info
    assert (info.granularity, info.frame_rate_hz, info.dim) == ("frames", 100.0, 12)


def test_mean_normalised_bands_have_no_mean_and_ignore_the_level(tmp_path: Path) -> None:
    bank = KaldiFbank(80, window="hamming", scale=32768.0, mean_norm=True)
    wave = np.random.default_rng(0).standard_normal(16000).astype(np.float32) * 0.1
    assert abs(bank(wave).mean(axis=0)).max() < 1e-5
    np.testing.assert_allclose(bank(wave), bank(wave / 8), atol=1e-4)


class TestWhatIsWrongIsReported:
    def check(self, folder: Path, message: str, error: type[VoxshardError] = ConfigError) -> None:
        with pytest.raises(error, match=message):
            create("onnx", {"weights": str(folder)})

    def test_a_folder_without_a_description(self, tmp_path: Path) -> None:
        (save_speaker_model(tmp_path) / "encoder.json").unlink()
        self.check(tmp_path, r"no encoder\.json in this folder", MissingWeightsError)

    def test_all_fields_at_once(self, tmp_path: Path) -> None:
        save_speaker_model(tmp_path)
        (tmp_path / "encoder.json").write_text(json.dumps({"input": "mel", "sample_rate": 16000, "windw": "povey"}))
        with pytest.raises(ConfigError) as caught:
            create("onnx", {"weights": str(tmp_path)})
        for part in ("3 problems", "input", "output", "windw"):
            assert part in str(caught.value)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"num_mel_bins": None}, r"encoder\.json: input is fbank, so num_mel_bins is needed"),
            ({"output": "emb"}, r"encoder\.json: output 'emb'; model\.onnx has embs, frames"),
            ({"granularity": "frames"}, r"granularity frames, but output 'embs' has shape \(1, 12\) for one utterance"),
            ({"num_mel_bins": 40}, r"model\.onnx does not run on what encoder\.json describes, float32 \(1, 98, 40\)"),
        ],
    )
    def test_a_field_that_does_not_fit_the_model(self, fields: dict[str, Any], message: str, tmp_path: Path) -> None:
        self.check(save_speaker_model(tmp_path, **fields), message)

    def test_a_model_for_a_newer_onnxruntime(self, tmp_path: Path) -> None:
        path = save_speaker_model(tmp_path) / "model.onnx"
        content = path.read_bytes()
        assert content[0] == 8, "the first field is ir_version"
        path.write_bytes(b"\x08\x63" + content[2:])
        self.check(tmp_path, r"made for a newer onnxruntime than .*IR version", BackendUnavailableError)

    def test_a_damaged_model(self, tmp_path: Path) -> None:
        save_speaker_model(tmp_path)
        (tmp_path / "model.onnx").write_bytes(b"<html>")
        self.check(tmp_path, r"model\.onnx: onnxruntime .* cannot open it", CorruptFileError)

    def test_a_gpu_this_onnxruntime_has_no_support_for(self, tmp_path: Path) -> None:
        encoder = create("onnx", {"weights": str(save_speaker_model(tmp_path))})
        if encoder.info.needs_gpu:
            pytest.skip("onnxruntime-gpu is installed")
        assert encoder.choose_device("auto")[0] == "cpu"
        with pytest.raises(DeviceUnavailableError, match=r"--device cuda: this onnxruntime .* has no CUDA"):
            encoder.choose_device("cuda")

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", DeviceFaultError),
            ("CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED ; GPU=0", DeviceFaultError),
            ("CUDA failure 2: out of memory ; GPU=0", DeviceMemoryError),
            ("Failed to allocate memory for requested buffer of size 4096", DeviceMemoryError),
        ],
    )
    def test_a_gpu_that_fails_or_is_full(self, tmp_path: Path, text: str, error: type[Exception]) -> None:
        encoder: Any = create("onnx", {"weights": str(save_speaker_model(tmp_path))})

        class Session:
            def run(self, *_: object) -> None:
                raise RuntimeError(text)

        encoder._session = Session()
        with pytest.raises(error, match=re.escape(text)):
            encoder.encode(np.zeros((1, 50, 80), np.float32), np.array([50]))

    def test_a_gpu_that_the_job_was_given_and_that_is_not_seen(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encoder: Any = create("onnx", {"weights": str(save_speaker_model(tmp_path))})
        encoder.info = replace(encoder.info, needs_gpu=True)
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setenv("SLURM_JOB_GPUS", "0")
        with pytest.raises(
            DeviceUnavailableError, match=r"given a GPU \(SLURM_JOB_GPUS=0\) .* onnxruntime sees no GPU"
        ):
            encoder.choose_device("auto")


def test_wespeakers_published_models_are_known_with_their_licence() -> None:
    sets = {name: item for name, item in known_sets().items() if name.startswith("onnx/")}
    assert len(sets) == 11
    assert sets["onnx/voxceleb_resnet34_LM"].licence.startswith("CC-BY-4.0")
    for item in sets.values():
        (text,) = item.texts
        assert text[0] == "encoder.json"
        assert re.fullmatch(r"https://\S+/(voxceleb|cnceleb)/\S+\.onnx", item.sources[0].url)
        assert json.loads(text[1])["num_mel_bins"] == 80
