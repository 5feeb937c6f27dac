"""Small TensorFlow models with random weights, in the layouts users download.

`python -m support.tensorflow_models FOLDER NAME...` saves each TRILLsson as a weights folder; for tests of another
environment.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

DIM = 24
"""Embedding size of the small TRILLssons; the published ones have 1024."""


def small_trillsson(*, frame_hop: int = 195, seed: int = 0, after_mean: Any = None, outputs: Any = None) -> Any:
    """The published front end (export_model/tf_frontend.py, tf_pad.py) before a network of one convolution.

    Parameters
    ----------
    after_mean : applied to the mean over windows; None: a dense layer, as in the published models.
    outputs : turns the embeddings into what the model returns; None: {"embedding": embeddings}.
    """
    import tensorflow as tf

    rng = np.random.default_rng(seed)

    class Model(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.mel = tf.constant(_htk_mel_matrix())
            self.kernel = tf.Variable(rng.standard_normal((80 * 5, 40)).astype(np.float32) * 0.05)
            self.dense = tf.Variable(rng.standard_normal((40, DIM)).astype(np.float32) * 0.3)

        def windows(self, samples: Any) -> Any:
            frames = tf.signal.frame(tf.cast(samples, tf.float64), 400, 160)
            time = tf.range(400, dtype=tf.float64)
            hann = 0.5 - 0.5 * tf.cos(2 * np.pi * time / 400)
            mel = tf.matmul(tf.abs(tf.signal.rfft(frames * hann, [512])), self.mel)
            log_mel = tf.cast(tf.math.log(tf.maximum(mel, 1e-12) + 1e-3), tf.float32)
            return tf.signal.frame(log_mel, 195, frame_hop, axis=1)

        @tf.function(input_signature=[tf.TensorSpec((None, None), tf.float32, name="audio_samples")])  # type: ignore[untyped-decorator]
        def __call__(self, audio_samples: Any) -> Any:
            missing = tf.maximum(32_000 - tf.shape(audio_samples)[1], 0)
            while missing > 0:  # mirrors no more than there is at a time
                part = tf.minimum(missing, tf.shape(audio_samples)[1])
                audio_samples = tf.pad(audio_samples, [[0, 0], [0, part]], mode="SYMMETRIC")
                missing -= part
            windows = self.windows(audio_samples)
            shape = tf.shape(windows)
            groups = tf.nn.relu(tf.matmul(tf.reshape(windows, (-1, 400)), self.kernel))
            mean = tf.reduce_mean(tf.reshape(groups, (shape[0], -1, 40)), axis=1)
            embedding = tf.matmul(mean, self.dense)
            if after_mean is not None:
                embedding = after_mean(embedding)
            return {"embedding": embedding} if outputs is None else outputs(embedding)

    return Model()


def _htk_mel_matrix() -> np.ndarray:
    mel = 1127 * np.log1p(np.arange(257) * 31.25 / 700)
    edges = np.linspace(*(1127 * np.log1p(np.array([125.0, 7500.0]) / 700)), 82)
    rising = (mel[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - mel[:, None]) / np.diff(edges)[1:]
    return np.clip(np.minimum(rising, falling), 0, None)


if __name__ == "__main__":
    import tensorflow as tf

    for name in sys.argv[2:]:
        tf.saved_model.save(small_trillsson(), str(Path(sys.argv[1]) / name))
