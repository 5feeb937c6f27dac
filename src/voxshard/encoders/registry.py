"""Encoders by name. Strings only: looking one up imports nothing, least of all a framework."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from typing import Any, cast

from voxshard.config import did_you_mean, validated
from voxshard.encoders.base import Encoder, EncoderSettings, KnownHashes
from voxshard.encoders.plugin_checks import check_plugin
from voxshard.errors import BackendUnavailableError, ConfigError, VoxshardError
from voxshard.plugins import broken, load, package_of, registered

ENTRY_POINT_GROUP = "voxshard.encoders"


@dataclass(frozen=True)
class EncoderSpec:
    """Where an encoder is defined and what it needs, known without importing it."""

    name: str
    target: str
    """`module:Class` of the encoder."""
    settings: str | None
    """`module:Class` of its settings, in a module that imports no framework; None: the class itself names them."""
    summary: str
    requires: tuple[str, ...] | None = ()
    """Packages that must be importable where it runs, in addition to voxshard's own; None: unknown (third parties)."""
    alternative: str | None = None
    """Package that may be installed instead of the required ones."""
    needs_gpu: bool | None = False
    """Whether it uses a GPU where one is available; None: unknown until the encoder is constructed."""
    extra: str | None = None
    """The extra of voxshard that installs what it requires."""
    is_supported: bool = True
    """Whether it can run; a known name that cannot reports why when it is constructed."""
    point: EntryPoint | None = None
    """The entry point of another package that registers it."""

    @property
    def missing(self) -> list[str]:
        """Return the required packages that are not installed here; none if the alternative is."""
        if self.alternative is not None and importlib.util.find_spec(self.alternative) is not None:
            return []
        return [package for package in self.requires or () if importlib.util.find_spec(package) is None]


def _acoustic(name: str, stem: str, summary: str) -> EncoderSpec:
    module = "voxshard.encoders.acoustic"
    return EncoderSpec(name, f"{module}:{stem}Encoder", f"{module}:{stem}Settings", summary)


def _torch(name: str, target: str, settings: str, summary: str, *packages: str) -> EncoderSpec:
    return EncoderSpec(name, target, settings, summary, ("torch", *packages), needs_gpu=True, extra="torch")


def _tensorflow(name: str, target: str, settings: str, summary: str) -> EncoderSpec:
    return EncoderSpec(name, target, settings, summary, ("tensorflow",), needs_gpu=True, extra="tensorflow")


def _unsupported(name: str, stem: str) -> EncoderSpec:
    module = "voxshard.encoders.unsupported"
    settings = f"{module}:UnsupportedSettings"
    return EncoderSpec(name, f"{module}:{stem}Encoder", settings, "not supported; use ingest", is_supported=False)


_SPECS = [
    _acoustic("mfcc", "Mfcc", "librosa's MFCC with deltas: statistics per utterance, or frames"),
    _acoustic("logmel", "LogMel", "librosa's log-mel spectrogram"),
    _acoustic("cqt", "Cqt", "librosa's constant-Q transform"),
    _acoustic("lfcc", "Lfcc", "linear-frequency cepstral coefficients, as in the ASVspoof baselines"),
    EncoderSpec(
        "egemaps",
        "voxshard.encoders.opensmile:EgemapsEncoder",
        "voxshard.encoders.opensmile:EgemapsSettings",
        "openSMILE eGeMAPSv02 functionals (88); licence: research and non-commercial use only",
        ("opensmile",),
        extra="opensmile",
    ),
    EncoderSpec(
        "ge2e",
        "voxshard.encoders.ge2e:Ge2eEncoder",
        "voxshard.encoders.ge2e:Ge2eSettings",
        "Resemblyzer's GE2E speaker embedding (256), in NumPy",
    ),
    EncoderSpec(
        "musicnn",
        "voxshard.encoders.musicnn:MusicnnEncoder",
        "voxshard.encoders.musicnn:MusicnnSettings",
        "musicnn's music tags (50) and features per 3 s, four models, in NumPy",
    ),
    EncoderSpec(
        "onnx",
        "voxshard.encoders.onnx_model:OnnxEncoder",
        "voxshard.encoders.onnx:OnnxSettings",
        "a model exported to ONNX with an encoder.json: WeSpeaker, 3D-Speaker, your own",
        ("onnxruntime",),
        needs_gpu=None,
        extra="onnx",
    ),
    _torch(
        "hf",
        "voxshard.encoders._torch.hf:HfEncoder",
        "voxshard.encoders.hf:HfSettings",
        "audio models of transformers: wav2vec 2.0 and its relatives, Whisper, AST, CLAP, codecs, and others",
        "transformers",
    ),
    _torch(
        "hear",
        "voxshard.encoders._torch.hear:HearEncoder",
        "voxshard.encoders.hear:HearSettings",
        "a PyTorch module of the HEAR API, by its name: scene or timestamp embeddings",
    ),
    _torch(
        "metis8d",
        "voxshard.encoders._torch.metis:Metis8dEncoder",
        "voxshard.encoders.metis:Metis8dSettings",
        "8-D semantic latents at 50 Hz: w2v-BERT 2.0 layer 17 through the MaskGCT semantic codec",
        "transformers",
    ),
    _torch(
        "ecapa",
        "voxshard.encoders._torch.ecapa:EcapaEncoder",
        "voxshard.encoders.ecapa:EcapaSettings",
        "SpeechBrain's ECAPA-TDNN speaker embedding",
        "speechbrain",
    ),
    _torch(
        "checkpoint",
        "voxshard.networks.checkpoint_encoder:CheckpointEncoder",
        "voxshard.networks.checkpoint:CheckpointSettings",
        "a network that `voxshard train` made: its own embedding, weighted layers, shared layer or heads",
    ),
    *(
        _tensorflow(
            f"trillsson{size}",
            "voxshard.encoders._tensorflow.trillsson:TrillssonEncoder",
            "voxshard.encoders.trillsson:TrillssonSettings",
            f"TRILLsson {size} paralinguistic embedding (1024)",
        )
        for size in range(1, 6)
    ),
    replace(
        _tensorflow(
            "vggish",
            "voxshard.encoders.vggish:VggishEncoder",
            "voxshard.encoders.vggish:VggishSettings",
            "VGGish, 128 numbers per 0.96 s; runs in PyTorch too, from converted weights",
        ),
        alternative="torch",
    ),
    _unsupported("openl3", "OpenL3"),
]
SPECS: dict[str, EncoderSpec] = {spec.name: spec for spec in _SPECS}


