"""Self-supervised speech models of transformers: from a local folder only, cut to the layers that are needed."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported: nothing here may talk to a hub
os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"  # else a .bin checkpoint starts a thread that does

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from voxshard.encoders import hf
from voxshard.encoders._torch.attention import LEAN_TYPES, make_attention_lean
from voxshard.encoders.weight_files import refused_pickle
from voxshard.errors import ConfigError, CorruptFileError


def _without_looking(make_mask: Callable[..., torch.Tensor | None]) -> Callable[..., torch.Tensor | None]:
    """Wrap a function of transformers that makes attention masks, so that it does not look at what it masks.

    The original asks whether anything is masked at all, for which the host waits until the GPU has caught up, in every
    forward pass. We give a padding mask only where a batch is padded, so the question is not needed.
    """

    def make(*args: Any, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor | None:
        kwargs["allow_is_bidirectional_skip"] = attention_mask is None
        return make_mask(*args, attention_mask=attention_mask, **kwargs)

    return make


_SDPA, _EAGER = "voxshard_sdpa", "voxshard_eager"
"""transformers' two kinds of attention with such masks; of the second only the mask is used (see LEAN_TYPES)."""
for _name, _make_mask in ((_SDPA, sdpa_mask), (_EAGER, eager_mask)):
    AttentionMaskInterface.register(_name, _without_looking(_make_mask))
    AttentionInterface.register(_name, ALL_ATTENTION_FUNCTIONS["sdpa"])

_UNUSED = ("masked_spec_embed",)  # SpecAugment's vector: only training reads it


def read_config(folder: Path) -> Any:
    """Return the model's configuration, with transformers' defaults for what config.json omits.

    Raises
    ------
    ConfigError : a model that is not of the supported types, or that has a part we do not compute.
    """
    path = folder / hf.CONFIG
    model_type = hf.read_json(path).get("model_type")
    if model_type not in hf.MASKED_TYPES:
        raise ConfigError(f"{path}: model_type {model_type!r}; a network takes {', '.join(hf.MASKED_TYPES)}")
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    check_adapter(folder, config)
    return config


def check_adapter(folder: Path, config: Any) -> None:
    """Check that the model returns the frames of its convolutions.

    Raises
    ------
    ConfigError : an adapter on top changes their rate.
    """
    if getattr(config, "add_adapter", False):
        raise ConfigError(
            f"{folder / hf.CONFIG}: add_adapter is true; the adapter on top changes the frame rate and is not"
            " supported. Set it to false in a copy of the folder to use the model below it"
        )


def load_model(
    folder: Path, config: Any, num_layers: int | None = None, *, model_class: Any = None, **options: Any
) -> Any:
    """Load a model in float32, with no more than its first `num_layers` layers (but at least one).

    Parameters
    ----------
    num_layers : None: all of them.
    model_class : None: what transformers' AutoModel chooses.
    options : of `from_pretrained`.

    Raises
    ------
    CorruptFileError : the checkpoint cannot be read or does not hold every tensor the configuration asks for.
    """
    if num_layers is not None:
        config.num_hidden_layers = max(1, min(num_layers, config.num_hidden_layers))
    model_class = model_class or class_of(config)
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # the tensors of the layers left out are not news
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        model, report = model_class.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            attn_implementation=attention_of(config, model_class),
            output_loading_info=True,
            **options,
        )
    except pickle.UnpicklingError as exc:
        raise refused_pickle(folder) from exc
    except (OSError, EOFError, RuntimeError, ValueError, SafetensorError) as exc:
        if isinstance(exc, torch.OutOfMemoryError):
            raise
        reason = (str(exc) or type(exc).__name__).splitlines()[0]
        raise CorruptFileError(
            f"{folder}: the model cannot be loaded: {reason}; `voxshard weights verify`, then fetch it again"
        ) from exc
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.utils.logging.enable_progress_bar()
    missing = sorted(name for name in report["missing_keys"] if name not in _UNUSED)
    if missing:
        raise CorruptFileError(
            f"{folder}: the checkpoint lacks {len(missing)} tensors that {hf.CONFIG} asks for ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}); do the two belong together?"
        )
    if config.model_type in LEAN_TYPES:
        make_attention_lean(model)
    return model


def class_of(config: Any) -> Any:
    """Return the class that AutoModel chooses for a configuration; None if it knows none."""
    found = transformers.AutoModel._model_mapping.get(type(config), None)
    return found[0] if isinstance(found, list | tuple) else found


def attention_of(config: Any, model_class: Any) -> str:
    """Return the name of the attention that a model of this class is built with."""
    if config.model_type in LEAN_TYPES:
        return _EAGER
    if not getattr(model_class, "_supports_sdpa", False):
        return "eager"
    return _SDPA if config.model_type in hf.MASKED_TYPES else "sdpa"


def attention_cost_frames(config: Any) -> float:
    """Return the number of frames at which attention costs as much as everything else in a layer.

    Per frame a layer multiplies 4 D^2 weights in its projections and 2 D I in its feed-forward part (I the
    intermediate size; convolutions of a conformer left out), and attention adds 2 T D for T frames.
    """
    return float(2 * config.hidden_size + config.intermediate_size)


class _Kept(threading.local):
    """Hidden states of the batch that the calling thread computes, by layer."""

    def __init__(self) -> None:
        self.by_layer: dict[int, torch.Tensor] = {}


class LayerTap:
    """Keeps the hidden states that are asked for while the model runs; reads no version-dependent `hidden_states`.

    Layer 0 is the input of the first layer, n the output of the n-th, and the model's own number of layers stands for
    last_hidden_state: with pre-norm layers that is not the n-th layer's output but its normalised form.
    """

    def __init__(
        self, model: Any, layers: Sequence[int], last: int, *, stack: Sequence[nn.Module] | None = None
    ) -> None:
        """`stack`: the layers, where they are not `model.encoder.layers`."""
        self.layers = tuple(layers)
        self.last = last
        self._kept = _Kept()
        stack = model.encoder.layers if stack is None else stack
        self._hooks = [
            stack[number - 1].register_forward_hook(self._keeper(number))
            if number
            else stack[0].register_forward_pre_hook(self._keep_input, with_kwargs=True)
            for number in set(self.layers) - {last}
        ]

    def remove(self) -> None:
        """Stop keeping hidden states."""
        for hook in self._hooks:
            hook.remove()

    def _keep_input(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._kept.by_layer[0] = args[0] if args else kwargs["hidden_states"]

    def _keeper(self, number: int) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._kept.by_layer[number] = output[0] if isinstance(output, tuple) else output

        return keep

    def take(self, last_hidden_state: torch.Tensor) -> list[torch.Tensor]:
        """Return (B, T, D) of every requested layer, in the requested order, and forget them."""
        kept = self._kept.by_layer
        kept[self.last] = last_hidden_state
        taken = [kept[number] for number in self.layers]
        kept.clear()
        return taken
