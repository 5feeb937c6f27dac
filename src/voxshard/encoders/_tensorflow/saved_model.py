"""SavedModel folders of clip encoders: float32 (batch, samples) in, one vector per clip out.

Read with TensorFlow alone: neither tensorflow-hub nor Keras is needed, so a breakage of theirs cannot stop a run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorflow.core.framework.types_pb2 import DT_FLOAT
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef, SignatureDef, TensorInfo
from tensorflow.python.framework import op_def_registry

from voxshard.encoders._tensorflow.device import problem_of
from voxshard.encoders.trillsson import GRAPH, INDEX
from voxshard.errors import BackendUnavailableError, CorruptFileError, MissingWeightsError

SIGNATURE = "serving_default"
"""The signature every exporter writes."""
OUTPUT = "embedding"
"""What the documentation calls the output; the signatures of the files found in the wild call it otherwise."""


@dataclass(frozen=True)
class ClipModel:
    """Facts that a SavedModel folder records, read without loading it."""

    folder: Path
    title: str
    """The model that was asked for, as messages call it."""
    files: tuple[str, ...]
    """Files that the loader opens, relative to the folder."""
    dim: int | None
    """Size of the embedding; None if no signature defines it."""


def inspect(folder: Path, title: str) -> ClipModel:
    """Read the inputs and outputs of a SavedModel.

    Raises
    ------
    CorruptFileError : `saved_model.pb` is not one, or damaged.
    BackendUnavailableError : it needs operations that the installed TensorFlow does not have.
    MissingWeightsError : its variables are missing, or it is another kind of model.
    """
    graph = folder / GRAPH
    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(graph.read_bytes())
    except DecodeError as exc:
        raise _damaged(graph, title, "not a SavedModel, or a damaged one") from exc
    if not model.meta_graphs:
        raise _damaged(graph, title, "holds no graph")
    data = sorted(str(path.relative_to(folder)) for path in folder.glob("variables/variables.data-*"))
    if not data:
        raise MissingWeightsError(
            f"{folder}: no variables/variables.data-00000-of-00001 next to {INDEX}; half a download?"
            f" `voxshard weights fetch {title}` downloads all of {title}"
        )
    _check_operations(folder, model.meta_graphs[0].meta_info_def)
    signatures = model.meta_graphs[0].signature_def
    dim = _dim_of(signatures[SIGNATURE], graph, title) if SIGNATURE in signatures else None
    return ClipModel(folder, title, (GRAPH, INDEX, *data), dim)


def load(model: ClipModel, dim: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Bring a SavedModel into memory, on the device TensorFlow was prepared for.

    Parameters
    ----------
    dim : size of the embedding it has to give.

    Returns
    -------
    Function from float32 (B, S) to float32 (B, dim): the model as it is called, or its serving signature where it
    cannot be called.

    Raises
    ------
    CorruptFileError : a file of the folder is damaged.
    MissingWeightsError : it is another kind of model.
    DeviceMemoryError, DeviceFaultError : it does not fit on the device, or the GPU fails.
    """
    try:
        loaded = tf.saved_model.load(str(model.folder))
    except Exception as exc:  # a damaged file makes the loader trip in ever other ways
        if problem := problem_of(exc):
            raise problem from exc
        if isinstance(exc, ImportError) or (isinstance(exc, OSError) and exc.errno is not None):
            raise  # no verdict on the file
        raise CorruptFileError(
            f"{model.folder}: TensorFlow cannot load this SavedModel: {_first_line(exc)} (its files:"
            f" {', '.join(model.files)}); `voxshard weights fetch {model.title}` downloads all of it"
        ) from exc
    call = loaded if callable(loaded) else _by_signature(loaded, model)
    try:
        outputs = _outputs_of(call(tf.zeros((1, 32_000))))
    except (ValueError, TypeError, tf.errors.OpError) as exc:
        if problem := problem_of(exc):
            raise problem from exc
        if not isinstance(exc, ValueError | TypeError | tf.errors.InvalidArgumentError):
            raise
        raise _other(model, f"it cannot be called with float32 (batch, samples): {_first_line(exc)}") from exc
    vectors = {name: value for name, value in outputs.items() if tf.is_tensor(value) and value.shape.rank == 2}
    name = _pick(vectors)
    if name is None or vectors[name].shape[1] != dim:
        shapes = ", ".join(f"{key} {tuple(getattr(value, 'shape', '?'))}" for key, value in sorted(outputs.items()))
        raise _other(model, f"for one clip it gives {shapes or 'nothing'}, not {OUTPUT} (1, {dim})")
    return lambda clips: _outputs_of(call(clips))[name]


