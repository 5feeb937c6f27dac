"""Small models with random weights in the layouts users download, made on the spot."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from support.tensorflow_models import small_trillsson

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

try:
    version("tensorflow")
except PackageNotFoundError:
    if os.environ.get("REQUIRE_FRAMEWORK") == "tensorflow":
        raise
    collect_ignore_glob = ["test_*.py"]

SaveTrillsson = Callable[..., Path]


@pytest.fixture(scope="session")
def save_trillsson(tmp_path_factory: pytest.TempPathFactory) -> SaveTrillsson:
    """Saves a small TRILLsson as a SavedModel folder; the same arguments give the same folder."""
    import tensorflow as tf

    made: dict[str, Path] = {}

    def save(*, called: bool = True, signature_output: str | None = None, **arguments: Any) -> Path:
        """`called` False leaves the model nothing but a signature, whose output is called `signature_output`."""
        key = repr((called, signature_output, sorted(arguments.items())))
        if key not in made:
            model = small_trillsson(**arguments)
            folder = tmp_path_factory.mktemp("trillsson")
            signatures = None
            if signature_output is not None:
                call = model.__call__
                serve = tf.function(
                    lambda audio_samples: {signature_output: call(audio_samples)["embedding"]},
                    input_signature=[tf.TensorSpec((None, None), tf.float32, name="audio_samples")],
                )
                signatures = serve.get_concrete_function()
            saved = model
            if not called:
                saved = tf.Module()
                saved.mel, saved.kernel, saved.dense = model.mel, model.kernel, model.dense
            tf.saved_model.save(saved, str(folder), signatures)
            made[key] = folder
        return made[key]

    return save
