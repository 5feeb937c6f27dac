"""Read variables from a TensorFlow checkpoint, of the first format (one file) or the second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from voxshard.encoders.vggish_weights import VARIABLES
from voxshard.errors import CorruptFileError


def read_checkpoint(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Read the variables of VGGish that a checkpoint contains.

    Raises
    ------
    CorruptFileError : not a checkpoint, or damaged.
    """
    try:
        reader = tf.train.load_checkpoint(str(path))
        names = reader.get_variable_to_shape_map()
        return {name: np.asarray(reader.get_tensor(name), np.float32) for name in VARIABLES if name in names}
    except (tf.errors.OpError, ValueError, RuntimeError, OSError) as exc:
        reason = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
        raise CorruptFileError(
            f"{path}: cannot be read as a TensorFlow checkpoint: {reason}; `voxshard weights fetch vggish` brings it"
            " again"
        ) from exc
