"""Encoders by name. Strings only: looking one up imports nothing, least of all a framework."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, cast

from voxshard.config import did_you_mean, validated
from voxshard.encoders.base import Encoder, EncoderSettings, KnownHashes
from voxshard.errors import BackendUnavailableError, ConfigError

ENTRY_POINT_GROUP = "voxshard.encoders"


@dataclass(frozen=True)
class EncoderSpec:
    """Where an encoder lives and what it needs, without importing it."""

    name: str
    target: str
    """`module:Class` of the encoder."""
    settings: str | None
    """`module:Class` of its settings, in a module that imports no framework; None: ask the class itself."""
    framework: str
    """none, torch, tensorflow, or the name of an optional package; `unknown` for third parties."""
    summary: str
    extra: str | None = None
    """The extra that installs what it needs."""


def _acoustic(name: str, summary: str) -> EncoderSpec:
    module = "voxshard.encoders.acoustic"
    classes = {"mfcc": "Mfcc", "logmel": "LogMel", "cqt": "Cqt", "lfcc": "Lfcc"}
    return EncoderSpec(name, f"{module}:{classes[name]}Encoder", f"{module}:{classes[name]}Settings", "none", summary)


def _elsewhere(name: str, stem: str) -> EncoderSpec:
    module = "voxshard.encoders.elsewhere"
    summary = "its package does not install any more; bring its vectors in with `voxshard ingest`"
    return EncoderSpec(name, f"{module}:{stem}Encoder", f"{module}:ElsewhereSettings", name, summary)


_SPECS = [
    _acoustic("mfcc", "librosa's MFCC with deltas: statistics per utterance, or frames"),
    _acoustic("logmel", "librosa's log-mel spectrogram"),
    _acoustic("cqt", "librosa's constant-Q transform"),
    _acoustic("lfcc", "linear-frequency cepstral coefficients, as in the ASVspoof baselines"),
    EncoderSpec(
        "egemaps",
        "voxshard.encoders.opensmile:EgemapsEncoder",
        "voxshard.encoders.opensmile:EgemapsSettings",
        "opensmile",
        "openSMILE eGeMAPSv02 functionals (88); licence: research and non-commercial use only",
        "opensmile",
    ),
    EncoderSpec(
        "hf",
        "voxshard.encoders._torch.hf:HfEncoder",
        "voxshard.encoders.hf:HfSettings",
        "torch",
        "any wav2vec 2.0, HuBERT, WavLM, w2v-BERT or data2vec-audio model",
        "torch",
    ),
    EncoderSpec(
        "metis8d",
        "voxshard.encoders._torch.metis:Metis8dEncoder",
        "voxshard.encoders.metis:Metis8dSettings",
        "torch",
        "8-D semantic latents at 50 Hz: w2v-BERT 2.0 layer 17 through the MaskGCT semantic codec",
        "torch",
    ),
    EncoderSpec(
        "ecapa",
        "voxshard.encoders._torch.ecapa:EcapaEncoder",
        "voxshard.encoders.ecapa:EcapaSettings",
        "torch",
        "SpeechBrain's ECAPA-TDNN speaker embedding",
        "torch",
    ),
    EncoderSpec(
        "checkpoint",
        "voxshard.encoders._torch.checkpoint:CheckpointEncoder",
        "voxshard.encoders.checkpoint:CheckpointSettings",
        "torch",
        "a network that `voxshard train` made: its own embedding, weighted layers, shared layer or heads",
        "torch",
    ),
    *(
        EncoderSpec(
            f"trillsson{size}",
            "voxshard.encoders._tensorflow.trillsson:TrillssonEncoder",
            "voxshard.encoders.trillsson:TrillssonSettings",
            "tensorflow",
            f"TRILLsson {size} paralinguistic embedding (1024)",
            "tensorflow",
        )
        for size in range(1, 6)
    ),
    EncoderSpec(
        "vggish",
        "voxshard.encoders.vggish:VggishEncoder",
        "voxshard.encoders.vggish:VggishSettings",
        "tensorflow",
        "VGGish, 128 numbers per 0.96 s; runs in PyTorch too, from converted weights",
        "tensorflow",
    ),
    _elsewhere("openl3", "OpenL3"),
    _elsewhere("musicnn", "Musicnn"),
]
SPECS: dict[str, EncoderSpec] = {spec.name: spec for spec in _SPECS}


def available() -> dict[str, EncoderSpec]:
    """Every encoder by name: our own, then those other packages register."""
    found = dict(SPECS)
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name not in SPECS:
            summary = f"from {point.dist.name}" if point.dist else "from another package"
            found[point.name] = EncoderSpec(point.name, point.value, None, "unknown", summary)
    return found


def spec_of(name: str) -> EncoderSpec:
    """The entry of one encoder.

    Raises
    ------
    ConfigError : no such encoder; lists those there are.
    """
    specs = available()
    if name not in specs:
        raise ConfigError(f"no encoder {name!r}; encoders: {', '.join(specs)}{did_you_mean(name, specs)}")
    return specs[name]


def settings_of(name: str, values: Mapping[str, Any]) -> EncoderSettings:
    """The validated settings of an encoder; for our own encoders this needs no framework."""
    spec = spec_of(name)
    if spec.settings is None:
        model = cast(type[EncoderSettings], _load(spec, spec.target).settings_model)
    else:
        model = cast(type[EncoderSettings], _load(spec, spec.settings))
    return validated(model, values, where=f"settings of {name}")


def create(name: str, values: Mapping[str, Any], known_hashes: KnownHashes | None = None) -> Encoder:
    """Build an encoder; its model is not loaded yet.

    Parameters
    ----------
    values : its settings, not yet validated.
    known_hashes : SHA-256 of weights taken earlier, by folder.

    Raises
    ------
    ConfigError : no such encoder, or settings it does not take.
    BackendUnavailableError : its framework is not installed here.
    MissingWeightsError : its weights are not where they should be.
    """
    spec = spec_of(name)
    settings = settings_of(name, values)
    return cast(Encoder, _load(spec, spec.target)(name, settings, known_hashes or {}))


def _load(spec: EncoderSpec, target: str) -> Any:
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing == "voxshard" or (spec.framework != "unknown" and importlib.util.find_spec(missing) is not None):
            raise
        install = f"`pip install 'voxshard[{spec.extra}]'`" if spec.extra else f"`pip install {missing}`"
        raise BackendUnavailableError(
            f"{spec.name} needs {missing}, which is not installed in this environment; run it where it is"
            f" (`runtime:` venv or image), or {install}"
        ) from exc
