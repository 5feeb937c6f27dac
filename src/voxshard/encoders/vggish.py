"""VGGish: 128 numbers for every 0.96 s, from TensorFlow or from PyTorch, whichever the weights' folder is for.

Suffixes: P patches (windows), D embedding size.

Sources: tensorflow/models, research/audioset/vggish: vggish_slim.py, vggish_postprocess.py, vggish_params.py.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from voxshard.encoders.base import Encoder, EncoderSettings, KnownHashes, Output, describe
from voxshard.encoders.vggish_frontend import PATCH_S, PATCH_SAMPLES, SAMPLE_RATE, log_mel_patches
from voxshard.encoders.vggish_weights import CHECKPOINT, CONVERTED, EMBEDDING_SIZE
from voxshard.encoders.weight_files import hash_files, locate
from voxshard.errors import BackendUnavailableError, CorruptFileError, MissingWeightsError

CODE_VERSION = 1
PCA_PARAMETERS = "vggish_pca_params.npz"
QUANTIZE_MIN, QUANTIZE_MAX = -2.0, 2.0
"""What post-processing clips to before it makes 8 bits of it (vggish_params.py)."""


class VggishSettings(EncoderSettings):
    """Settings of `vggish`."""

    weights: str | None = None
    """Folder with vggish.safetensors or vggish_model.ckpt, or one of these files; null: `$VOXSHARD_WEIGHTS/vggish`."""
    activation: Literal["none", "relu"] = "none"
    """What follows the last layer: the 2017 release ended in a ReLU, those since 2020 give the plain values."""
    postprocess: bool = False
    """PCA and 8-bit quantisation as in the embeddings that AudioSet was released with: integers 0 to 255, from
    vggish_pca_params.npz next to the weights."""
    precision: Literal["float32", "tf32"] = "float32"
    """Arithmetic of the network; tf32 lets a GPU's matrix units round their inputs."""

    @classmethod
    def weight_files(cls, folder: Path) -> list[str]:
        return [weights_file(folder).name]


class VggishEncoder(Encoder):
    """Windows of 0.96 s, float32 (P, 128) per utterance; a recording too short for one is a failure.

    The weights decide where the network runs: `vggish_model.ckpt`, as downloaded, is read by TensorFlow;
    `vggish.safetensors`, converted from it, by PyTorch, or by TensorFlow where there is no PyTorch.
    """

    settings_model = VggishSettings
    preparer = staticmethod(log_mel_patches)

    def __init__(self, name: str, settings: EncoderSettings, known_hashes: KnownHashes) -> None:
        assert isinstance(settings, VggishSettings)
        self.settings = settings
        self._path = weights_file(locate(name, settings.weights))
        framework = _framework_for(self._path)
        self._backend = importlib.import_module(f"voxshard.encoders._{framework}.vggish")
        self._network: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]] | None = None
        folder, used = self._path.parent, [self._path.name]
        self._postprocess = PostProcessor(folder / PCA_PARAMETERS) if settings.postprocess else None
        if settings.postprocess:
            used.append(PCA_PARAMETERS)
        self.info = describe(
            name=name,
            settings=settings,
            code_version=CODE_VERSION,
            libraries=[framework],
            weights_folder=folder,
            weight_files=hash_files(folder, used, known_hashes),
            requires=(framework,),
            needs_gpu=True,
            sample_rate=SAMPLE_RATE,
            dim=EMBEDDING_SIZE,
            granularity="windows",
            batch_policy="windows",
            min_samples=PATCH_SAMPLES,
            window_s=PATCH_S,
            hop_s=PATCH_S,
        )

    def choose_device(self, request: str) -> tuple[str, str]:
        chosen: tuple[str, str] = self._backend.choose_device(request)
        return chosen

    def load(self, device: str) -> None:
        """Load the network.

        Raises
        ------
        CorruptFileError, MissingWeightsError : the file is damaged, or holds another model.
        """
        self._network = self._backend.load_network(self._path, device, self.settings.precision)

    def encode(self, features: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]) -> list[Output]:
        assert self._network is not None, "load() comes before encode()"
        embeddings_PD = self._network(features)
        if self.settings.activation == "relu":
            embeddings_PD = np.maximum(embeddings_PD, 0.0)
        if self._postprocess is not None:
            embeddings_PD = self._postprocess(embeddings_PD)
        return [{"frames": part.copy()} for part in np.split(embeddings_PD, np.cumsum(lengths)[:-1])]

    def cost(self, length: int) -> float:
        return length * PATCH_S