def _check_operations(folder: Path, about: MetaGraphDef.MetaInfoDef) -> None:
    """Make sure, before it is loaded, that TensorFlow has every operation a SavedModel lists."""
    lacking = sorted(op.name for op in about.stripped_op_list.op if op_def_registry.get(op.name) is None)
    if lacking:
        raise BackendUnavailableError(
            f"{folder}: made with TensorFlow {about.tensorflow_version or '?'}, installed here is {tf.__version__}, "
            f"which has no operation {', '.join(lacking[:3])}; install that version or a newer one, or use the "
            "TensorFlow image"
        )


def _dim_of(signature: SignatureDef, graph: Path, title: str) -> int | None:
    inputs, outputs = dict(signature.inputs), dict(signature.outputs)
    vectors = {name: tensor for name, tensor in outputs.items() if _may_be_matrix(tensor)}
    if len(inputs) != 1 or not all(map(_may_be_matrix, inputs.values())) or not vectors:
        raise MissingWeightsError(
            f"{graph}: this is another model: it takes {_describe(inputs)} and gives {_describe(outputs)};"
            f" {title} takes float32 audio_samples (batch, samples) and gives float32 {OUTPUT} (batch, size)"
        )
    name = _pick(vectors)
    sizes = [dim.size for dim in vectors[name].tensor_shape.dim] if name else []
    return sizes[1] if len(sizes) == 2 and sizes[1] > 0 else None


def _may_be_matrix(tensor: TensorInfo) -> bool:
    shape = tensor.tensor_shape
    return bool(tensor.dtype == DT_FLOAT and (shape.unknown_rank or len(shape.dim) == 2))


def _describe(tensors: Mapping[str, TensorInfo]) -> str:
    described = []
    for name, tensor in sorted(tensors.items()):
        sizes = ", ".join("?" if dim.size == -1 else str(dim.size) for dim in tensor.tensor_shape.dim)
        described.append(f"{tf.dtypes.as_dtype(tensor.dtype).name} {name} ({sizes})")
    return ", ".join(described) or "nothing"


def _pick(names: Collection[str]) -> str | None:
    """The output that is the embedding: the one called so, or the only one."""
    return OUTPUT if OUTPUT in names else next(iter(names)) if len(names) == 1 else None


def _outputs_of(result: Any) -> Mapping[str, Any]:
    return result if isinstance(result, Mapping) else {OUTPUT: result}


def _by_signature(loaded: Any, model: ClipModel) -> Callable[[tf.Tensor], Any]:
    if SIGNATURE not in loaded.signatures:
        raise _other(model, f"it can neither be called nor has it a signature {SIGNATURE}")
    (name,) = loaded.signatures[SIGNATURE].structured_input_signature[1]
    # The closure holds the complete object: a signature alone would let the variables it reads be freed.
    return lambda clips: loaded.signatures[SIGNATURE](**{name: clips})


def _damaged(graph: Path, title: str, found: str) -> CorruptFileError:
    return CorruptFileError(
        f"{graph}: {found} ({graph.stat().st_size} bytes); `voxshard weights fetch {title}` downloads all of {title}"
    )


def _other(model: ClipModel, found: str) -> MissingWeightsError:
    return MissingWeightsError(
        f"{model.folder / GRAPH}: this is another model: {found}; {model.title} takes float32 audio_samples"
        f" (batch, samples) and gives float32 {OUTPUT} (batch, {model.dim or 'size'})"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
