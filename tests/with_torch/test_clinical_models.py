"""Models of the clinical speech programs score and embed as those programs do, written in their layout here."""

from __future__ import annotations

import argparse
import io
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")

import torchaudio  # noqa: E402
import transformers  # noqa: E402
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN  # noqa: E402
from torch import nn  # noqa: E402

import voxshard  # noqa: E402
from support.torch_models import spread_weights  # noqa: E402
from voxshard.cli import main  # noqa: E402
from voxshard.errors import ConfigError  # noqa: E402
from voxshard.manifest import Manifest  # noqa: E402

MakeModel = Callable[..., Path]
GROUPS = [["slow rate", "distortions"], ["strained"]]
LABELS = ["slow rate", "distortions", "strained"]
SECONDS = (1.0, 2.6, 3.4)
CLIP_S = 3.0


def run(arguments: list[str]) -> int:
    """The exit code of a command."""
    try:
        main(arguments)
    except SystemExit as exc:
        return int(exc.code or 0)
    return 0


def layers(**parts: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(parts))


def head(size: int, args: argparse.Namespace, outputs: int) -> nn.Module:
    norm = {"norm": nn.LayerNorm(args.clf_bottleneck)} if args.layernorm else {}
    found = nn.Module()
    found.head = layers(
        dense=nn.Linear(size, args.clf_bottleneck), **norm, relu=nn.ReLU(), dropout=nn.Dropout(args.final_dropout),
        outproj=nn.Linear(args.clf_bottleneck, outputs),
    )  # fmt: skip
    return found


class OldModel(nn.Module):
    """What the programs build: `model`, `dense`, `classifiers`, and for speech models perhaps `weightsum`."""

    def __init__(self, model: nn.Module, size: int, args: argparse.Namespace, num_states: int | None) -> None:
        super().__init__()
        self.model, self.args = model, args
        self.dense: nn.Module = nn.Identity()
        if args.shared_dense:
            self.dense = layers(dense=nn.Linear(size, args.sd_bottleneck), relu=nn.ReLU())
            size = args.sd_bottleneck
        if num_states is not None and args.weighted:
            self.weightsum = nn.Parameter(torch.linspace(-1, 2, num_states))
        self.classifiers = nn.ModuleList(head(size, args, len(group)) for group in args.label_groups)

    def pooled(self, x: torch.Tensor, layer: int | None = None, pooling: str | None = None) -> torch.Tensor:
        """(1, D) of one layer, or of the weighted layers: the programs' `_pool`."""
        if isinstance(self.model, ECAPA_TDNN):
            return self.model(x)[:, 0]
        found = self.model.base_model(x, output_hidden_states=True)
        # As transformers 4 had it: the last state of a pre-norm model is the normalised one.
        hidden = (*found.hidden_states[:-1], found.last_hidden_state)
        reduce = {"mean": lambda t: t.mean(1), "sum": lambda t: t.sum(1), "max": lambda t: t.amax(1)}
        if layer is None and self.args.weighted:
            each = [reduce[self.args.pooling_mode](state) for state in hidden]
            return sum(weight * state for weight, state in zip(self.weightsum, each, strict=True))
        layer = self.args.layer if layer is None else layer
        return reduce[pooling or self.args.pooling_mode](hidden[layer])

    def outputs(self, x: torch.Tensor) -> torch.Tensor:
        shared = self.dense(self.pooled(x))
        return torch.cat([item.head(shared) for item in self.classifiers], dim=1)


def save(folder: Path, model: OldModel) -> Path:
    """MODEL.pt and args.pkl as the programs leave them; the class itself is in neither."""
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    spread_weights(model.eval(), 3)
    if hasattr(model, "weightsum"):
        with torch.no_grad():
            model.weightsum.copy_(torch.linspace(-1, 2, len(model.weightsum)))
    folder.mkdir(exist_ok=True)
    torch.save(model.state_dict(), folder / "old_mdl.pt")
    (folder / "args.pkl").write_bytes(pickle.dumps(model.args))
    return folder / "old_mdl.pt"


