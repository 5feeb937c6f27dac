"""Choose the adapter for a model folder, or report why no adapter fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from voxshard.encoders import hf
from voxshard.encoders._torch.hf_families.base import Family
from voxshard.encoders._torch.hf_families.codecs import Dac, Encodec, Mimi
from voxshard.encoders._torch.hf_families.other import OtherModel
from voxshard.encoders._torch.hf_families.speech import SelfSupervised, Sew
from voxshard.encoders._torch.hf_families.windowed import Clap, Qwen2Audio, SpectrogramTransformer, Whisper
from voxshard.encoders._torch.transformers_model import class_of
from voxshard.encoders.hf import HfSettings
from voxshard.errors import ConfigError, VoxshardError

FAMILIES: dict[str, type[Family]] = {
    **dict.fromkeys(hf.MASKED_TYPES, SelfSupervised),
    "sew": Sew,
    "whisper": Whisper,
    "qwen2_audio": Qwen2Audio,
    "qwen2_audio_encoder": Qwen2Audio,
    "audio-spectrogram-transformer": SpectrogramTransformer,
    "clap": Clap,
    "clap_audio_model": Clap,
    "mimi": Mimi,
    "encodec": Encodec,
    "dac": Dac,
}
"""`model_type` of config.json -> adapter; any other model that takes audio is an `OtherModel`."""
_AUDIO_INPUTS = ("input_values", "input_features", "audio_values", "audio")


def choose_family(folder: Path, settings: HfSettings) -> Family:
    """Return the adapter for the model in a folder.

    Raises
    ------
    ConfigError : a model type that transformers does not know, or one that takes no audio.
    MissingWeightsError, CorruptFileError : the folder lacks a file, or one is damaged.
    """
    path = folder / hf.CONFIG
    model_type = hf.read_json(path).get("model_type")
    config = _config(path, model_type)
    if str(model_type) not in FAMILIES:
        _check_takes_audio(path, model_type, config)
    preprocessor = hf.read_preprocessor(folder)
    try:
        return FAMILIES.get(str(model_type), OtherModel)(folder, config, preprocessor, settings)
    except VoxshardError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as exc:
        raise _no_model(folder, f"{hf.CONFIG} and {hf.PREPROCESSOR} describe", exc) from exc


def _config(path: Path, model_type: Any) -> Any:
    """Return the model's configuration, with transformers' defaults for what config.json omits."""
    try:
        if model_type == "clap_audio_model":  # a part of clap, which AutoConfig does not list
            return transformers.ClapAudioConfig.from_pretrained(path.parent)
        return transformers.AutoConfig.from_pretrained(path.parent, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError) as exc:
        raise ConfigError(
            f"{path}: transformers {transformers.__version__} does not know model_type {model_type!r}; a newer"
            " transformers may, or write an encoder for it (docs/third-party-encoders.md)"
        ) from exc
    except (ImportError, MemoryError, OSError):
        raise
    except Exception as exc:  # transformers has its own errors for values of the wrong kind
        raise _no_model(path.parent, f"{hf.CONFIG} describes", exc) from exc


def _no_model(folder: Path, what: str, error: Exception) -> ConfigError:
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return ConfigError(f"{folder}: {what} no model that can be built: {text}; fetch the files again")


def _check_takes_audio(path: Path, model_type: Any, config: Any) -> None:
    model_class = class_of(config)
    if model_class is None:
        raise ConfigError(f"{path}: transformers has no base model (AutoModel) for model_type {model_type!r}")
    wanted = getattr(model_class, "main_input_name", "input_ids")
    if wanted in _AUDIO_INPUTS:
        return
    kind = "a model"
    if wanted == "input_ids":
        is_decoder = model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and (
            model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        )
        kind = "a decoder-only model" if is_decoder else "a text model"
    raise ConfigError(f"{path}: model_type {model_type!r} is {kind} that takes {wanted}; hf embeds audio")
