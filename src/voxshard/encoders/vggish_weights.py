"""Names of VGGish's variables, and a check that they fit together. Used by either framework.

Source: tensorflow/models, research/audioset/vggish/vggish_slim.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from voxshard.encoders.vggish_frontend import NUM_MEL_BANDS, PATCH_FRAMES
from voxshard.errors import CorruptFileError, MissingWeightsError

CHECKPOINT = "vggish_model.ckpt"
CONVERTED = "vggish.safetensors"
EMBEDDING_SIZE = 128
CONVOLUTIONS = ("conv1", "conv2", "conv3/conv3_1", "conv3/conv3_2", "conv4/conv4_1", "conv4/conv4_2")
"""3 x 3, each followed by a ReLU."""
POOLED = ("conv1", "conv2", "conv3/conv3_2", "conv4/conv4_2")
"""Convolutions that 2 x 2 pooling follows."""
DENSE = ("fc1/fc1_1", "fc1/fc1_2", "fc2")
"""Fully connected; a ReLU after each but the last, whose outputs are the embedding."""

Weights = Mapping[str, npt.NDArray[np.float32]]
"""Variables by name, in the checkpoint's layout: convolutions (height, width, in, out), dense layers (in, out)."""


def kernel_name(layer: str) -> str:
    """Return the name of a layer's weights in the checkpoint."""
    return f"vggish/{layer}/weights"


def bias_name(layer: str) -> str:
    """Return the name of a layer's biases in the checkpoint."""
    return f"vggish/{layer}/biases"


VARIABLES = tuple(name(layer) for layer in (*CONVOLUTIONS, *DENSE) for name in (kernel_name, bias_name))


def check_weights(weights: Weights, path: Path) -> None:
    """Make sure that these are VGGish's variables and fit together; they determine how wide the hidden layers are.

    Raises
    ------
    MissingWeightsError : a variable is missing.
    CorruptFileError : a shape does not follow from the layer before.
    """
    missing = [name for name in VARIABLES if name not in weights]
    if missing:
        found = ", ".join(sorted(weights)[: len(VARIABLES)]) or "nothing"
        raise MissingWeightsError(
            f"{path}: no {', '.join(missing)} in it; found {found}; VGGish consists of {', '.join(VARIABLES)}; is it"
            " another model's file?"
        )
    places = (PATCH_FRAMES >> len(POOLED)) * (NUM_MEL_BANDS >> len(POOLED))  # each pooling halves both
    num_inputs = 1
    for layer in (*CONVOLUTIONS, *DENSE):
        if layer == DENSE[0]:
            num_inputs *= places
        kernel, bias = weights[kernel_name(layer)].shape, weights[bias_name(layer)].shape
        num_outputs = EMBEDDING_SIZE if layer == DENSE[-1] else kernel[-1] if kernel else 0
        wanted = (3, 3, num_inputs, num_outputs) if layer in CONVOLUTIONS else (num_inputs, num_outputs)
        if kernel != wanted or bias != (num_outputs,):
            raise CorruptFileError(
                f"{path}: vggish/{layer} has weights {kernel} and biases {bias}; after the layer before it they would"
                f" be {wanted} and {(num_outputs,)}"
            )
        num_inputs = num_outputs


def read_safetensors(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Read converted weights.

    Raises
    ------
    CorruptFileError : not a safetensors file, or damaged.
    MissingWeightsError : another model's.
    """
    import safetensors
    from safetensors.numpy import load_file

    try:
        weights: dict[str, npt.NDArray[np.float32]] = load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as exc:
        raise CorruptFileError(
            f"{path}: cannot be read as safetensors: {exc}; make it again with `voxshard weights convert vggish`"
        ) from exc
    check_weights(weights, path)
    return weights
