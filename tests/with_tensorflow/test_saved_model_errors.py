"""SavedModel folders that are damaged, incomplete, or of another model."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from voxshard.encoders.registry import create
from voxshard.errors import BackendUnavailableError, CorruptFileError, MissingWeightsError, VoxshardError

Save = Callable[..., Path]


@pytest.fixture
def folder(save_trillsson: Save, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(save_trillsson(), tmp_path / "model"))


def save(tmp_path: Path, function: Callable[..., object], *signature: tf.TensorSpec) -> Path:
    """A SavedModel of one function."""
    module = tf.Module()
    module.weight = tf.Variable([1.0])
    module.__call__ = tf.function(function, input_signature=signature)
    tf.saved_model.save(module, str(tmp_path / "other"))
    return tmp_path / "other"


def refused(folder: Path, kind: type[VoxshardError]) -> str:
    """What is said before anything is loaded."""
    with pytest.raises(kind) as caught:
        create("trillsson3", {"weights": str(folder)})
    return str(caught.value)


def refused_on_loading(folder: Path, kind: type[VoxshardError]) -> str:
    encoder = create("trillsson3", {"weights": str(folder)})
    with pytest.raises(kind) as caught:
        encoder.load("cpu")
    return str(caught.value)


@pytest.mark.parametrize("kept", [0, 40, 0.5])
def test_a_truncated_graph_is_corrupt_and_named(folder: Path, kept: float) -> None:
    graph = folder / "saved_model.pb"
    content = graph.read_bytes()
    graph.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    message = refused(folder, CorruptFileError)
    assert re.fullmatch(
        rf"{re.escape(str(graph))}: (not a SavedModel, or a damaged one|holds no graph) \(\d+ bytes\);"
        r" `voxshard weights fetch trillsson3` downloads all of trillsson3",
        message,
    )
    assert CorruptFileError.exit_code == 3


@pytest.mark.parametrize("damage", ["truncated", "changed"])
def test_damaged_variables_are_corrupt_and_named(folder: Path, damage: str) -> None:
    data = folder / "variables" / "variables.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 0xFF
    data.write_bytes(content[: len(content) // 3] if damage == "truncated" else content)
    message = refused_on_loading(folder, CorruptFileError)
    assert message.startswith(f"{folder}: TensorFlow cannot load this SavedModel: ")
    assert message.endswith(
        "(its files: saved_model.pb, variables/variables.index, variables/variables.data-00000-of-00001);"
        " `voxshard weights fetch trillsson3` downloads all of it"
    )


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "variables" / "variables.data-00000-of-00001").unlink()
    assert refused(folder, MissingWeightsError) == (
        f"{folder}: no variables/variables.data-00000-of-00001 next to variables/variables.index; half a download?"
        " `voxshard weights fetch trillsson3` downloads all of trillsson3"
    )
    (folder / "saved_model.pb").unlink()
    message = refused(folder, MissingWeightsError)
    assert message.startswith(f"{folder}: no saved_model.pb in this folder; trillsson3 expects saved_model.pb,")
    assert MissingWeightsError.exit_code == 4


def test_a_model_of_single_waveforms_is_another_model(tmp_path: Path) -> None:
    other = save(tmp_path, lambda waveform: tf.reshape(waveform, (-1, 16)), tf.TensorSpec((None,), name="waveform"))
    assert refused(other, MissingWeightsError) == (
        f"{other / 'saved_model.pb'}: this is another model: it takes float32 waveform (?) and gives float32 output_0"
        " (?, 16); trillsson3 takes float32 audio_samples (batch, samples) and gives float32 embedding (batch, size)"
    )


def test_a_model_of_two_inputs_is_another_model(tmp_path: Path) -> None:
    specs = tf.TensorSpec((None, None), name="samples"), tf.TensorSpec((), tf.int32, name="rate")
    other = save(tmp_path, lambda samples, rate: samples[:, :16] * tf.cast(rate, tf.float32), *specs)
    message = refused(other, MissingWeightsError)
    assert "this is another model: it takes int32 rate (), float32 samples (?, ?) and gives float32 output_0" in message


def test_a_model_that_gives_frames_is_another_model(tmp_path: Path) -> None:
    other = save(tmp_path, lambda clips: tf.signal.frame(clips, 400, 160), tf.TensorSpec((None, None), name="clips"))
    message = refused(other, MissingWeightsError)
    assert "this is another model: it takes float32 clips (?, ?) and gives float32 output_0 (?, ?, 400);" in message


def test_two_embeddings_neither_called_so_are_refused_by_name(save_trillsson: Save) -> None:
    folder = save_trillsson(outputs=lambda embedding: {"first": embedding, "second": embedding[:, :3]})
    message = refused_on_loading(folder, MissingWeightsError)
    assert message == (
        f"{folder / 'saved_model.pb'}: this is another model: for one clip it gives first (1, 24), second (1, 3), not"
        " embedding (1, 1024); trillsson3 takes float32 audio_samples (batch, samples) and gives float32 embedding"
        " (batch, size)"
    )


def test_a_folder_that_cannot_be_called_and_has_no_signature_is_refused(tmp_path: Path) -> None:
    module = tf.Module()
    module.weight = tf.Variable([1.0])
    tf.saved_model.save(module, str(tmp_path / "bare"))
    message = refused_on_loading(tmp_path / "bare", MissingWeightsError)
    assert "this is another model: it can neither be called nor has it a signature serving_default;" in message


def test_operations_that_this_tensorflow_lacks_are_named_with_both_versions(folder: Path) -> None:
    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    about = model.meta_graphs[0].meta_info_def
    about.tensorflow_version = "3.5.0"
    about.stripped_op_list.op.add(name="OpOfTheFuture")
    path.write_bytes(model.SerializeToString())
    message = refused(folder, BackendUnavailableError)
    assert (
        f"made with TensorFlow 3.5.0, installed here is {tf.__version__}, which has no operation OpOfTheFuture"
        in message
    )
