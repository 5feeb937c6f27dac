"""Weights out of TensorFlow's formats, once, so that PyTorch can use them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.numpy
import tensorflow as tf

from voxshard import __version__, files
from voxshard.encoders._tensorflow.variables import read_checkpoint
from voxshard.encoders.vggish_weights import CONVERTED, check_weights


def convert_vggish(checkpoint: Path, folder: Path | None = None) -> Path:
    """Turn `vggish_model.ckpt` into `vggish.safetensors`: the same variables, under the same names, in the same layout.

    Next to it, `vggish.safetensors.json` describes what it was made of.

    Parameters
    ----------
    checkpoint : the downloaded file.
    folder : where to write; by default next to the checkpoint.

    Returns
    -------
    The file written.

    Raises
    ------
    CorruptFileError, MissingWeightsError : the checkpoint is damaged, or another model's; nothing is written.
    """
    weights = read_checkpoint(checkpoint)
    check_weights(weights, checkpoint)
    target = (folder or checkpoint.parent) / CONVERTED
    target.parent.mkdir(parents=True, exist_ok=True)
    content = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in weights.items()})
    files.publish_bytes(target, content)
    made_of = {
        "source": checkpoint.name,
        "source_sha256": files.sha256_of(checkpoint),
        "sha256": files.sha256_of(target),
        "variables": {name: list(array.shape) for name, array in weights.items()},
        "voxshard": __version__,
        "tensorflow": tf.__version__,
    }
    files.publish_json(target.with_name(f"{target.name}.json"), made_of)
    return target
