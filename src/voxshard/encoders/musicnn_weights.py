"""Weights of musicnn's four models: from the checkpoints in its wheel, or from our own file."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from voxshard import files
from voxshard.encoders.tensor_bundle import read_variables
from voxshard.errors import CorruptFileError, MissingWeightsError

CONVERTED = "musicnn.npz"
"""Our file: arrays float32, named `MODEL/VARIABLE`."""
MODELS = ("MSD_musicnn", "MTT_musicnn", "MSD_vgg", "MTT_vgg")
"""Those in the wheel; MSD_musicnn_big is not in it."""
NUM_MELS, NUM_TAGS = 96, 50
TIMBRAL, TEMPORAL, MIDDLE, DENSE, VGG = 204, 51, 64, 200, 128
"""Channels of the layers."""
FRONT = 2 * TIMBRAL + 3 * TEMPORAL
POOLED = FRONT + 3 * MIDDLE
Weights: TypeAlias = Mapping[str, npt.NDArray[np.float32]]


def _normalised(sizes: list[int]) -> dict[str, tuple[int, ...]]:
    """Variables of the batch normalisations, numbered in the order of the layers."""
    return {
        f"batch_normalization{f'_{number}' if number else ''}/{part}": (size,)
        for number, size in enumerate(sizes)
        for part in ("gamma", "beta", "moving_mean", "moving_variance")
    }


def _layers(kernels: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {f"{name}/kernel": shape for name, shape in kernels.items()} | {
        f"{name}/bias": shape[-1:] for name, shape in kernels.items()
    }


_MUSICNN_SHAPES = _layers(
    {
        "conv2d": (7, 38, 1, TIMBRAL),
        "conv2d_1": (7, 67, 1, TIMBRAL),
        "conv2d_2": (128, 1, 1, TEMPORAL),
        "conv2d_3": (64, 1, 1, TEMPORAL),
        "conv2d_4": (32, 1, 1, TEMPORAL),
        "conv2d_5": (7, FRONT, 1, MIDDLE),
        "conv2d_6": (7, MIDDLE, 1, MIDDLE),
        "conv2d_7": (7, MIDDLE, 1, MIDDLE),
        "dense": (2 * POOLED, DENSE),
        "dense_1": (DENSE, NUM_TAGS),
    }
) | _normalised([1, *2 * [TIMBRAL], *3 * [TEMPORAL], *3 * [MIDDLE], 2 * POOLED, DENSE])
_VGG_SHAPES = _layers(
    {
        "1CNN": (3, 3, 1, VGG),
        **{f"{number}CNN": (3, 3, VGG, VGG) for number in range(2, 6)},
        "dense": (2 * VGG, NUM_TAGS),
    }
) | _normalised([1, *5 * [VGG]])


def shapes_of(model: str) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of a model's variables: those of its checkpoint without the optimiser's."""
    return _VGG_SHAPES if model.endswith("_vgg") else _MUSICNN_SHAPES


def convert_wheel(wheel: Path, target: Path) -> None:
    """Write the four models inside musicnn's wheel as our own file.

    Raises
    ------
    CorruptFileError : not musicnn's wheel, or a checkpoint in it is damaged.
    """
    arrays: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for model in MODELS:
                index = archive.read(f"musicnn/{model}/.index")
                data = archive.read(f"musicnn/{model}/.data-00000-of-00001")
                where = f"{wheel.name}/musicnn/{model}"
                weights = _checked(read_variables(index, data, where=where), model, where)
                arrays |= {f"{model}/{name}": array for name, array in weights.items()}
    except (zipfile.BadZipFile, KeyError) as exc:
        raise CorruptFileError(f"{wheel.name}: not musicnn's wheel: {exc}") from exc
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    files.publish_bytes(target, buffer.getvalue())


def read_converted(path: Path, model: str) -> Weights:
    """Read the variables of one model from our own file.

    Raises
    ------
    MissingWeightsError : no such file.
    CorruptFileError : damaged, or of another model.
    """
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
            names = [name for name in shapes_of(model) if f"{model}/{name}" in stored.files]
            found = {name: stored[f"{model}/{name}"] for name in names}
    except FileNotFoundError as exc:
        raise MissingWeightsError(f"{path}: no such file; `voxshard weights fetch musicnn` brings it") from exc
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as exc:
        raise CorruptFileError(f"{path}: not an npz of arrays: {exc}; fetch it again") from exc
    return _checked(found, model, str(path))


def _checked(found: Weights, model: str, where: str) -> Weights:
    """Return the variables of a model if all of them exist in its shapes.

    Raises
    ------
    CorruptFileError : names the first that is not.
    """
    for name, shape in shapes_of(model).items():
        if name not in found or found[name].shape != shape or found[name].dtype != np.float32:
            what = f"{found[name].dtype} {found[name].shape}" if name in found else "absent"
            raise CorruptFileError(
                f"{where}: {name} of {model} is {what}; expected float32 {shape}; fetch it again with `voxshard weights"
                " fetch musicnn`"
            )
    return {name: found[name] for name in shapes_of(model)}
