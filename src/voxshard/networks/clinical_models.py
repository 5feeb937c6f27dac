"""Conversion of the models of the clinical speech programs (naip-w2v2, naip-ecapa-tdnn) to networks of voxshard.

MODEL.pt is a state dict, `args.pkl` next to it the command line that it was trained with, as a pickled
`argparse.Namespace`. No framework is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from voxshard.errors import CorruptFileError, IncompleteError
from voxshard.networks.settings import LabelGroup, NetworkSpec, PooledBy
from voxshard.weights.plain_pickle import read_settings

ARGUMENTS = ("model_args.pkl", "args.pkl")
"""Names of the file next to a model; the first is that of one that was downloaded."""
Shapes = Mapping[str, Sequence[int]]


class _Arguments(BaseModel):
    """Arguments that both programs write; those that voxshard does not need are ignored."""

    model_config = ConfigDict(extra="ignore", strict=False)

    label_groups: list[list[str]] = Field(min_length=1)
    resample_rate: int = 16000
    clip_length: float = 10.0
    shared_dense: bool = False
    sd_bottleneck: int = 768
    clf_bottleneck: int = 150
    activation: Literal["relu"] = "relu"
    final_dropout: float = 0.3
    layernorm: bool = False
    loss: Literal["BCE", "MSE"] = "BCE"


class _SpeechArguments(_Arguments):
    checkpoint: str
    pooling_mode: PooledBy = "mean"
    freeze: bool = True
    weighted: bool = False
    layer: int = -1


class _EcapaArguments(_Arguments):
    lin_neurons: int
    n_mfcc: int = 80
    n_fft: int = 400
    n_mels: int = 128
    fbank: bool = False
    dataset_mean: float = 0.0
    dataset_std: float = 0.0


@dataclass(frozen=True)
class ClinicalModel:
    """A model of one of the programs, described as a network of voxshard."""

    spec: NetworkSpec
    clip: dict[str, Any]
    """Clip settings of the model's recordings."""
    checkpoint: str | None
    """Pretrained model that was fine-tuned: a folder, or a name on the Hugging Face hub."""

    @property
    def labels(self) -> list[str]:
        return [label for group in self.spec.groups for label in group.labels]


def arguments_file(model: Path) -> Path:
    """Return the path of the pickled command line next to a model.

    Raises
    ------
    IncompleteError : there is none.
    """
    for name in ARGUMENTS:
        if (path := model.with_name(name)).is_file():
            return path
    raise IncompleteError(
        f"{model.parent}: no args.pkl next to {model.name}; the programs write it into the folder of a training, and "
        "a model cannot be rebuilt without it"
    )


def describe(path: Path, shapes: Shapes) -> ClinicalModel:
    """Read a pickled command line, and describe its model.

    Parameters
    ----------
    path : args.pkl.
    shapes : of the tensors in the model, by name; sizes that no argument has are taken from them.

    Raises
    ------
    CorruptFileError : not a command line of these programs, or one that holds more than plain values.
    """
    content = read_settings(path)
    kind = _EcapaArguments if "lin_neurons" in content else _SpeechArguments
    try:
        arguments = kind.model_validate(content)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CorruptFileError(f"{path}: not what naip-w2v2 or naip-ecapa-tdnn wrote: {where}: {first['msg']}") from exc
    if isinstance(arguments, _EcapaArguments):
        family, own, checkpoint = "ecapa", _ecapa(path, arguments, shapes), None
    else:
        assert isinstance(arguments, _SpeechArguments)
        family, own, checkpoint = "wav2vec2", _speech(arguments), arguments.checkpoint
    spec = NetworkSpec.model_validate(
        {
            "family": family,
            "settings": {
                "sample_rate": arguments.resample_rate or 16000,
                "shared_dim": arguments.sd_bottleneck if arguments.shared_dense else None,
                "heads": {
                    "hidden": arguments.clf_bottleneck,
                    "layer_norm": arguments.layernorm,
                    "activation": arguments.activation,
                    "dropout": arguments.final_dropout,
                },
                **own,
            },
            "groups": [LabelGroup(labels=tuple(group)) for group in arguments.label_groups],
            "loss": arguments.loss.lower(),
        }
    )
    length = arguments.clip_length
    clip = {"max_seconds": length, "pad": "zero", "crop": "head"} if length else {}
    return ClinicalModel(spec, clip, checkpoint)


def _speech(arguments: _SpeechArguments) -> dict[str, Any]:
    weighting = {"weighted": True, "layer_weighting": "raw"} if arguments.weighted else {}
    return {
        "weights": arguments.checkpoint,
        "fine_tune": "none" if arguments.freeze else "all",
        "layer": "last" if arguments.layer == -1 else arguments.layer,
        "pooling": arguments.pooling_mode,
        **weighting,
    }


def _ecapa(path: Path, arguments: _EcapaArguments, shapes: Shapes) -> dict[str, Any]:
    first, attention = (shapes.get(f"model.{name}.weight") for name in ("blocks.0.conv.conv", "asp.tdnn.conv.conv"))
    if first is None or attention is None:
        raise CorruptFileError(f"{path}: is of an ECAPA-TDNN, and the model next to it is none")
    sizes = {
        "embedding_size": arguments.lin_neurons,
        "width": int(first[0]),
        "attention_channels": int(attention[0]),
        "num_mels": arguments.n_mels,
    }
    if not arguments.fbank:
        return {
            **sizes,
            "features": "mfcc",
            "num_mfcc": arguments.n_mfcc,
            "n_fft": arguments.n_fft,
            "hop_length": arguments.n_fft // 2,
            "remove_mean": True,
            "normalize": False,
        }
    if not arguments.dataset_std:
        raise CorruptFileError(f"{path}: fbank without dataset_std, by which the program divides")
    return {
        **sizes,
        "features": "kaldi_fbank",
        "num_frames": arguments.n_fft,  # the program's name for them
        "mean": arguments.dataset_mean,
        "std": 2 * arguments.dataset_std,
    }
