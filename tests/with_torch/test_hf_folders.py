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


def test_a_pickle_with_other_objects_is_refused_in_one_line(model: Path) -> None:
    tensors = transformers.AutoModel.from_pretrained(model).state_dict()
    (model / "model.safetensors").unlink()
    torch.save({**tensors, "args": argparse.Namespace(a=1)}, model / "pytorch_model.bin")
    with pytest.raises(CorruptFileError) as caught:
        embedding(model)
    assert str(caught.value).startswith(f"{model}: refused: its checkpoint is a pickle that holds other objects")
    assert "\n" not in str(caught.value)
    assert not any(word in str(caught.value) for word in ("weights_only", "allow", "trust"))
