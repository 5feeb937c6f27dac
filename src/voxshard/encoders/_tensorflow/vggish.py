"""VGGish in TensorFlow: the checkpoint as downloaded, or converted, as one plain function without slim."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from voxshard.encoders._tensorflow import device as devices
from voxshard.encoders._tensorflow.batches import in_batches
from voxshard.encoders._tensorflow.variables import read_checkpoint
from voxshard.encoders.base import Precision
from voxshard.encoders.vggish_frontend import NUM_MEL_BANDS, PATCH_FRAMES
from voxshard.encoders.vggish_weights import (
    CONVOLUTIONS,
    DENSE,
    EMBEDDING_SIZE,
    POOLED,
    Weights,
    bias_name,
    check_weights,
    kernel_name,
    read_safetensors,
)

choose_device = devices.choose


def load_network(
    path: Path, device: str, precision: Precision
) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    """Build the network on a device.

    Parameters
    ----------
    path : vggish_model.ckpt or vggish.safetensors.

    Returns
    -------
    Function from float32 (P, 96, 64) patches to float32 (P, 128) embeddings before any activation.

    Raises
    ------
    CorruptFileError, MissingWeightsError : the file is damaged, or another model's.
    """
    devices.prepare(device, precision)
    if path.suffix == ".safetensors":
        weights: Weights = read_safetensors(path)
    else:
        weights = read_checkpoint(path)
        check_weights(weights, path)
    network = _network(weights)

    def embed(patches: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        embeddings = np.empty((len(patches), EMBEDDING_SIZE), np.float32)
        for place, embedded in in_batches(network, patches, np.arange(len(patches))):
            embeddings[place] = embedded
        return embeddings

    return embed


def _network(weights: Weights) -> Callable[[tf.Tensor], tf.Tensor]:
    variables = {name: tf.Variable(array, trainable=False) for name, array in weights.items()}

    @tf.function(input_signature=[tf.TensorSpec((None, PATCH_FRAMES, NUM_MEL_BANDS), tf.float32)])  # type: ignore[untyped-decorator]
    def network(patches: tf.Tensor) -> tf.Tensor:
        hidden = patches[..., tf.newaxis]
        for layer in CONVOLUTIONS:
            hidden = tf.nn.conv2d(hidden, variables[kernel_name(layer)], strides=1, padding="SAME")
            hidden = tf.nn.relu(hidden + variables[bias_name(layer)])
            if layer in POOLED:
                hidden = tf.nn.max_pool2d(hidden, 2, 2, padding="SAME")
        hidden = tf.reshape(hidden, (tf.shape(hidden)[0], -1))
        for layer in DENSE:
            hidden = tf.matmul(hidden, variables[kernel_name(layer)]) + variables[bias_name(layer)]
            if layer != DENSE[-1]:
                hidden = tf.nn.relu(hidden)
        return hidden

    return network  # type: ignore[no-any-return]