_FAMILIES_OF_THE_HUB = {
    "wav2vec2": "facebook/wav2vec2-base",
    "hubert": "facebook/hubert-base-ls960",
    "wavlm": "microsoft/wavlm-base",
    "data2vec": "facebook/data2vec-audio-base",
    "unispeech": "microsoft/unispeech-sat-base",
    "w2vbert": "facebook/w2v-bert-2.0",
    "xlsr": "facebook/wav2vec2-xls-r-300m",
    "whisper": "openai/whisper-base",
    "clap": "laion/clap-htsat-unfused",
    "encodec": "facebook/encodec_24khz",
}
"""Family of models that users ask for by its name, in lower-case letters and digits -> one of its models."""


def available() -> dict[str, EncoderSpec]:
    """Return every encoder by name: our own, then those that other packages register."""
    found = dict(SPECS)
    for name, point in registered(ENTRY_POINT_GROUP, SPECS).items():
        summary = f"from {package_of(point)}"
        found[name] = EncoderSpec(name, point.value, None, summary, requires=None, needs_gpu=None, point=point)
    return found


def spec_of(name: str) -> EncoderSpec:
    """Return the registry entry of one encoder.

    Raises
    ------
    ConfigError : no such encoder; lists those there are.
    """
    specs = available()
    if name not in specs:
        if model := model_of_the_hub(name):
            raise ConfigError(
                f"no encoder {name!r}; models of transformers are run by hf: `--encoder hf --set weights={model}`, "
                f"in a config `encoder: {{name: hf, weights: {model}}}`"
            )
        raise ConfigError(f"no encoder {name!r}; encoders: {', '.join(specs)}{did_you_mean(name, specs)}")
    return specs[name]


def model_of_the_hub(name: str) -> str | None:
    """Return the model of the Hugging Face hub that a name may mean which is none of our encoders'; None: none."""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return name
    letters = re.sub(r"[^a-z0-9]", "", name.lower())
    return next((model for family, model in _FAMILIES_OF_THE_HUB.items() if letters.startswith(family)), None)


def settings_model(name: str) -> type[EncoderSettings]:
    """Return the class of an encoder's settings; for our own encoders this needs no framework."""
    spec = spec_of(name)
    if spec.settings is None:
        return _class_of(spec).settings_model
    return cast(type[EncoderSettings], _load(spec, spec.settings))


def settings_of(name: str, values: Mapping[str, Any]) -> EncoderSettings:
    """Return the validated settings of an encoder."""
    return validated(settings_model(name), values, where=f"settings of {name}")


def has_weights(name: str) -> bool:
    """Whether an encoder opens weight files; False for an encoder of a package that is not installed here."""
    try:
        return "weights" in settings_model(name).model_fields
    except BackendUnavailableError:
        return False


def needs_gpu(name: str, values: Mapping[str, Any]) -> bool:
    """Whether an encoder uses a GPU if one is available.

    Our own encoders are known by name. A third party's is constructed to ask it; if that is not possible in this
    environment, the answer is False, and `device: cuda` in the config is the way to ask for a GPU.
    """
    known = spec_of(name).needs_gpu
    if known is not None:
        return known
    try:
        return create(name, values).info.needs_gpu
    except VoxshardError:
        return False


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
    BrokenPluginError : an encoder of another package lacks `info` or a method, or its constructor fails; its methods
        raise it, too, see `plugin_checks`.
    """
    spec = spec_of(name)
    settings = settings_of(name, values)
    build: Callable[..., Encoder] = _class_of(spec)
    if spec.point is None:
        return build(name, settings, known_hashes or {})
    try:
        encoder = build(name, settings, known_hashes or {})
    except VoxshardError:
        raise
    except Exception as exc:  # another package's code: anything can go wrong in it
        raise broken(spec.point, f"constructing it fails: {type(exc).__name__}: {exc}") from exc
    return check_plugin(encoder, spec.point)


def _class_of(spec: EncoderSpec) -> type[Encoder]:
    """Return the class of an encoder; of another package only if it is an `Encoder`."""
    if spec.point is None:
        return cast(type[Encoder], _load(spec, spec.target))
    cls = load(spec.point)
    if not (isinstance(cls, type) and issubclass(cls, Encoder)):
        raise broken(spec.point, "expected a subclass of voxshard.encoders.base.Encoder")
    return cls


def _load(spec: EncoderSpec, target: str) -> Any:
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing == "voxshard" or (spec.requires is not None and importlib.util.find_spec(missing) is not None):
            raise
        install = f"`pip install 'voxshard[{spec.extra}]'`" if spec.extra else f"`pip install {missing}`"
        raise BackendUnavailableError(
            f"{spec.name} needs {missing}, which is not installed in this environment; run it where it is"
            f" (`runtime:` venv or image), or {install}"
        ) from exc
