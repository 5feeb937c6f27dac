"""Catalogue of pretrained weights: their origins and licences, and what is known of their files.

A digest is listed here only where it was published or looked up; None means unknown until a fetch records it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from voxshard.encoders import ecapa, hf, metis, onnx, registry
from voxshard.errors import ConfigError
from voxshard.weights import model_hub

_KAGGLE = "https://www.kaggle.com/api/v1/models/google/trillsson/tensorFlow2"
_AUDIOSET = "https://storage.googleapis.com/audioset"
_WESPEAKER = "https://wespeaker-1256283475.cos.ap-shanghai.myqcloud.com/models"
_AMPHION = "https://raw.githubusercontent.com/open-mmlab/Amphion/main"


@dataclass(frozen=True)
class HubPlace:
    """Place of a file in a model repository of the Hugging Face hub."""

    repository: str
    file: str
    revision: str | None = None
    """Branch, tag or commit; None: main, unless a user requests a revision."""


@dataclass(frozen=True)
class WeightSource:
    """Origin of one file to fetch."""

    name: str
    """Path of the file, relative to the folder of its set."""
    url: str
    sha256: str | None = None
    num_bytes: int | None = None
    is_archive: bool = False
    """Whether the file is a tar archive; its content goes into the folder, the archive is not kept."""
    place: HubPlace | None = None
    """Place on the hub; None for other origins."""


@dataclass(frozen=True)
class WeightSet:
    """Weights that one encoder needs."""

    name: str
    """Name that `voxshard weights fetch` takes; also the folder below $VOXSHARD_WEIGHTS."""
    origin: str
    licence: str
    size: str
    """Approximate size of the download."""
    sources: tuple[WeightSource, ...] = ()
    choices: tuple[WeightSource, ...] = ()
    """One file more, in order of preference: the first that the origin has. An index brings the files it names."""
    texts: tuple[tuple[str, str], ...] = ()
    """Contents of small files, by name, that are written next to the download."""
    package: str | None = None
    """Python package that contains the weights, as pip takes it; see `voxshard.weights.packages`."""


def hub_source(
    name: str, repository: str, file: str | None = None, revision: str | None = None, sha256: str | None = None
) -> WeightSource:
    """Return a file of the hub, or of its mirror; `file` is its name there, if it differs from `name`."""
    place = HubPlace(repository, file or name, revision)
    url = f"{model_hub.endpoint()}/{repository}/resolve/{revision or 'main'}/{place.file}"
    return WeightSource(name, url, sha256, place=place)


def _metis8d() -> WeightSet:
    w2v_bert = "facebook/w2v-bert-2.0", "6b1c0b3a98343376f0cffd7cfbbe3ce4db45d459"
    files = (hf.CONFIG, hf.PREPROCESSOR, "model.safetensors")
    return WeightSet(
        "metis8d",
        "facebook/w2v-bert-2.0, amphion/MaskGCT (Hugging Face), open-mmlab/Amphion (GitHub)",
        "MIT (w2v-BERT 2.0, statistics); CC-BY-NC-4.0 (semantic codec)",
        "2.5 GB",
        (
            *(hub_source(f"{metis.BACKBONE}/{file}", w2v_bert[0], file, w2v_bert[1]) for file in files),
            hub_source(
                metis.CODEC,
                "amphion/MaskGCT",
                "semantic_codec/model.safetensors",
                sha256="ec947271175d8cad75ec37e83aa487e27c97a0f72a303393772da5ffa84bddf2",
            ),
            WeightSource(
                metis.STATISTICS,
                f"{_AMPHION}/models/tts/maskgct/ckpt/wav2vec2bert_stats.pt",
                "c9c176c2b8850ab2e3ba828bbfa969deaf4566ce55db5f2687b8430b87526ad2",
                9343,
            ),
        ),
    )


def _ecapa() -> WeightSet:
    repository, revision = "speechbrain/spkrec-ecapa-voxceleb", "eac27266f68caa806381260bd44ace38b136c76a"
    source = hub_source(ecapa.CHECKPOINT, repository, revision=revision)
    return WeightSet("ecapa", f"{repository} (Hugging Face)", "Apache-2.0", "83 MB", (source,))


def _trillsson(size: int) -> WeightSet:
    archive = WeightSource(f"trillsson{size}.tar.gz", f"{_KAGGLE}/{size}/1/download", is_archive=True)
    sizes = {1: "22 MB", 5: "314 MB"}
    return WeightSet(
        f"trillsson{size}",
        f"google/trillsson/tensorFlow2/{size}, version 1 (Kaggle)",
        "unknown (the code is Apache-2.0)",
        sizes.get(size, "unknown"),
        (archive,),
    )


def _vggish() -> WeightSet:
    names = ("vggish_model.ckpt", "vggish_pca_params.npz")
    return WeightSet(
        "vggish",
        "tensorflow/models, research/audioset/vggish",
        "Apache-2.0",
        "289 MB",
        tuple(WeightSource(name, f"{_AUDIOSET}/{name}") for name in names),
    )


def _ge2e() -> WeightSet:
    return WeightSet(
        "ge2e",
        "Resemblyzer 0.1.4 (its wheel on the package index)",
        "Apache-2.0",
        "16 MB",
        package="Resemblyzer==0.1.4",
    )


def _musicnn() -> WeightSet:
    return WeightSet(
        "musicnn",
        "musicnn 0.1.0 (its wheel on the package index)",
        "ISC",
        "29 MB",
        package="musicnn==0.1.0",
    )


def _wespeaker() -> list[WeightSet]:
    """Return WeSpeaker's ONNX exports (docs/pretrained.md there): 80 Kaldi mel bands of 16-bit samples, mean removed.

    Their licence is that of their training data, as WeSpeaker states.
    """
    licences = {
        "voxceleb": "CC-BY-4.0 (that of VoxCeleb)",
        "cnceleb": "that of CN-Celeb; see its page before use",
    }
    description = {
        "input": "fbank",
        "sample_rate": 16000,
        "scale": 32768,
        "num_mel_bins": 80,
        "window": "hamming",
        "mean_norm": True,
        "output": "embs",
        "granularity": "utterance",
    }
    models = [
        *(f"voxceleb_{name}" for name in ("resnet34", "resnet34_LM", "resnet152_LM", "resnet221_LM", "resnet293_LM")),
        *(f"voxceleb_{name}" for name in ("CAM++", "CAM++_LM", "ECAPA512_LM", "ECAPA1024_LM")),
        *(f"cnceleb_{name}" for name in ("resnet34", "resnet34_LM")),
    ]
    return [
        WeightSet(
            f"onnx/{model}",
            "WeSpeaker (wenet-e2e/wespeaker), runtime models",
            licences[model.partition("_")[0]],
            "unknown",
            (WeightSource(onnx.MODEL, f"{_WESPEAKER}/{model.partition('_')[0]}/{model}.onnx"),),
            texts=((onnx.DESCRIPTION, json.dumps(description, indent=1) + "\n"),),
        )
        for model in models
    ]


def _hub_model(repository: str, revision: str | None) -> WeightSet:
    def source(name: str) -> WeightSource:
        return hub_source(name, repository, revision=revision)

    return WeightSet(
        f"hf/{repository}",
        f"{repository} (Hugging Face)",
        "see the model's page",
        "unknown",
        (source(hf.CONFIG), source(hf.PREPROCESSOR)),
        tuple(source(name) for name in hf.CHECKPOINTS),
    )


def known_sets() -> dict[str, WeightSet]:
    """Return the sets with a name; in addition, `hf/ORG/NAME` names any model of the hub."""
    sets = [
        _metis8d(),
        _ecapa(),
        *(_trillsson(size) for size in range(1, 6)),
        _vggish(),
        _ge2e(),
        _musicnn(),
        *_wespeaker(),
    ]
    return {item.name: item for item in sets}


def weight_set(name: str, revision: str | None = None) -> WeightSet:
    """Return the set of that name.

    Parameters
    ----------
    revision : branch, tag or commit, for `hf/ORG/NAME` only; the others are pinned where they can be.

    Raises
    ------
    ConfigError : no such set.
    """
    of_hub = re.fullmatch(r"hf/([\w.-]+/[\w.-]+)", name)
    if of_hub:
        return _hub_model(of_hub[1], revision)
    sets = known_sets()
    if name not in sets:
        if name in registry.available() and not registry.has_weights(name):
            raise ConfigError(f"the encoder {name} needs no weights: there is nothing to fetch")
        if name.partition("/")[0] not in ("hf", "onnx") and (model := registry.model_of_the_hub(name)):
            raise ConfigError(f"no weights called {name!r}; did you mean hf/{model}, or another hf/ORG/NAME?")
        below = [item for item in (*sets, "hf/ORG/NAME") if item.startswith(f"{name}/")]
        raise ConfigError(f"no weights called {name!r}; available: {', '.join(below or [*sets, 'hf/ORG/NAME'])}")
    if revision is not None:
        raise ConfigError(f"--revision goes with hf/ORG/NAME; {name} is fixed")
    return sets[name]