def saved_by_torch(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def arguments(**changes: Any) -> argparse.Namespace:
    values: dict[str, Any] = {
        "prefix": "/data/speech", "study": None, "bucket_name": None, "seed": 4200, "debug": False,
        "target_labels": LABELS, "n_class": [2, 1], "resample_rate": 16000, "reduce": True, "clip_length": CLIP_S,
        "label_groups": GROUPS, "shared_dense": True, "sd_bottleneck": 14, "clf_bottleneck": 10,
        "activation": "relu", "final_dropout": 0.3, "layernorm": False, "loss": "BCE", "mode": "finetune",
    }  # fmt: skip
    return argparse.Namespace(**{**values, **changes})


def speech_model(make_model: MakeModel, kind: str = "wav2vec2-group", **changes: Any) -> OldModel:
    base = make_model(kind)
    values = {"checkpoint": str(base), "pooling_mode": "mean", "freeze": True, "weighted": False, "layer": -1}
    args = arguments(**{**values, **changes})
    model = transformers.AutoModelForAudioClassification.from_pretrained(base)
    return OldModel(model, model.config.hidden_size, args, model.config.num_hidden_layers + 1)


def ecapa_model(**changes: Any) -> OldModel:
    values = {
        "lin_neurons": 12, "n_mfcc": 20, "n_fft": 400, "n_mels": 40, "fbank": False, "dataset_mean": 0.0,
        "dataset_std": 0.0, "mode": "train",
    }  # fmt: skip
    args = arguments(**{**values, **changes})
    size = args.n_mels if args.fbank else args.n_mfcc
    network = ECAPA_TDNN(size, lin_neurons=12, channels=[16] * 4 + [48], attention_channels=8)
    return OldModel(network, 12, args, None)


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[Path, list[np.ndarray]]:
    """A manifest and its recordings; one is longer than a clip. They have no constant part, which is removed there."""
    rng, rows, clips = np.random.default_rng(5), [], []
    (tmp_path / "audio").mkdir()
    for number, seconds in enumerate(SECONDS):
        time = np.arange(int(seconds * 16000)) / 16000
        wave = 0.3 * np.sin(2 * np.pi * 200 * (number + 1) * time) + 0.05 * rng.standard_normal(len(time))
        wave[: int(CLIP_S * 16000)] -= wave[: int(CLIP_S * 16000)].mean()
        soundfile.write(tmp_path / "audio" / f"{number}.wav", wave, 16000, subtype="FLOAT")
        clips.append(wave.astype(np.float32))
        labels = {name: (number + place) % 2 for place, name in enumerate(LABELS)}
        rows.append(
            {"utterance_id": f"{number}.wav", "path": f"{number}.wav", "duration_s": seconds, "split": "test", **labels}
        )
    path = tmp_path / "manifest.parquet"
    Manifest.from_rows(rows, root=tmp_path / "audio", corpus="table").write(path)
    return path, clips


def cut(wave: np.ndarray) -> torch.Tensor:
    """(1, S): the first seconds, filled up with zeros."""
    length = int(CLIP_S * 16000)
    return torch.from_numpy(np.pad(wave[:length], (0, max(0, length - len(wave)))))[None]


def speech_input(wave: np.ndarray) -> torch.Tensor:
    x = cut(wave)
    return (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + 1e-7)


def ecapa_input(wave: np.ndarray, args: argparse.Namespace) -> torch.Tensor:
    x = cut(wave)
    if not args.fbank:
        settings = {"n_fft": args.n_fft, "n_mels": args.n_mels}
        return torchaudio.transforms.MFCC(16000, args.n_mfcc, melkwargs=settings)(x - x.mean()).transpose(1, 2)
    fbank = torchaudio.compliance.kaldi.fbank(
        x - x.mean(), htk_compat=True, sample_frequency=16000, use_energy=False, window_type="hanning",
        num_mel_bins=args.n_mels, dither=0.0, frame_shift=10,
    )  # fmt: skip
    fbank = nn.functional.pad(fbank, (0, 0, 0, max(0, args.n_fft - len(fbank))))[: args.n_fft]
    return ((fbank - args.dataset_mean) / (2 * args.dataset_std))[None]


def scores_of(path: Path, out: Path, manifest: Path) -> np.ndarray:
    """(U, C), by the two commands that a user types."""
    assert run(["weights", "convert", str(path), str(out)]) == 0
    assert run(["evaluate", str(out), "--on", str(manifest)]) == 0
    table = voxshard.read_scores(out / "scores-manifest.tsv")
    return np.column_stack([table[f"score_{name}"] for name in LABELS])


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("wav2vec2-group", {}),
        ("wav2vec2-layer", {"freeze": False, "layernorm": True, "pooling_mode": "sum"}),
        ("wav2vec2-group", {"weighted": True, "pooling_mode": "max"}),
        ("hubert-group", {"layer": 2, "shared_dense": False}),
        ("wavlm-layer", {"weighted": True, "label_groups": [LABELS]}),
    ],
)
def test_a_speech_model_scores_as_its_program_does(
    make_model: MakeModel, tmp_path: Path, corpus: tuple[Path, list[np.ndarray]], kind: str, changes: dict[str, Any]
) -> None:
    manifest, waves = corpus
    old = speech_model(make_model, kind, **changes)
    found = scores_of(save(tmp_path / "old", old), tmp_path / "run", manifest)
    with torch.no_grad():
        expected = torch.cat([torch.sigmoid(old.outputs(speech_input(wave))) for wave in waves])
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-5)
    assert np.ptp(found, axis=0).max() > 1e-3


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layernorm": True, "shared_dense": False},
        {"fbank": True, "n_fft": 256, "dataset_mean": -4.3, "dataset_std": 4.6},
        {"fbank": True, "n_fft": 320, "dataset_mean": -4.3, "dataset_std": 4.6},
    ],
)
def test_an_ecapa_model_scores_as_its_program_does(
    tmp_path: Path, corpus: tuple[Path, list[np.ndarray]], changes: dict[str, Any]
) -> None:
    manifest, waves = corpus
    old = ecapa_model(**changes)
    found = scores_of(save(tmp_path / "old", old), tmp_path / "run", manifest)
    with torch.no_grad():
        expected = torch.cat([torch.sigmoid(old.outputs(ecapa_input(wave, old.args))) for wave in waves])
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    assert np.ptp(found, axis=0).max() > 1e-3


