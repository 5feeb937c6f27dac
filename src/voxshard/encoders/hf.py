"""Settings, preparers and files of the `hf` encoder; no framework is imported here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeAlias

import numpy as np
from pydantic import BeforeValidator, Field

from voxshard import files
from voxshard.encoders.base import EncoderSettings, Features, Waveform
from voxshard.encoders.filterbanks import HOP_SAMPLES, SeamlessFeatures
from voxshard.encoders.pooling import Pooling
from voxshard.encoders.weight_files import check_links, check_no_pointer, locate
from voxshard.errors import ConfigError, CorruptFileError, MissingWeightsError

MASKED_TYPES = (
    "wav2vec2",
    "hubert",
    "wavlm",
    "data2vec-audio",
    "unispeech",
    "unispeech-sat",
    "wav2vec2-conformer",
    "wav2vec2-bert",
)
"""The `model_type` values of config.json whose padding is masked; networks can be trained on top of these."""
CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"
"""File in which transformers 5 keeps the same settings, under `feature_extractor`, if a processor is saved."""
CHECKPOINTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Checkpoint files in the order in which transformers looks for them; an index names the files of a model saved in
several."""


_EXTRACTOR = "feature_extractor"
_OTHER_CHECKPOINTS = (".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".bin", ".safetensors")


def _checked_layer(value: Any) -> Any:
    items = list(value) if isinstance(value, list | tuple) else [value]
    for item in items:
        if item != "last" and (isinstance(item, bool) or not isinstance(item, int) or item < 0):
            raise ValueError("a layer is 0 (input of the first layer), 1, 2, ... or `last`; or give a list of them")
    if not items:
        raise ValueError("the list of layers is empty")
    return tuple(items) if isinstance(value, list | tuple) else value


Layer: TypeAlias = int | str
LayerChoice: TypeAlias = Annotated[Layer | tuple[Layer, ...], BeforeValidator(_checked_layer)]


class HfSettings(EncoderSettings):
    """Settings of `hf`."""

    weights: str | None = None
    """Folder with config.json, preprocessor_config.json (or processor_config.json) and the model; or `org/name`, looked
    up as $VOXSHARD_WEIGHTS/hf/org/name, then in the hub's cache ($HF_HUB_CACHE, $HF_HOME/hub)."""
    layer: LayerChoice = "last"
    """0 is the input of the first layer, n the output of the n-th; `last` is last_hidden_state. A list of L gives
    (L, D) per utterance. Layers above the highest one asked for are not computed. Codecs and models of fixed windows
    other than Whisper's have one output: `last`."""
    pooling: Pooling | None = None
    """Over the valid frames of each utterance; `none` keeps the frames, or the windows of models of fixed windows.
    Null: `none` for codecs, `mean` for all others."""
    codes: bool = True
    """Store a codec's tokens next to its frames, (T, number of codebooks); other models have none."""
    chunk_seconds: float | None = Field(60.0, ge=1.0)
    """Longer clips are embedded in pieces of about this many seconds: attention costs the square of the length.
    Null: never cut."""

    @classmethod
    def weight_files(cls, folder: Path) -> list[str]:
        return model_files(folder)


@dataclass(frozen=True)
class ZeroMeanUnitVariance:
    """Normalise one waveform as transformers' Wav2Vec2FeatureExtractor does with `do_normalize`."""

    def __call__(self, waveform: Waveform) -> Features:
        """Convert float32 (S,) to float32 (S,) of mean 0 and variance 1; silence stays (near) zero."""
        return np.asarray((waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7), np.float32)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that contains one object.

    Raises
    ------
    MissingWeightsError : it is a pointer of Git LFS.
    CorruptFileError : it does not hold an object.
    """
    check_no_pointer(path)
    try:
        content = json.loads(files.read_bytes(path))
    except (ValueError, RecursionError) as exc:
        raise CorruptFileError(f"{path}: not valid JSON ({exc}); fetch the file again") from exc
    if not isinstance(content, dict):
        raise CorruptFileError(f"{path}: holds a JSON {type(content).__name__}, not an object; fetch the file again")
    return content


def files_of_index(path: Path) -> list[str]:
    """Return the names of the files in the index of a model in several files.

    Raises
    ------
    CorruptFileError : not such an index, or a name that leads out of its folder.
    """
    names = read_json(path).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise CorruptFileError(f"{path}: not the index of a model in several files: no weight_map of names")
    for name in names.values():
        inside = PurePosixPath(name)
        if not name or "\0" in name or inside.is_absolute() or ".." in inside.parts:
            raise CorruptFileError(f"{path}: names the file {name!r}, which is outside the model's folder")
    return sorted(set(names.values()))


def preprocessor_file(folder: Path) -> str:
    """Return the name of the file with the settings of a model's feature extractor.

    Raises
    ------
    MissingWeightsError : there is none, as in the checkpoints of a Trainer; names the file and where to copy it from.
    """
    if (folder / PREPROCESSOR).exists():
        return PREPROCESSOR
    check_links(folder, (PREPROCESSOR, PROCESSOR))
    if (folder / PROCESSOR).exists() and isinstance(read_json(folder / PROCESSOR).get(_EXTRACTOR), dict):
        return PROCESSOR
    parent = read_json(folder / CONFIG).get("_name_or_path") if (folder / CONFIG).exists() else None
    source = f"{parent!r}, which it was trained from" if parent else "the model that it was trained from"
    raise MissingWeightsError(
        f"{folder}: no {PREPROCESSOR}, nor a {PROCESSOR} with a {_EXTRACTOR}; a Trainer's checkpoint has none unless "
        f"the processor is saved with it: copy {PREPROCESSOR} from the folder of {source} into this one"
    )


def read_preprocessor(folder: Path) -> dict[str, Any]:
    """Return the settings of a model's feature extractor.

    Raises
    ------
    MissingWeightsError, CorruptFileError : see `preprocessor_file` and `read_json`.
    """
    name = preprocessor_file(folder)
    content = read_json(folder / name)
    if name == PREPROCESSOR:
        return content
    settings: dict[str, Any] = content[_EXTRACTOR]
    return settings


def model_files(folder: Path) -> list[str]:
    """Return the names of the files that loading a model from `folder` opens.

    Raises
    ------
    MissingWeightsError : there is no checkpoint, or its index names files that do not exist.
    """
    found = next((name for name in CHECKPOINTS if (folder / name).exists()), None)
    if found is None:
        check_links(folder, CHECKPOINTS)
        inside = sorted(path.name for path in folder.glob("checkpoint-*"))
        others = sorted(path.name for path in folder.glob("*") if path.suffix in _OTHER_CHECKPOINTS)
        hint = f"it has {', '.join(inside)}: give one of these folders" if inside else "fetch it again"
        if others and not inside:
            hint = f"{', '.join(others[:5])} in it is not read: save the model with transformers' save_pretrained"
        raise MissingWeightsError(f"{folder}: no model in this folder; looked for {', '.join(CHECKPOINTS)}; {hint}")
    names = [CONFIG, preprocessor_file(folder), found]
    if found.endswith(".index.json"):
        parts = files_of_index(folder / found)
        missing = [name for name in parts if not (folder / name).exists()]
        if missing:
            raise MissingWeightsError(f"{folder}: {found} names {', '.join(missing)}, not there; fetch the model again")
        names += parts
    for name in names:
        check_no_pointer(folder / name)
    return names


def preparer_for(
    model_type: str, preprocessor: Mapping[str, Any], *, keep_incomplete: bool, where: Path
) -> Callable[[Waveform], Features] | None:
    """What a model's preprocessor_config.json asks for, as a preparer; None: the waveform as it is.

    Parameters
    ----------
    model_type : of config.json; the kind of preprocessing where the preprocessor's own file does not name it.
    keep_incomplete : see `SeamlessFeatures`.
    where : folder, for messages.

    Raises
    ------
    ConfigError : a kind of preprocessing that is not known here.
    """
    default = "SeamlessM4TFeatureExtractor" if model_type == "wav2vec2-bert" else "Wav2Vec2FeatureExtractor"
    kind = preprocessor.get("feature_extractor_type", default)
    if kind != default:
        raise ConfigError(
            f"{where / PREPROCESSOR}: feature_extractor_type {kind}; a {model_type} model takes {default}"
        )
    if kind == "Wav2Vec2FeatureExtractor":
        return ZeroMeanUnitVariance() if preprocessor.get("do_normalize", True) else None
    return SeamlessFeatures(
        sample_rate=int(preprocessor.get("sampling_rate", 16000)),
        num_mel_bins=int(preprocessor.get("num_mel_bins", 80)),
        stride=int(preprocessor.get("stride", 2)),
        padding_value=float(preprocessor.get("padding_value", 0.0)),
        keep_incomplete=keep_incomplete,
    )


@dataclass(frozen=True)
class ConvolutionalFrames:
    """Number of frames that the convolutions at the bottom of wav2vec 2.0 and its like make of a waveform."""

    kernels: tuple[int, ...]
    strides: tuple[int, ...]

    def num_frames(self, num_samples: Any, num_convolutions: int | None = None) -> Any:
        """Return the frames after the first `num_convolutions` (None: all), for an int or an integer array."""
        length = num_samples
        for kernel, stride in list(zip(self.kernels, self.strides, strict=True))[:num_convolutions]:
            length = (length - kernel) // stride + 1
        return length

    @property
    def hop_samples(self) -> int:
        """Return the number of samples from one frame to the next."""
        return math.prod(self.strides)

    @property
    def min_samples(self) -> int:
        """Return the number of samples that one frame covers."""
        length = 1
        for kernel, stride in reversed(list(zip(self.kernels, self.strides, strict=True))):
            length = (length - 1) * stride + kernel
        return length


@dataclass(frozen=True)
class StackedFrames:
    """How feature rows become frames in w2v-BERT: one for one."""

    features: SeamlessFeatures

    def num_frames(self, num_rows: int) -> int:
        """Return the number of frames: one per row."""
        return num_rows

    @property
    def hop_samples(self) -> int:
        """Return the number of samples from one frame to the next."""
        return HOP_SAMPLES * self.features.stride

    @property
    def min_samples(self) -> int:
        """Return the number of samples of one complete row."""
        return self.features.min_samples


Frames: TypeAlias = ConvolutionalFrames | StackedFrames


def chunk_samples(frames: Frames, seconds: float, sample_rate: int) -> int:
    """Return the chunk length nearest to `seconds` that ends where its last frame ends.

    What a frame sees beyond its hop (80 samples, 5 ms, in the published waveform models; 240 samples, 15 ms, in
    w2v-BERT) passes at every seam without a frame: frame t of a long clip starts at
    (t // n) * chunk + (t % n) * hop, n frames to a chunk.
    """
    num_frames = max(1, round(seconds * sample_rate / frames.hop_samples))
    return (num_frames - 1) * frames.hop_samples + frames.min_samples


def folder_of(weights: str | None, *, wanted_by: str, required: Sequence[str] = (CONFIG,)) -> Path:
    """Return the folder of a model.

    Parameters
    ----------
    weights : the setting: a folder, or `org/name`.
    wanted_by : who asks, for errors.
    required : files that must be in it.

    Raises
    ------
    ConfigError : no setting.
    MissingWeightsError : no such folder, or one that lacks something.
    """
    if weights is None:
        raise ConfigError(
            f"{wanted_by} needs a model: `--set weights=FOLDER`, or `--set weights=org/name` for one that"
            " `voxshard weights fetch hf/org/name` has brought"
        )
    if weights.startswith("hf/") and weights.count("/") == 2 and not Path(weights).exists():
        weights = weights.removeprefix("hf/")  # as `weights fetch` calls it
    fetch_name = f"hf/{weights}" if re.fullmatch(r"[\w.-]+/[\w.-]+", weights) else "hf/ORG/NAME"
    return locate("hf", weights, required=required, fetch_name=fetch_name)


def resolve_layers(layer: Layer | Sequence[Layer], num_layers: int, *, where: str) -> tuple[int, ...]:
    """Return layer numbers, 0 to `num_layers`, with `last` as `num_layers`.

    Raises
    ------
    ConfigError : the model has no such layer.
    """
    items = [layer] if isinstance(layer, int | str) else list(layer)
    numbers = [num_layers if item == "last" else int(item) for item in items]
    for number in numbers:
        if number > num_layers:
            raise ConfigError(
                f"layer {number}: {where} has {num_layers} layers; choose 0 (input of the first) to {num_layers},"
                " or `last`"
            )
    return tuple(numbers)