class PostProcessor:
    """PCA and quantisation of the released AudioSet embeddings (vggish_postprocess.py)."""

    def __init__(self, path: Path) -> None:
        """
        Parameters
        ----------
        path : `vggish_pca_params.npz`: pca_eigen_vectors (128, 128) and pca_means (128, 1).

        Raises
        ------
        MissingWeightsError : it does not exist.
        CorruptFileError : it holds something else.
        """
        shapes = {"pca_eigen_vectors": (EMBEDDING_SIZE, EMBEDDING_SIZE), "pca_means": (EMBEDDING_SIZE, 1)}
        found: dict[str, npt.NDArray[Any]] = {}
        try:
            with np.load(path, allow_pickle=False) as stored:
                found = {name: stored[name] for name in stored.files}
        except FileNotFoundError as exc:
            raise MissingWeightsError(
                f"{path}: missing, and `postprocess` needs it; `voxshard weights fetch vggish` brings it"
            ) from exc
        except (OSError, ValueError, EOFError, AttributeError) as exc:
            raise CorruptFileError(f"{path}: not an npz of arrays: {exc}; fetch it again") from exc
        if any(name not in found or found[name].shape != shape for name, shape in shapes.items()):
            listed = ", ".join(f"{name} {array.shape}" for name, array in found.items()) or "nothing"
            wanted = " and ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise CorruptFileError(f"{path}: holds {listed}; expected {wanted}")
        self._eigenvectors_DD = found["pca_eigen_vectors"].astype(np.float64)
        self._means_D = found["pca_means"][:, 0].astype(np.float64)

    def project(self, embeddings_PD: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Project embeddings on the axes of the PCA, float64 (P, D), not yet clipped."""
        projected_PD: npt.NDArray[np.float64] = (embeddings_PD - self._means_D) @ self._eigenvectors_DD.T
        return projected_PD

    def __call__(self, embeddings_PD: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Embeddings as integers from 0 to 255, cut off, not rounded, as in the original; float32 (P, D)."""
        clipped_PD = np.clip(self.project(embeddings_PD), QUANTIZE_MIN, QUANTIZE_MAX)
        scaled_PD = (clipped_PD - QUANTIZE_MIN) * (255.0 / (QUANTIZE_MAX - QUANTIZE_MIN))
        return np.floor(scaled_PD).astype(np.float32)


def weights_file(found: Path) -> Path:
    if found.is_file():
        return found
    for name in (CONVERTED, CHECKPOINT):
        if (found / name).is_file():
            return found / name
    raise MissingWeightsError(
        f"{found}: neither {CHECKPOINT} nor {CONVERTED} in this folder; `voxshard weights fetch vggish` brings the"
        " first, `voxshard weights convert vggish` makes the second of it"
    )


def _framework_for(path: Path) -> Literal["torch", "tensorflow"]:
    if path.suffix == ".safetensors" and _is_installed("torch"):
        return "torch"
    if _is_installed("tensorflow"):
        return "tensorflow"
    if path.suffix == ".safetensors":
        raise BackendUnavailableError(
            f"{path}: needs torch or tensorflow, neither is installed in this environment; run it where one of them is"
            " (`runtime:` venv or image), or `pip install 'voxshard[torch]'`"
        )
    raise BackendUnavailableError(
        f"{path}: a TensorFlow checkpoint, and tensorflow is not installed in this environment; run it where it is"
        " (`runtime:` venv or image), or convert it there once, for PyTorch: `voxshard weights convert vggish`"
    )


def _is_installed(framework: str) -> bool:
    spec = importlib.util.find_spec(framework)
    return spec is not None and spec.origin is not None  # a mere folder of that name on the path has no origin
