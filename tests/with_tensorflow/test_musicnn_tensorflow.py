"""musicnn's networks against the same layers in TensorFlow, and its checkpoints against TensorFlow's reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from support.musicnn import random_weights
from voxshard.encoders import musicnn_network
from voxshard.encoders.musicnn_weights import Weights
from voxshard.encoders.tensor_bundle import read_variables
from voxshard.errors import CorruptFileError


class Layers:
    """Layers of models.py in musicnn 0.1.0, out of TensorFlow's operations."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def norm(self, x: tf.Tensor, number: int) -> tf.Tensor:
        name = f"batch_normalization_{number}" if number else "batch_normalization"
        mean, variance, beta, gamma = (
            self.weights[f"{name}/{part}"] for part in ("moving_mean", "moving_variance", "beta", "gamma")
        )
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-3)

    def convolution(self, x: tf.Tensor, name: str, padding: str) -> tf.Tensor:
        found = tf.nn.conv2d(x, self.weights[f"{name}/kernel"], 1, padding)
        return tf.nn.relu(found + self.weights[f"{name}/bias"])

    def dense(self, x: tf.Tensor, name: str) -> tf.Tensor:
        return x @ self.weights[f"{name}/kernel"] + self.weights[f"{name}/bias"]

    def block(self, x: tf.Tensor, number: int, padding: str = "VALID") -> tf.Tensor:
        name = f"conv2d_{number}" if number else "conv2d"
        return tf.reduce_max(self.norm(self.convolution(x, name, padding), 1 + number), axis=2)


def _musicnn(windows: np.ndarray, weights: Weights) -> dict[str, tf.Tensor]:
    layers = Layers(weights)
    pad = [[0, 0], [3, 3], [0, 0], [0, 0]]
    image = layers.norm(windows[..., None], 0)
    timbral = tf.concat([layers.block(tf.pad(image, pad), number) for number in (0, 1)], 2)
    temporal = tf.concat([layers.block(image, number, "SAME") for number in (2, 3, 4)], 2)
    parts = [tf.concat([timbral, temporal], 2)]
    for number in (5, 6, 7):
        found = layers.block(tf.pad(parts[-1][..., None], pad), number)
        parts.append(found if number == 5 else found + parts[-1])
    features = tf.concat(parts, 2)
    max_pool, mean_pool = tf.reduce_max(features, 1), tf.reduce_mean(features, 1)
    flat = layers.norm(tf.reshape(tf.stack([max_pool, mean_pool], 2), [len(windows), -1]), 9)
    penultimate = layers.norm(tf.nn.relu(layers.dense(flat, "dense")), 10)
    taggram = tf.sigmoid(layers.dense(penultimate, "dense_1"))
    names = ["timbral", "temporal", "cnn1", "cnn2", "cnn3", "max_pool", "mean_pool", "penultimate", "taggram"]
    return dict(zip(names, (timbral, temporal, *parts[1:], max_pool, mean_pool, penultimate, taggram), strict=True))


def _vgg(windows: np.ndarray, weights: Weights) -> dict[str, tf.Tensor]:
    layers = Layers(weights)
    image = layers.norm(windows[..., None], 0)
    for number, (size, step) in enumerate([([4, 1], 2), (2, 2), (2, 2), (2, 2), (4, 4)], 1):
        image = layers.norm(layers.convolution(image, f"{number}CNN", "SAME"), number)
        image = tf.nn.max_pool2d(image, size, step, "VALID")
    pool5 = tf.reshape(image, [len(windows), -1])
    return {"pool5": pool5, "taggram": tf.sigmoid(layers.dense(pool5, "dense"))}


@pytest.mark.parametrize(
    ("model", "reference", "network"),
    [("MSD_musicnn", _musicnn, musicnn_network.musicnn), ("MTT_vgg", _vgg, musicnn_network.vgg)],
)
def test_every_output_equals_tensorflows(model: str, reference, network) -> None:  # type: ignore[no-untyped-def]
    weights = random_weights(model)
    windows = np.random.default_rng(1).random((2, 187, 96), np.float32) * 3
    expected = reference(windows, weights)
    for row, window in enumerate(windows):
        found = network(window, weights)
        assert found.keys() == expected.keys()
        for name, values in found.items():
            np.testing.assert_allclose(values, expected[name][row], atol=2e-5, rtol=1e-4, err_msg=name)


def test_a_checkpoint_of_several_blocks_is_read_as_tensorflow_wrote_it(tmp_path: Path) -> None:
    """The index spans several blocks, and its keys share long beginnings."""
    rng = np.random.default_rng(0)
    arrays = {f"layer/{number:03}/kernel": rng.random((number % 5 + 1, 3), np.float32) for number in range(400)}
    names, prefix = [*arrays, "scalar", "step"], str(tmp_path / "model")
    values = [*arrays.values(), np.float32(0.5), np.int64(7)]
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=values)
    index, data = (Path(prefix + suffix).read_bytes() for suffix in (".index", ".data-00000-of-00001"))
    found = read_variables(index, data, where="model")
    assert found.keys() == {*arrays, "scalar"}
    assert found["scalar"] == 0.5
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    with pytest.raises(CorruptFileError, match=r"model: .* reaches beyond the data"):
        read_variables(index, data[:-100], where="model")
