"""`voxshard weights` and `voxshard encoders` as a user meets them."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest

from support.hub_server import Hub, serving
from voxshard.cli import main


def run(*arguments: str) -> int:
    try:
        main(list(arguments))
    except SystemExit as exc:
        return int(exc.code or 0)
    return 0


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VOXSHARD_WEIGHTS", str(tmp_path))
    return tmp_path


def put(folder: Path, content: bytes, recorded: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(content)
    entry = {"name": "model.safetensors", "num_bytes": len(recorded), "sha256": hashlib.sha256(recorded).hexdigest()}
    (folder / "weights.json").write_text(json.dumps({"files": [{**entry, "url": "u", "checked_against": "nothing"}]}))


def test_list_tells_licence_origin_and_what_is_here(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (store / "ecapa").mkdir()
    put(store / "hf/org/name", b"x", b"x")
    assert run("weights", "list", "--files") == 0
    text = capsys.readouterr().out
    assert f"ecapa  83 MB, here, {store}/ecapa" in text
    assert "metis8d  2.5 GB, not here" in text
    assert "licence: MIT (w2v-BERT 2.0, statistics); CC-BY-NC-4.0 (semantic codec)" in text
    assert "SHA-256 c9c176c2b8850ab2e3ba828bbfa969deaf4566ce55db5f2687b8430b87526ad2" in text
    assert "SHA-256 unknown" in text
    assert f"hf/org/name: here, {store}/hf/org/name" in text


def test_list_needs_no_folder(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("VOXSHARD_WEIGHTS", raising=False)
    assert run("weights", "list") == 0
    assert "vggish  289 MB, not here" in capsys.readouterr().out


def test_verify_passes_what_is_unchanged_and_exits_3_on_what_is_not(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(store / "hf/org/good", b"x", b"x")
    assert run("weights", "verify") == 0
    assert capsys.readouterr().out == f"ok       {store}/hf/org/good/model.safetensors\n"
    put(store / "hf/org/bad", b"y", b"x")
    assert run("weights", "verify") == 3
    captured = capsys.readouterr()
    assert f"changed  {store}/hf/org/bad/model.safetensors: SHA-256 " in captured.out
    assert captured.err == ("voxshard: 1 of 2 files changed or missing; `voxshard weights fetch` brings them again\n")
    assert run("weights", "verify", "hf/org/good") == 0


def test_fetch_brings_a_model_and_says_where_it_is(
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    names = ("config.json", "preprocessor_config.json", "pytorch_model.bin")
    with serving(Hub(models={"org/name@main": {name: name.encode() for name in names}})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", f"{hub.address}/")
        assert run("weights", "fetch", "hf/org/name") == 0
        assert run("weights", "fetch", "hf/org/name", "--revision", "v2") == 4
        assert run("weights", "fetch", "hf/org/other") == 4
    folder = store / "hf/org/name"
    assert (folder / "pytorch_model.bin").read_text() == "pytorch_model.bin"
    errors = capsys.readouterr().err
    assert f"hf/org/name: {folder} (licence: see the model's page)" in errors
    assert "/org/name at v2: no such revision; name a branch, a tag or a commit of the model" in errors
    assert "/org/other at main: no such model, or one whose terms must be accepted first" in errors
    assert run("weights", "verify") == 0


def test_fetching_needs_a_folder_and_a_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("VOXSHARD_WEIGHTS", raising=False)
    assert run("weights", "fetch", "ecapa") == 2
    assert "voxshard: where do weights go?" in capsys.readouterr().err
    assert run("weights", "fetch", "--root", "x", "nonsense") == 2
    assert "no weights called 'nonsense'" in capsys.readouterr().err


def test_converting_without_tensorflow_says_where_to_do_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    for name in [name for name in sys.modules if name.startswith("voxshard.encoders._tensorflow.")]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "vggish_model.ckpt").touch()
    assert run("weights", "convert", str(tmp_path / "vggish_model.ckpt")) == 4
    assert "which is not installed here; run it where TensorFlow is" in capsys.readouterr().err


def test_encoders_are_listed_with_where_they_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("encoders") == 0
    lines = capsys.readouterr().out.splitlines()
    by_name = {line.split()[0]: line for line in lines if line}
    assert " available " in by_name["mfcc"]
    assert "torch" in by_name["hf"]
    assert "audio models of transformers: wav2vec 2.0 and its relatives, Whisper" in by_name["hf"]


def test_encoders_are_grouped_by_what_installs_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("encoders") == 0
    groups = dict(block.split("\n", 1) for block in capsys.readouterr().out.split("\n\n") if "\n" in block)
    assert "  ge2e " in groups["Base install"]
    assert "  musicnn " in groups["Base install"]
    assert "  onnx " in groups["ONNX: pip install 'voxshard[onnx]'"]
    assert "  trillsson1 " in groups["TensorFlow: pip install 'voxshard[tensorflow]'"]
    unsupported = groups["Not supported; `voxshard ingest` reads vectors made elsewhere"].splitlines()
    assert [line.split()[0] for line in unsupported] == ["openl3"]
    assert all(line.endswith("not supported; use ingest") for line in unsupported)


def test_settings_are_shown_with_meaning_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("encoders", "hf") == 0
    text = capsys.readouterr().out
    assert "--set pooling=   none | mean | sum | max | mean+std | null, default null" in text
    assert "--set chunk_seconds=   number | null, default 60.0" in text
    assert "$VOXSHARD_WEIGHTS/hf/org/name" in text
    assert text.index("--set weights=") < text.index("--set max_seconds=")


def test_an_encoder_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("encoders", "xvector") == 2
    assert "voxshard: no encoder 'xvector'; encoders: mfcc, logmel," in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("wav2vec2", "facebook/wav2vec2-base"),
        ("WavLM-base", "microsoft/wavlm-base"),
        ("org/any-model", "org/any-model"),
    ],
)
def test_a_model_of_the_hub_is_sent_to_the_encoder_that_runs_it(
    capsys: pytest.CaptureFixture[str], name: str, model: str
) -> None:
    assert run("encoders", name) == 2
    assert f"no encoder {name!r}; models of transformers are run by hf: `--encoder hf --set weights={model}`" in (
        capsys.readouterr().err
    )
    assert run("weights", "fetch", name) == 2
    assert f"did you mean hf/{model}, or another hf/ORG/NAME?" in capsys.readouterr().err


def test_an_encoder_in_capitals_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("encoders", "MFCC") == 2
    assert capsys.readouterr().err.endswith("; did you mean mfcc?\n")


def test_an_encoder_without_weights_has_nothing_to_fetch(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("weights", "fetch", "mfcc") == 2
    assert capsys.readouterr().err == "voxshard: the encoder mfcc needs no weights: there is nothing to fetch\n"
    assert run("weights", "fetch", "onnx") == 2
    assert "no weights called 'onnx'; available: onnx/voxceleb_resnet34, " in capsys.readouterr().err
