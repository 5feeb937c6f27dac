"""Lightning checkpoints without pickle: tensors in a safetensors file, everything else as JSON in its header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from voxshard import files
from voxshard.errors import CorruptFileError


class SafetensorsIO(CheckpointIO):  # type: ignore[misc]  # lightning is Any where it is not installed
    """Checkpoint plugin that stores a training's state in one safetensors file, published atomically."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Publish the state of a training as one file."""
        tensors: dict[str, torch.Tensor] = {}
        content = _encode(checkpoint, tensors)
        files.publish_bytes(Path(path), save(tensors, metadata={"state": json.dumps(content)}))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read the state of a training.

        Raises
        ------
        CorruptFileError : not such a file.
        """
        files.check_readable(Path(path))
        try:
            with safe_open(path, "pt") as stream:
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118  not a mapping
                content = json.loads(stream.metadata()["state"])
        except (SafetensorError, KeyError, TypeError, ValueError) as exc:
            raise CorruptFileError(
                f"{path}: not the state of a training: {exc}; remove its folder to start again"
            ) from exc
        state: dict[str, Any] = _decode(content, tensors)
        return state

    def remove_checkpoint(self, path: Any) -> None:
        """Delete the file if it exists."""
        Path(path).unlink(missing_ok=True)


def _encode(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Convert a value to JSON that preserves non-text keys, tuples and tensors."""
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_encode(key, tensors), _encode(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_encode(item, tensors) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} in the state of a training: {value!r}")


def _decode(content: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(content, dict):
        return content
    ((kind, inside),) = content.items()
    if kind == "tensor":
        return tensors[inside]
    if kind == "dict":
        return {_decode(key, tensors): _decode(item, tensors) for key, item in inside}
    items = [_decode(item, tensors) for item in inside]
    return tuple(items) if kind == "tuple" else items
