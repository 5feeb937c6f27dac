"""Small ONNX models, written as the protocol buffers they are, so that tests need no package to make them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_FLOAT = 1  # TensorProto.DataType


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _node(kind: str, inputs: Sequence[str], output: str, **integers: Any) -> bytes:
    attributes = b""
    for name, value in integers.items():
        many = isinstance(value, list)
        values = b"".join(_field(8, item) for item in value) if many else _field(3, value)
        attributes += _field(5, _field(1, name) + values + _field(20, 7 if many else 2))
    return b"".join(_field(1, name) for name in inputs) + _field(2, output) + _field(4, kind) + attributes


def _value(name: str, shape: Sequence[int | str]) -> bytes:
    dims = b"".join(_field(1, _field(1 if isinstance(size, int) else 2, size)) for size in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, _FLOAT) + _field(2, dims)))


def _tensor(name: str, values: np.ndarray) -> bytes:
    dims = b"".join(_field(1, size) for size in values.shape)
    return dims + _field(2, _FLOAT) + _field(8, name) + _field(9, values.astype("<f4").tobytes())


def _model(nodes: Sequence[bytes], tensors: Sequence[bytes], inputs: bytes, outputs: Sequence[bytes]) -> bytes:
    graph = b"".join(_field(1, node) for node in nodes) + _field(2, "graph")
    graph += b"".join(_field(5, tensor) for tensor in tensors)
    graph += _field(11, inputs) + b"".join(_field(12, output) for output in outputs)
    return _field(1, 8) + _field(7, graph) + _field(8, _field(2, 13))  # IR version 8, operators of version 13


def save_speaker_model(folder: Path, *, dim: int = 12, batch: int | str = "B", **description: Any) -> Path:
    """A model in WeSpeaker's layout: `feats` (B, T, 80) to `embs` (B, dim), and `frames` (B, T, dim)."""
    weight = np.random.default_rng(0).standard_normal((80, dim)) / 9
    nodes = [
        _node("MatMul", ["feats", "weight"], "hidden"),
        _node("Tanh", ["hidden"], "frames"),
        _node("ReduceMean", ["frames"], "embs", axes=[1], keepdims=0),
    ]
    outputs = [_value("embs", [batch, dim]), _value("frames", [batch, "T", dim])]
    content = _model(nodes, [_tensor("weight", weight)], _value("feats", [batch, "T", 80]), outputs)
    fields = {"input": "fbank", "num_mel_bins": 80, "scale": 32768, "window": "hamming", "mean_norm": True}
    return _save(folder, content, {**fields, "output": "embs", **description})


def save_waveform_model(folder: Path, *, dim: int = 8, kernel: int = 640, **description: Any) -> Path:
    """One convolution over samples (B, S), and the mean of its frames: `embs` (B, dim)."""
    weight = np.random.default_rng(1).standard_normal((dim, 1, kernel)) / kernel**0.5
    nodes = [
        _node("Unsqueeze", ["wave", "axis"], "channel"),
        _node("Conv", ["channel", "weight"], "hidden", kernel_shape=[kernel], strides=[160]),
        _node("Relu", ["hidden"], "active"),
        _node("ReduceMean", ["active"], "embs", axes=[2], keepdims=0),
    ]
    axis = _field(1, 1) + _field(2, 7) + _field(8, "axis") + _field(9, (1).to_bytes(8, "little"))
    content = _model(nodes, [_tensor("weight", weight), axis], _value("wave", ["B", "S"]), [_value("embs", ["B", dim])])
    return _save(folder, content, {"input": "waveform", "output": "embs", **description})


def _save(folder: Path, content: bytes, description: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    (folder / "encoder.json").write_text(json.dumps({"sample_rate": 16000, **description}))
    return folder
