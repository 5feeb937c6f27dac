"""The `checkpoint` encoder and the wav2vec2 family: embeddings equal a forward by hand, alone and in any batch."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from support.network_trials import ECAPA, SPECTROGRAM, network_config, tone_corpus
from support.vggish_reference import random_weights
from voxshard.testing import EncoderConformance, encode_together

torch = pytest.importorskip("torch")

import voxshard  # noqa: E402
from voxshard.config import dump_yaml, parse_yaml  # noqa: E402
from voxshard.encoders import registry  # noqa: E402
from voxshard.encoders._torch.vggish import build_network  # noqa: E402
from voxshard.encoders.base import Encoder  # noqa: E402
from voxshard.encoders.vggish_weights import read_safetensors  # noqa: E402
from voxshard.errors import BackendUnavailableError, ConfigError, CorruptFileError  # noqa: E402
from voxshard.networks.backbones import build_backbone  # noqa: E402
from voxshard.networks.network import Network  # noqa: E402
from voxshard.networks.network_files import Checkpoint, write_checkpoint  # noqa: E402
from voxshard.networks.settings import LabelGroup, NetworkSpec, settings_of  # noqa: E402
from voxshard.stages import extract, train  # noqa: E402
from voxshard.stages.base import Task  # noqa: E402
from voxshard.stages.extract import ExtractConfig  # noqa: E402
from voxshard.stages.merge import MergeConfig  # noqa: E402
from voxshard.stages.merge import run as merge  # noqa: E402

MakeModel = Callable[..., Path]
GROUPS = (LabelGroup(labels=("a", "b", "c"), column="x"), LabelGroup(labels=("d", "e")))
TARGET = {"kind": "multilabel", "labels": ["x", "d", "e"], "classes": ["a", "b", "c", "d", "e"], "positive": None}
HEADS = {"hidden": 10, "layer_norm": True, "dropout": 0.1}


def saved(folder: Path, family: str, settings: dict[str, Any]) -> Path:
    """A network with random weights, as `train` leaves it; two heads."""
    torch.manual_seed(5)
    spec = NetworkSpec(family=family, settings=settings, groups=GROUPS, loss="bce")
    network = Network(spec, None)
    with torch.no_grad():
        for name, buffer in network.named_buffers():  # statistics that are not those of a new network
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
        if hasattr(network.backbone, "layer_weights"):
            network.backbone.layer_weights.copy_(torch.linspace(-1, 1, len(network.backbone.layer_weights)))
    write_checkpoint(folder, network.eval(), target=TARGET, clip={})
    return folder


def speech(make_model: MakeModel, kind: str = "wav2vec2-group", **settings: Any) -> dict[str, Any]:
    return {"weights": str(make_model(kind)), "heads": HEADS, "shared_dim": 14, "weighted": True, **settings}


def encoder_of(folder: Path, **settings: Any) -> Encoder:
    encoder = registry.create("checkpoint", {"weights": str(folder), **settings})
    encoder.load("cpu")
    return encoder


@pytest.fixture(params=["pt", "wt", "st", "ft"])
def embedding(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestWav2Vec2(EncoderConformance):
    @pytest.fixture
    def encoder(self, make_model: MakeModel, tmp_path: Path, embedding: str) -> Encoder:
        return encoder_of(saved(tmp_path, "wav2vec2", speech(make_model)), embedding=embedding)


class TestW2vBert(EncoderConformance):
    @pytest.fixture
    def encoder(self, make_model: MakeModel, tmp_path: Path) -> Encoder:
        return encoder_of(saved(tmp_path, "wav2vec2", speech(make_model, "w2v-bert")), embedding="wt")


class TestWavLm(EncoderConformance):
    @pytest.fixture
    def encoder(self, make_model: MakeModel, tmp_path: Path) -> Encoder:
        return encoder_of(saved(tmp_path, "wav2vec2", speech(make_model, "wavlm-layer", layer=1)), embedding="pt")


class TestEcapa(EncoderConformance):
    @pytest.fixture
    def encoder(self, tmp_path: Path) -> Encoder:
        return encoder_of(saved(tmp_path, "ecapa", {**ECAPA, "heads": HEADS}), embedding="ft", heads="sum")


class TestEcapaOnFilterBanks(EncoderConformance):
    @pytest.fixture
    def encoder(self, tmp_path: Path) -> Encoder:
        settings = {"features": "fbank", "width": 16, "embedding_size": 12, "attention_channels": 8}
        return encoder_of(saved(tmp_path, "ecapa", settings))


class TestSpectrogram(EncoderConformance):
    @pytest.fixture(params=["vgg", "timbre"])
    def encoder(self, request: pytest.FixtureRequest, tmp_path: Path) -> Encoder:
        return encoder_of(saved(tmp_path, request.param, {**SPECTROGRAM, "learned_log": True}), embedding="ft")


@pytest.fixture(scope="module")
def vggish(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vggish")
    save_file(random_weights(2), folder / "vggish.safetensors")
    return folder


class TestVggish(EncoderConformance):
    seconds = (1.0, 1.3, 2.1, 3.9)

    @pytest.fixture
    def encoder(self, vggish: Path, tmp_path: Path) -> Encoder:
        return encoder_of(saved(tmp_path, "vggish", {"weights": str(vggish), "shared_dim": 9}), embedding="st")


@pytest.mark.parametrize("fine_tune", [True, False])
def test_vggish_starts_from_its_weights_and_learns_if_it_may(vggish: Path, tmp_path: Path, fine_tune: bool) -> None:
    config = network_config(
        tone_corpus(tmp_path / "tones"), tmp_path / "run", network="vggish",
        settings={"weights": str(vggish), "fine_tune": fine_tune, "heads": {"dropout": 0.0}},
        clip={"max_seconds": 1.0, "pad": "repeat"}, training={"epochs": 3, "batch_size": 5, "lr": 0.001},
    )  # fmt: skip
    run = train.run(config, Task())
    assert run is not None
    losses = run.tables()["training"]["train_loss"].to_pylist()
    assert losses[-1] < losses[0]
    before, after = build_network(read_safetensors(vggish / "vggish.safetensors")), Checkpoint.read(run.path).load()
    same = [torch.equal(a, b) for a, b in zip(before.parameters(), after.backbone.network.parameters(), strict=True)]
    assert all(same) != fine_tune


def test_a_frozen_model_is_compared_by_prototypes_only_over_a_layer_that_learns(vggish: Path, tmp_path: Path) -> None:
    changes = {
        "network": "vggish", "clip": {"max_seconds": 1.0, "pad": "repeat"},
        "episodes": {"support": 1, "query": 1, "per_epoch": 2}, "training": {"epochs": 1},
    }  # fmt: skip
    manifest, settings = tone_corpus(tmp_path / "tones"), {"weights": str(vggish), "fine_tune": False}
    with pytest.raises(ConfigError, match=r"^nothing is left to be trained: a prototypical network has no heads;"):
        train.run(network_config(manifest, tmp_path / "run", settings=settings, **changes), Task())
    run = train.run(
        network_config(manifest, tmp_path / "run", settings={**settings, "shared_dim": 4}, **changes), Task()
    )
    assert run is not None
    assert Checkpoint.read(run.path).about.network.prototypes


@pytest.mark.parametrize(("heads", "st", "weighting"), [("mean", "relu", "softmax"), ("sum", "linear", "raw")])
def test_embeddings_are_those_of_a_forward_by_hand(
    make_model: MakeModel, tmp_path: Path, clips: list[np.ndarray], embedding: str, heads: str, st: str, weighting: str
) -> None:
    folder = saved(tmp_path, "wav2vec2", speech(make_model, layer_weighting=weighting))
    network = Checkpoint.read(folder).load()
    model = network.backbone.model
    found = encode_together(encoder_of(folder, embedding=embedding, heads=heads, st=st), clips)
    for clip, output in zip(clips, found, strict=True):
        normalized = torch.from_numpy((clip - clip.mean()) / np.sqrt(clip.var() + 1e-7))[None]
        with torch.no_grad():
            hidden = model(normalized, output_hidden_states=True).hidden_states
            shares = network.backbone.layer_weights
            shares = torch.softmax(shares, 0) if weighting == "softmax" else shares
            weighted = torch.stack([share * layer for share, layer in zip(shares, hidden, strict=True)]).sum(0).mean(1)
            shared = network.shared(weighted)
            dense = torch.stack([head.dense(torch.relu(shared)) for head in network.heads.heads])
            expected = {
                "pt": hidden[-1].mean(1),
                "wt": weighted,
                "st": torch.relu(shared) if st == "relu" else shared,
                "ft": dense.mean(0) if heads == "mean" else dense.sum(0),
            }[embedding]
        np.testing.assert_allclose(output["embedding"], expected[0].numpy(), atol=2e-5)


@pytest.mark.parametrize(
    ("embedding", "message"),
    [
        ("wt", "embedding=wt: this network was not trained with weighted=true, it has no weighting of layers; choose"),
        ("st", "embedding=st: this network was trained without shared_dim, it has no shared layer; choose pt or ft"),
    ],
)
def test_an_embedding_the_network_does_not_have_is_an_error(tmp_path: Path, embedding: str, message: str) -> None:
    folder = saved(tmp_path, "ecapa", ECAPA)
    with pytest.raises(ConfigError, match="^" + re.escape(message)):
        registry.create("checkpoint", {"weights": str(folder), "embedding": embedding})


@pytest.mark.parametrize(
    ("software", "message"),
    [
        ({"torch": "1.13.1"}, "made with torch 1.13.1, installed here is "),
        ({"speechbrain": "0.5.16"}, r"made with speechbrain 0.5.16, installed here is .* \(pip install speechbrain==0"),
    ],
)
def test_a_network_of_another_major_version_is_refused_before_its_weights_are_read(
    tmp_path: Path, software: dict[str, str], message: str
) -> None:
    folder = saved(tmp_path, "ecapa", ECAPA)
    described_with(folder, software)
    (folder / "model.safetensors").unlink()
    with pytest.raises(BackendUnavailableError, match=message) as caught:
        Checkpoint.read(folder).load()
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_name_the_versions_that_differ(tmp_path: Path) -> None:
    folder = saved(tmp_path, "ecapa", ECAPA)
    tensors = load_file(folder / "model.safetensors")
    tensors.popitem()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CorruptFileError, match="does not hold the weights"):
        Checkpoint.read(folder).load()
    release = version("speechbrain").partition(".")[0]
    described_with(folder, {"speechbrain": f"{release}.9999", "transformers": "1.0.0"})
    with pytest.raises(BackendUnavailableError, match=rf"it was made with speechbrain {release}.9999 \(here .*\);"):
        Checkpoint.read(folder).load()


def described_with(folder: Path, software: dict[str, str]) -> None:
    """Record that a network was made with other versions."""
    path = folder / "network.yaml"
    content = parse_yaml(path.read_text(), where="")
    content["software"].update(software)
    path.write_text(dump_yaml(content))


def test_extraction_from_a_trained_run_equals_its_network_and_ends_in_a_feature_set(tmp_path: Path) -> None:
    manifest = tone_corpus(tmp_path / "tones")
    run = train.run(network_config(manifest, tmp_path / "run"), Task())
    assert run is not None
    settings = {"weights": str(run.path), "embedding": "ft"}
    config = ExtractConfig(
        manifest=manifest, encoder="checkpoint", settings=settings, out=tmp_path / "features", workers=1
    )
    extract.run(config, Task())
    merge(MergeConfig(features=config.out), Task())
    features = voxshard.open_features(config.out)
    assert features.embeddings.shape == (24, 10)
    encoder = encoder_of(run.path, embedding="ft")
    from voxshard import audio

    wave = audio.read(tmp_path / "tones/audio/low-3.wav", sample_rate=encoder.info.sample_rate)
    np.testing.assert_allclose(features["low-3.wav"], encode_together(encoder, [wave])[0]["embedding"], atol=1e-5)


@pytest.mark.parametrize(
    ("fine_tune", "weighted"), [("none", False), ("none", True), ("transformer", False), ("all", True), (1, False)]
)
def test_only_what_is_fine_tuned_changes(
    make_model: MakeModel, tmp_path: Path, fine_tune: str | int, weighted: bool
) -> None:
    manifest = tone_corpus(tmp_path / "tones")
    settings = {"weights": str(make_model("wav2vec2-group")), "fine_tune": fine_tune, "weighted": weighted}
    config = network_config(
        manifest, tmp_path / "run", network="wav2vec2", settings=settings,
        training={"epochs": 4, "batch_size": 5, "lr": 0.003, "weight_decay": 0.1},
    )  # fmt: skip
    run = train.run(config, Task())
    assert run is not None
    losses = run.tables()["training"]["train_loss"].to_pylist()
    assert losses[-1] < losses[0]
    spec = Checkpoint.read(run.path).about.network
    torch.manual_seed(config.seed)
    before, after = Network(spec, None).state_dict(), Checkpoint.read(run.path).load().state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("heads.") for name in changed)
    assert ("backbone.layer_weights" in changed) == weighted
    below = {name.removeprefix("backbone.model.") for name in changed if name.startswith("backbone.model.")}
    if fine_tune == "none":
        assert below == set()
    elif fine_tune == 1:
        assert below
        assert all(name.startswith("encoder.layers.2.") for name in below)
    elif fine_tune == "transformer":
        assert below
        assert not any(name.startswith("feature_extractor.") for name in below)
    else:
        assert any(name.startswith("feature_extractor.") for name in below)


def test_what_an_embedding_of_the_shared_layer_is_decides_its_fingerprint(
    make_model: MakeModel, tmp_path: Path
) -> None:
    folder = saved(tmp_path, "wav2vec2", speech(make_model))
    prints = {encoder_of(folder, embedding="st", st=st).info.fingerprint for st in ("relu", "linear")}
    assert len(prints) == 2
    assert len({encoder_of(folder, embedding="pt", st=st).info.provenance["encoder"] for st in ("relu", "linear")}) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": "fbank", "n_fft": 512}, "n_fft: no effect with features=fbank"),
        ({"features": "kaldi_fbank", "hop_length": 160}, "hop_length: no effect with features=kaldi_fbank"),
    ],
)
def test_a_key_that_has_no_effect_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_of("ecapa", settings)


def test_the_kaldi_filter_bank_of_ecapa_is_torchaudios(clips: list[np.ndarray]) -> None:
    import torchaudio

    backbone = build_backbone("ecapa", settings_of("ecapa", {"features": "kaldi_fbank", "width": 16}), None)
    waveform = clips[-1] + np.float32(0.05)
    expected = torchaudio.compliance.kaldi.fbank(
        torch.from_numpy(waveform - waveform.mean())[None], htk_compat=True, sample_frequency=16000, use_energy=False,
        window_type="hanning", num_mel_bins=128, dither=0.0, frame_shift=10,
    ).numpy()  # fmt: skip
    found = backbone.preparer(waveform)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-3)
