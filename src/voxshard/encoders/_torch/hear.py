"""HEAR in both directions: a module of the HEAR API as an encoder, and the model that `voxshard.hear` gives out.

Suffixes: B utterances, S samples, T timestamps, D embedding size.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from voxshard.encoders._torch.base import TensorOutput, TorchEncoder
from voxshard.encoders.base import KnownHashes, describe
from voxshard.encoders.hear import HearSettings, distribution_of
from voxshard.encoders.weight_files import hash_files, locate
from voxshard.errors import BackendUnavailableError, ConfigError

_CODE_VERSION = 1
_PROBE_S = (2.0, 4.0)
"""Two lengths of silence whose numbers of timestamps give the frame rate."""
API = ("load_model", "get_scene_embeddings", "get_timestamp_embeddings")


class HearEncoder(TorchEncoder):
    """A PyTorch module of the HEAR API, one recording at a time unless equal lengths are allowed to share a call."""

    settings_model = HearSettings
    settings: HearSettings

    def __init__(self, name: str, settings: HearSettings, known_hashes: KnownHashes) -> None:
        self.settings = settings
        self._module = _imported(settings.module)
        place = locate(name, settings.weights) if settings.weights is not None else None
        self._model = self._load_model(place)
        sizes = "scene_embedding_size" if settings.embedding == "scene" else "timestamp_embedding_size"
        sample_rate, dim = (self._attribute(attribute) for attribute in ("sample_rate", sizes))
        self._rate = sample_rate
        folder = place if place is None or place.is_dir() else place.parent
        used = [] if place is None else settings.weight_files(place) if place.is_dir() else [place.name]
        keeps_frames = settings.embedding == "timestamps"
        self.info = describe(
            name=name,
            settings=settings,
            code_version=_CODE_VERSION,
            libraries=("torch", *distribution_of(str(settings.module))),
            weights_folder=folder,
            weight_files=() if folder is None else hash_files(folder, used, known_hashes),
            requires=("torch", str(settings.module).partition(".")[0]),
            needs_gpu=True,
            sample_rate=sample_rate,
            dim=dim,
            granularity="frames" if keeps_frames else "utterance",
            frame_rate_hz=self._frame_rate() if keeps_frames else None,
            batch_policy=settings.batch,
        )

    def build(self) -> torch.nn.Module:
        return self._model

    def forward(self, features_BL: torch.Tensor, lengths_B: npt.NDArray[np.int64]) -> dict[str, TensorOutput]:
        """Return "embedding" (B, D), or "frames" (B, T, D) with their number."""
        if self.settings.embedding == "scene":
            return {"embedding": self._checked(self._module.get_scene_embeddings(features_BL, self._model), 2)}
        frames_BTD, _ = self._module.get_timestamp_embeddings(features_BL, self._model)
        counts_B = torch.full((len(frames_BTD),), frames_BTD.shape[1], device=frames_BTD.device)
        return {"frames": self._checked(frames_BTD, 3), "num_frames": counts_B}

    def cost(self, length: int) -> float:
        return length / self._rate

    def _load_model(self, place: Path | None) -> torch.nn.Module:
        model = self._module.load_model() if place is None else self._module.load_model(str(place))
        if not isinstance(model, torch.nn.Module):
            raise BackendUnavailableError(
                f"module={self.settings.module}: load_model gives a {type(model).__name__}; only PyTorch"
                " modules run here"
            )
        return model

    def _attribute(self, name: str) -> int:
        value = getattr(self._model, name, None)
        if not isinstance(value, int) or value < 1:
            raise ConfigError(
                f"module={self.settings.module}: the model's {name} is {value!r}; the HEAR API asks for an int"
            )
        return value

    def _checked(self, found: Any, num_axes: int) -> torch.Tensor:
        if not isinstance(found, torch.Tensor) or found.ndim != num_axes or found.shape[-1] != self.info.dim:
            shape = tuple(getattr(found, "shape", ()))
            raise ConfigError(
                f"module={self.settings.module}: its {self.settings.embedding} embeddings have shape {shape}; its model"
                f" promises {num_axes} axes with {self.info.dim} numbers on the last"
            )
        return found

    def _frame_rate(self) -> float | None:
        counts = []
        for seconds in _PROBE_S:
            silence_BS = torch.zeros((1, round(seconds * self._rate)))
            with torch.inference_mode():
                counts.append(self._module.get_timestamp_embeddings(silence_BS, self._model)[0].shape[1])
        return (counts[1] - counts[0]) / (_PROBE_S[1] - _PROBE_S[0]) or None


def _imported(name: str | None) -> Any:
    if name is None:
        raise ConfigError("hear needs a module of the HEAR API: `--set module=NAME`")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] != name.partition(".")[0]:
            raise
        raise BackendUnavailableError(
            f"module={name}: not installed in this environment; `pip install` the package that holds it"
        ) from exc
    missing = [function for function in API if not callable(getattr(module, function, None))]
    if missing:
        raise ConfigError(f"module={name}: has no {', '.join(missing)}; the HEAR API asks for {', '.join(API)}")
    return module


class HearModel(torch.nn.Module):  # type: ignore[misc]  # torch is Any where it is not installed
    """What `voxshard.hear.load_model` gives: the attributes that the HEAR API asks for, and the two functions."""

    def __init__(
        self,
        *,
        sample_rate: int,
        scene_embedding_size: int,
        timestamp_embedding_size: int,
        scenes: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]],
        timestamps: Callable[[npt.NDArray[np.float32]], tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]],
    ) -> None:
        """
        Parameters
        ----------
        scenes : float32 (B, S) to float32 (B, D).
        timestamps : float32 (B, S) to float32 (B, T, D) and times in milliseconds (T,).
        """
        super().__init__()
        self.sample_rate = sample_rate
        self.scene_embedding_size = scene_embedding_size
        self.timestamp_embedding_size = timestamp_embedding_size
        self._scenes, self._timestamps = scenes, timestamps

    def scene_embeddings(self, audio_BS: torch.Tensor) -> torch.Tensor:
        """Return float32 (B, D), on the device of the audio."""
        return torch.from_numpy(self._scenes(_samples(audio_BS))).to(audio_BS.device)

    def timestamp_embeddings(self, audio_BS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return float32 (B, T, D) and times in milliseconds (B, T), on the device of the audio."""
        frames_BTD, times_T = self._timestamps(_samples(audio_BS))
        times_BT = torch.from_numpy(times_T).expand(len(frames_BTD), -1)
        return torch.from_numpy(frames_BTD).to(audio_BS.device), times_BT.to(audio_BS.device)


def _samples(audio_BS: torch.Tensor) -> npt.NDArray[np.float32]:
    return np.asarray(audio_BS.detach().cpu().float().numpy())