def test_embeddings_of_a_converted_model_are_those_of_its_program(
    make_model: MakeModel, tmp_path: Path, corpus: tuple[Path, list[np.ndarray]]
) -> None:
    _, waves = corpus
    old = speech_model(make_model, weighted=True)
    assert run(["weights", "convert", str(save(tmp_path / "old", old))]) == 0
    trained = tmp_path / "old" / "old_mdl"
    clip = {"max_seconds": CLIP_S, "pad": "zero"}
    x = speech_input(waves[2])
    with torch.no_grad():
        weighted = old.pooled(x)
        heads = [item.head.dense(old.dense(weighted)) for item in old.classifiers]
        expected = {
            ("pt", None, None): old.pooled(x, layer=-1),
            ("pt", 2, None): old.pooled(x, layer=2),
            ("pt", 0, "max"): old.pooled(x, layer=0, pooling="max"),
            ("pt", None, "sum"): old.pooled(x, layer=-1, pooling="sum"),
            ("wt", None, None): weighted,
            ("st", None, None): old.dense(weighted),
            ("ft", None, None): torch.stack(heads).mean(0),
        }
    for (embedding, layer, pooling), values in expected.items():
        chosen = {name: value for name, value in (("layer", layer), ("pooling", pooling)) if value is not None}
        encoder = voxshard.load_encoder(
            "checkpoint", weights=str(trained), embedding=embedding, device="cpu", **clip, **chosen
        )
        found = encoder.embed(waves[2], sample_rate=16000)
        np.testing.assert_allclose(found, values[0].numpy(), rtol=1e-4, atol=2e-5 * max(1.0, float(values.abs().max())))


