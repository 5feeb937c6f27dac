"""Model folders as people have them: saved by transformers 5, by a Trainer, by git, by the hub's cache."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from voxshard.encoders.base import Encoder
from voxshard.encoders.registry import create
from voxshard.errors import CorruptFileError, MissingWeightsError
from voxshard.testing import encode_together

MakeModel = Callable[..., Path]


@pytest.fixture
def model(make_model: MakeModel, tmp_path: Path) -> Path:
    return Path(shutil.copytree(make_model("wav2vec2-group"), tmp_path / "model"))


def embedding(weights: Path | str) -> np.ndarray:
    encoder: Encoder = create("hf", {"weights": str(weights)})
    encoder.load("cpu")
    clip = np.sin(np.arange(8000) * 0.07).astype(np.float32)
    found: np.ndarray = encode_together(encoder, [clip])[0]["embedding"]
    return found


@pytest.mark.parametrize("normalize", [True, False])
def test_a_processor_of_transformers_5_gives_the_same_embeddings(model: Path, normalize: bool) -> None:
    path = model / "preprocessor_config.json"
    settings = json.loads(path.read_text()) | {"do_normalize": normalize}
    path.write_text(json.dumps(settings))
    expected = embedding(model)
    path.unlink()
    (model / "processor_config.json").write_text(
        json.dumps({"feature_extractor": settings, "processor_class": "Wav2Vec2Processor"})
    )
    np.testing.assert_array_equal(embedding(model), expected)
    names = [item.name for item in create("hf", {"weights": str(model)}).info.weight_files]
    assert "processor_config.json" in names


@pytest.mark.parametrize("with_processor", [True, False])
def test_a_trainers_checkpoint_names_the_file_and_where_to_copy_it_from(model: Path, with_processor: bool) -> None:
    (model / "preprocessor_config.json").unlink()
    if with_processor:
        (model / "processor_config.json").write_text('{"processor_class": "Wav2Vec2Processor"}')
    config = json.loads((model / "config.json").read_text()) | {"_name_or_path": "facebook/wav2vec2-base"}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(MissingWeightsError) as caught:
        create("hf", {"weights": str(model)})
    assert "copy preprocessor_config.json from the folder of 'facebook/wav2vec2-base'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_of_checkpoints_names_them(model: Path) -> None:
    (model / "checkpoint-500").mkdir()
    (model / "model.safetensors").unlink()
    with pytest.raises(MissingWeightsError, match="it has checkpoint-500: give one of these folders"):
        create("hf", {"weights": str(model)})


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_pointers_of_git_lfs_are_named(model: Path, name: str) -> None:
    (model / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(MissingWeightsError) as caught:
        create("hf", {"weights": str(model)})
    assert f"{name}: a Git LFS pointer, not the file itself; run `git lfs pull`" in str(caught.value)


@pytest.mark.parametrize("variable", ["HF_HOME", "HF_HUB_CACHE"])
def test_a_model_in_the_hubs_cache_is_found(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    expected = embedding(model)
    cache = tmp_path / "home" / "hub" if variable == "HF_HOME" else tmp_path / "home"
    folder = cache / "models--org--tiny"
    blobs = folder / "blobs"
    blobs.mkdir(parents=True)
    snapshot = folder / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (folder / "snapshots" / "older").mkdir()
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc123")
    for path in model.iterdir():
        shutil.move(path, blobs / f"blob-{path.name}")
        (snapshot / path.name).symlink_to(f"../../blobs/blob-{path.name}")
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    for weights in (folder, snapshot):
        np.testing.assert_array_equal(embedding(weights), expected)
    monkeypatch.setenv(variable, str(tmp_path / "home"))
    np.testing.assert_array_equal(embedding("org/tiny"), expected)
    (folder / "refs" / "main").unlink()
    with pytest.raises(MissingWeightsError, match="without a snapshot of main; snapshots: abc123, older"):
        embedding("org/tiny")


def in_cache(model: Path, cache: Path) -> Path:
    """Move a model into a cache of the hub as `org/tiny`; return its folder there."""
    folder = cache / "models--org--tiny"
    snapshot = folder / "snapshots" / "abc123"
    for path in (folder / "blobs", folder / "refs", snapshot):
        path.mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc123\n")
    for path in model.iterdir():
        shutil.move(path, folder / "blobs" / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    return folder


@pytest.mark.parametrize("ref", [b"\xff\xfe", b"", b"../../..", b"gone"])
def test_a_damaged_ref_of_the_cache_leaves_its_only_snapshot(model: Path, tmp_path: Path, ref: bytes) -> None:
    folder = in_cache(model, tmp_path / "hub")
    (folder / "refs" / "main").write_bytes(ref)
    for given in (folder, folder / "snapshots"):
        assert create("hf", {"weights": str(given)}).info.weight_files
    (folder / "snapshots" / "older").mkdir()
    with pytest.raises(MissingWeightsError, match="without a snapshot of main; snapshots: abc123, older"):
        create("hf", {"weights": str(folder)})


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_a_link_of_the_cache_to_nothing_is_named(model: Path, tmp_path: Path, name: str) -> None:
    folder = in_cache(model, tmp_path / "hub")
    (folder / "blobs" / name).unlink()
    with pytest.raises(MissingWeightsError, match=rf"{name}: a link to \S+/blobs/{name}, which does not exist"):
        create("hf", {"weights": str(folder)})


def test_the_cache_itself_names_its_models(model: Path, tmp_path: Path) -> None:
    in_cache(model, tmp_path / "hub")
    with pytest.raises(MissingWeightsError, match="no model but a folder of them: give models--org--tiny in it"):
        create("hf", {"weights": str(tmp_path / "hub")})


def test_a_name_as_weights_fetch_takes_it_is_found(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_cache(model, tmp_path / "hub")
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HUGGINGFACE_HUB_CACHE", str(tmp_path / "hub"))
    assert create("hf", {"weights": "hf/org/tiny"}).info.weight_files


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("model.pt", "model.pt in it is not read: save the model with transformers' save_pretrained"),
        ("tf_model.h5", "tf_model.h5 in it is not read"),
    ],
)
def test_checkpoints_of_other_formats_are_named(model: Path, name: str, what: str) -> None:
    (model / "model.safetensors").rename(model / name)
    with pytest.raises(MissingWeightsError, match=what):
        create("hf", {"weights": str(model)})


def test_a_file_in_place_of_a_folder_and_an_empty_pickle_are_one_line(model: Path) -> None:
    with pytest.raises(MissingWeightsError, match=r"a file; hf expects the folder that has config\.json in it"):
        create("hf", {"weights": str(model / "model.safetensors")})
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CorruptFileError, match="the model cannot be loaded"):
        embedding(model)


def test_a_pickle_with_other_objects_is_refused_in_one_line(model: Path) -> None:
    tensors = transformers.AutoModel.from_pretrained(model).state_dict()
    (model / "model.safetensors").unlink()
    torch.save({**tensors, "args": argparse.Namespace(a=1)}, model / "pytorch_model.bin")
    with pytest.raises(CorruptFileError) as caught:
        embedding(model)
    assert str(caught.value).startswith(f"{model}: refused: its checkpoint is a pickle that holds other objects")
    assert "\n" not in str(caught.value)
    assert not any(word in str(caught.value) for word in ("weights_only", "allow", "trust"))
