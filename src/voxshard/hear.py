"""Any encoder as a module of the HEAR API (https://hearbenchmark.com/hear-api.html); needs PyTorch.

`load_model` takes the name of an encoder (``mfcc``), or a YAML file with its name and settings (``name: hf``,
``weights: FOLDER``). An encoder with frames gives them at the middle of each frame's hop. Of one without, windows of
one second around every 50 ms are embedded.

Suffixes: B sounds, S samples, T timestamps, D embedding size.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from voxshard.api import load_encoder
from voxshard.config import load_yaml
from voxshard.encoders import registry
from voxshard.errors import BackendUnavailableError, ConfigError
from voxshard.extraction.loaded_encoder import LoadedEncoder

HOP_MS = 50.0
"""Milliseconds between timestamps of encoders without frames, as HEAR suggests."""
WINDOW_S = 1.0
_Array = npt.NDArray[np.float32]


def load_model(model_file_path: str = "") -> Any:
    """Load an encoder as a PyTorch module with the attributes of the HEAR API.

    Parameters
    ----------
    model_file_path : name of an encoder, or a YAML file with `name` and settings; empty: mfcc.

    Raises
    ------
    ConfigError : no such encoder or file, or wrong settings.
    BackendUnavailableError : PyTorch or what the encoder needs is not installed.
    """
    name, settings = _chosen(model_file_path or "mfcc")
    try:
        model_class = importlib.import_module("voxshard.encoders._torch.hear").HearModel
    except ModuleNotFoundError as exc:
        if exc.name != "torch":
            raise
        raise BackendUnavailableError("voxshard.hear needs torch: `pip install 'voxshard[torch]'`") from exc
    scene = load_encoder(name, **settings)
    if scene.info.granularity != "utterance" or scene.info.num_layers is not None:
        raise ConfigError(f"{model_file_path}: {name} gives {scene!r}; a scene is one vector per recording")
    frames: LoadedEncoder | None = None
    if "pooling" in registry.settings_model(name).model_fields:
        frames = load_encoder(name, **{**settings, "pooling": "none"})
    has_rate = frames is not None and frames.info.granularity == "frames" and frames.info.frame_rate_hz is not None
    return model_class(
        sample_rate=scene.info.sample_rate,
        scene_embedding_size=scene.info.dim,
        timestamp_embedding_size=frames.info.dim if frames is not None and has_rate else scene.info.dim,
        scenes=lambda audio_BS: np.stack(_embed(scene, audio_BS)),
        timestamps=lambda audio_BS: _frames(frames, audio_BS) if frames and has_rate else _windows(scene, audio_BS),
    )


def get_scene_embeddings(audio: Any, model: Any) -> Any:
    """Embed every sound as one vector.

    Parameters
    ----------
    audio : tensor (B, S) in [-1, 1] at `model.sample_rate`.

    Returns
    -------
    float32 tensor (B, D).
    """
    return model.scene_embeddings(audio)


def get_timestamp_embeddings(audio: Any, model: Any) -> tuple[Any, Any]:
    """Embed every sound at regular times.

    Parameters
    ----------
    audio : tensor (B, S) in [-1, 1] at `model.sample_rate`.

    Returns
    -------
    float32 tensor (B, T, D), and the times in milliseconds (B, T).
    """
    return cast(tuple[Any, Any], model.timestamp_embeddings(audio))


def _chosen(model: str) -> tuple[str, dict[str, Any]]:
    path = Path(model)
    if path.suffix not in (".yaml", ".yml"):
        return model, {}
    content = load_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get("name"), str):
        raise ConfigError(f"{path}: expected `name: ENCODER` and its settings")
    return content.pop("name"), content


def _embed(encoder: LoadedEncoder, audio_BS: _Array) -> list[Any]:
    return encoder.embed(list(audio_BS), sample_rate=encoder.info.sample_rate)


def _frames(encoder: LoadedEncoder, audio_BS: _Array) -> tuple[_Array, _Array]:
    frames_BTD = np.stack(_embed(encoder, audio_BS))
    hop_ms = 1000 / cast(float, encoder.info.frame_rate_hz)
    return frames_BTD, ((np.arange(frames_BTD.shape[1]) + 0.5) * hop_ms).astype(np.float32)


def _windows(encoder: LoadedEncoder, audio_BS: _Array) -> tuple[_Array, _Array]:
    rate = encoder.info.sample_rate
    window = max(round(WINDOW_S * rate), encoder.info.min_samples)
    num_times = 1 + int(audio_BS.shape[1] / rate * 1000 / HOP_MS)
    times_T = np.arange(num_times) * HOP_MS
    padded_BS = np.pad(audio_BS, ((0, 0), (window // 2, window)))
    starts = np.round(times_T / 1000 * rate).astype(int)
    cut = [sound[start : start + window] for sound in padded_BS for start in starts]
    rows = encoder.embed(cut, sample_rate=rate)
    return np.stack(rows).reshape(len(audio_BS), num_times, -1), times_T.astype(np.float32)