def test_what_holds_more_than_plain_values_is_refused_in_one_line(
    make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Program:
        def __reduce__(self) -> Any:
            return os.system, ("touch MARK",)

    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "old", speech_model(make_model))
    capsys.readouterr()
    arguments_file, good = path.with_name("args.pkl"), path.with_name("args.pkl").read_bytes()
    cases = [
        (arguments_file, pickle.dumps(argparse.Namespace(checkpoint=Program())), "refused: it holds"),
        (arguments_file, pickle.dumps(argparse.Namespace(a=1)), "not what naip-w2v2 or naip-ecapa-tdnn wrote: label_g"),
        (arguments_file, None, "no args.pkl next to old_mdl.pt"),
        (path, saved_by_torch({"model.a": Program()}), "refused: its checkpoint is a pickle that holds other"),
        (path, b"nonsense", "not a readable checkpoint|refused"),
    ]  # fmt: skip
    for file, content, reason in cases:
        before = file.read_bytes()
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        assert run(["weights", "convert", str(path)]) == 3
        err = capsys.readouterr().err
        assert any(part in err for part in reason.split("|")), err
        assert err.count("\n") == 1
        file.write_bytes(before)
    assert arguments_file.read_bytes() == good
    assert not (tmp_path / "MARK").exists()
    assert not (tmp_path / "old" / "old_mdl").exists()


def test_a_model_of_another_size_and_one_without_its_base_are_named(
    make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = speech_model(make_model)
    path = save(tmp_path / "old", old)
    old.args.clf_bottleneck = 11
    path.with_name("args.pkl").write_bytes(pickle.dumps(old.args))
    assert run(["weights", "convert", str(path)]) == 3
    assert "has a tensor of another shape for heads.heads.0.dense.weight" in capsys.readouterr().err
    old.args.clf_bottleneck, old.args.checkpoint = 10, "wav2vec2-base-960h"
    path.with_name("args.pkl").write_bytes(pickle.dumps(old.args))
    monkeypatch.setenv("VOXSHARD_WEIGHTS", str(tmp_path))
    assert run(["weights", "convert", str(path)]) == 4
    assert "began as wav2vec2-base-960h, whose config.json is not here; give --base" in capsys.readouterr().err
    assert run(["weights", "convert", str(path), "--base", str(make_model("wav2vec2-group"))]) == 0
    assert run(["evaluate", str(tmp_path / "old" / "old_mdl")]) == 3
    assert "a converted model, without data of its own; give --on MANIFEST" in capsys.readouterr().err
    assert run(["report", str(tmp_path / "old" / "old_mdl"), "--out", str(tmp_path / "report.html")]) == 0


def test_layer_and_pooling_are_of_pt_alone(make_model: MakeModel, tmp_path: Path) -> None:
    assert run(["weights", "convert", str(save(tmp_path / "old", speech_model(make_model, layer=1)))]) == 0
    trained = str(tmp_path / "old" / "old_mdl")
    with pytest.raises(ConfigError, match="layer: no effect on embedding=ft"):
        voxshard.load_encoder("checkpoint", weights=trained, embedding="ft", layer=1, device="cpu")
    with pytest.raises(ConfigError, match=r"layer=2: the network was trained on layer 1 of 3 and has none"):
        voxshard.load_encoder("checkpoint", weights=trained, layer=2, device="cpu")
    assert run(["weights", "convert", str(save(tmp_path / "ecapa", ecapa_model()))]) == 0
    with pytest.raises(ConfigError, match="pooling: only networks of the family wav2vec2 have hidden layers"):
        voxshard.load_encoder("checkpoint", weights=str(tmp_path / "ecapa" / "old_mdl"), pooling="max", device="cpu")
