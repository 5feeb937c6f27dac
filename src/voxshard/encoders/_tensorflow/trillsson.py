"""TRILLsson 1 to 5: a published SavedModel, fed with windows instead of clips."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from numpy.lib.stride_tricks import sliding_window_view

from voxshard.encoders import trillsson as windows
from voxshard.encoders._tensorflow import device as devices
from voxshard.encoders._tensorflow import saved_model
from voxshard.encoders._tensorflow.batches import in_batches
from voxshard.encoders.base import Encoder, EncoderSettings, KnownHashes, Output, describe
from voxshard.encoders.trillsson import TrillssonSettings
from voxshard.encoders.weight_files import hash_files, locate

CODE_VERSION = 1

Embed: TypeAlias = Callable[[tf.Tensor], tf.Tensor]
"""float32 (B, S) to float32 (B, D), row by row."""


class TrillssonEncoder(Encoder):
    """One embedding per utterance (1024), the same numbers as a call of the model with that clip alone.

    `prepare` gives the waveform, mirrored up to two seconds where it is shorter; `encode` takes the waveforms one
    after the other (sum of S,), with their lengths in samples, and cuts them into the windows the model itself would
    cut: each window is embedded, and what a clip gets is the mean of its own. The hop of those windows is not written
    in the folder: `load` finds it by trying, and `loaded` holds it from then on. A model whose clips are not the mean
    of their windows is called with complete clips instead, only those of one length together.
    """

    settings_model = TrillssonSettings
    preparer = staticmethod(windows.pad_to_two_seconds)

    def __init__(self, name: str, settings: EncoderSettings, known_hashes: KnownHashes) -> None:
        assert isinstance(settings, TrillssonSettings)
        folder = locate(name, settings.weights, required=(windows.GRAPH, windows.INDEX))
        self._model = saved_model.inspect(folder, name)
        self._precision = settings.precision
        self._embed: Embed | None = None
        self.loaded: dict[str, int | None] = {}
        self.info = describe(
            name=name,
            settings=settings,
            code_version=CODE_VERSION,
            libraries=["tensorflow"],
            weights_folder=folder,
            weight_files=hash_files(folder, self._model.files, known_hashes),
            requires=("tensorflow",),
            needs_gpu=True,
            sample_rate=windows.SAMPLE_RATE,
            dim=self._model.dim or windows.EMBEDDING_SIZE,
            granularity="utterance",
            batch_policy="windows",
        )

    def choose_device(self, request: str) -> tuple[str, str]:
        return devices.choose(request)

    def load(self, device: str) -> None:
        """Load the SavedModel and find the hop of its windows.

        Raises
        ------
        CorruptFileError, MissingWeightsError : the folder is damaged, or holds another model.
        DeviceUnavailableError : TensorFlow does not see the GPU.
        """
        devices.prepare(device, "float32")
        embed = saved_model.load(self._model, self.info.dim)
        self.loaded = {"frame_hop": find_frame_hop(embed)}
        devices.prepare(device, self._precision)
        self._embed = embed

    def encode(self, features: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]) -> list[Output]:
        assert self._embed is not None, "load() comes before encode()"
        hop = self.loaded["frame_hop"]
        if hop is None:
            embeddings = _embed_clips(self._embed, features, lengths)
        else:
            embeddings = _embed_windows(self._embed, features, lengths, frame_hop=hop, dim=self.info.dim)
        return [{"embedding": embedding} for embedding in embeddings]


def find_frame_hop(embed: Embed) -> int | None:
    """Frames between the windows a model cuts: the published hop at which the mean over windows is what it gives.

    The clip it is tried on has at least two windows at every hop and changes all along, so that no two hops agree.

    Returns
    -------
    The hop; None where the mean over windows is not what the model gives for the clip, at any of them.
    """
    clip = _probe_clip()
    whole = embed(tf.constant(clip[None])).numpy()[0]
    tolerance = 1e-4 * float(np.sqrt(np.mean(np.square(whole, dtype=np.float64))))
    lengths = np.array([len(clip)])
    for hop in windows.PUBLISHED_FRAME_HOPS:
        (mean,) = _embed_windows(embed, clip, lengths, frame_hop=hop, dim=len(whole))
        if np.abs(mean - whole).max() <= tolerance:
            return hop
    return None


def _embed_windows(
    embed: Embed, features: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64], *, frame_hop: int, dim: int
) -> npt.NDArray[np.float32]:
    """Each clip's mean over its windows; windows of all clips share batches, and no more than one batch is copied."""
    starts = [windows.window_starts(int(length), frame_hop) for length in lengths]
    counts = np.array([len(item) for item in starts])
    order = np.concatenate([item + begin for item, begin in zip(starts, _begins(lengths), strict=True)])
    clip_of_window = np.repeat(np.arange(len(lengths)), counts)
    sums = np.zeros((len(lengths), dim))
    for place, embedded in in_batches(embed, sliding_window_view(features, windows.WINDOW_SAMPLES), order):
        np.add.at(sums, clip_of_window[place], embedded)
    return np.asarray(sums / counts[:, None], np.float32)


def _embed_clips(
    embed: Embed, features: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Each clip as a whole, together with those that have its number of samples."""
    begins = _begins(lengths)
    found: dict[int, npt.NDArray[np.float32]] = {}
    for length in np.unique(lengths):
        clips = np.flatnonzero(lengths == length)
        for place, embedded in in_batches(embed, sliding_window_view(features, length), begins[clips]):
            found.update(zip(clips[place].tolist(), embedded, strict=True))
    return np.stack([found[clip] for clip in range(len(lengths))])


def _begins(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    begins: npt.NDArray[np.int64] = np.cumsum(lengths) - lengths
    return begins


def _probe_clip() -> npt.NDArray[np.float32]:
    """3.9 s, like speech in level: a rising tone under noise whose loudness goes up and down."""
    time = np.arange(windows.WINDOW_SAMPLES + windows.WINDOW_FRAMES * windows.FRAME_HOP_SAMPLES) / windows.SAMPLE_RATE
    noise = np.random.default_rng(0).standard_normal(len(time))
    tone = np.sin(2 * np.pi * (120 + 400 * time) * time)
    return ((0.2 * tone + 0.1 * noise) * (0.05 + np.sin(1.3 * time) ** 2)).astype(np.float32)
