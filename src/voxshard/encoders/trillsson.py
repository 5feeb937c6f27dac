"""Settings and windows of TRILLsson: the parts that need no TensorFlow.

The published graphs pad a clip that is shorter than two seconds symmetrically, cut its log-mel frames into windows of
195, embed every window, and average. The same done on the waveform gives the same numbers, and lets the windows of
many utterances share a batch without any of them seeing another or any padding.

Sources: arXiv 2203.00236; google-research/non_semantic_speech_benchmark: trillsson/frontend_lib.py,
export_model/tf_frontend.py (frames, windows) and export_model/tf_pad.py (padding).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from voxshard.encoders.base import EncoderSettings, Features, Waveform

SAMPLE_RATE = 16_000
LEAST_SAMPLES = 32_000
"""Shorter clips are padded symmetrically to two seconds (tf_pad.py)."""
FRAME_SAMPLES = 400
FRAME_HOP_SAMPLES = 160
WINDOW_FRAMES = 195
"""Log-mel frames the network sees at once (frontend_lib.py)."""
WINDOW_SAMPLES = FRAME_SAMPLES + (WINDOW_FRAMES - 1) * FRAME_HOP_SAMPLES
"""31,440 samples, 1.965 s: what 195 frames cover."""
PUBLISHED_FRAME_HOPS = (195, 17, 7)
"""Frames from one window to the next: a flag of the export. Its library's default, the flag's default, and what a
port of model 3 uses; which of them a folder was exported with is not written anywhere."""
EMBEDDING_SIZE = 1024
GRAPH = "saved_model.pb"
INDEX = "variables/variables.index"


class TrillssonSettings(EncoderSettings):
    """Settings of `trillsson1` to `trillsson5`."""

    weights: str | None = None
    """SavedModel folder; null: `$VOXSHARD_WEIGHTS/<encoder>`."""
    precision: Literal["float32", "tf32"] = "float32"
    """Arithmetic of the model; the published graphs are float32, tf32 lets a GPU's matrix units round their inputs."""

    @classmethod
    def weight_files(cls, folder: Path) -> list[str]:
        data = sorted(path.relative_to(folder).as_posix() for path in folder.glob("variables/variables.data-*"))
        return [GRAPH, INDEX, *data]


def pad_to_two_seconds(waveform: Waveform) -> Features:
    """Mirror a clip at its ends until it has two seconds, as the published graphs do; longer ones stay as they are.

    Parameters
    ----------
    waveform : float32 (S,), S >= 1.

    Returns
    -------
    float32 (max(S, 32000),).
    """
    missing = LEAST_SAMPLES - len(waveform)
    return np.pad(waveform, (0, missing), mode="symmetric") if missing > 0 else waveform


def window_starts(num_samples: int, frame_hop: int) -> npt.NDArray[np.int64]:
    """Return the first sample of every window of a padded clip; a trailing part of a window is dropped.

    Parameters
    ----------
    num_samples : length of the clip, at least 31,440.
    frame_hop : frames from one window to the next.
    """
    num_frames = 1 + (num_samples - FRAME_SAMPLES) // FRAME_HOP_SAMPLES
    return np.arange(0, num_frames - WINDOW_FRAMES + 1, frame_hop, dtype=np.int64) * FRAME_HOP_SAMPLES
