"""Memory that one batch needs on a GPU, counted without one.

    python bench/memory.py [--batch-seconds 320]

The forward pass runs on tensors without data, and the bytes of those that are alive at once are added up: weights,
features, activations. What libraries take in addition is not counted: the CUDA context (about 0.5 GB), workspaces of
convolutions, and what the allocator keeps in other sizes. Give a GPU a quarter more.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from voxshard.encoders import hf
from voxshard.encoders._torch.attention import make_attention_lean
from voxshard.encoders._torch.pooling import pool
from voxshard.encoders._torch.speech_model import FilterBankModel, WaveformModel
from voxshard.encoders._torch.transformers_model import attention_cost_frames, attention_of, class_of
from voxshard.encoders.batching import collate, make_batches
from voxshard.encoders.filterbanks import SeamlessFeatures

RATE = 16_000
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
         "feat_extract_norm": "layer", "do_stable_layer_norm": True}  # fmt: skip
CONFIGS: dict[str, Callable[[], Any]] = {
    "wav2vec2-base": transformers.Wav2Vec2Config,
    "WavLM-large": lambda: transformers.WavLMConfig(**LARGE),
    "w2v-BERT 2.0": transformers.Wav2Vec2BertConfig,
}


class Alive(TorchDispatchMode):
    """The most bytes of tensors that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def count(self, *tensors: torch.Tensor) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._storages = {key: item for key, item in self._storages.items() if not item[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._storages.values()))

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.count(*(item for item in torch.utils._pytree.tree_leaves(result) if isinstance(item, torch.Tensor)))
        return result


def fused_attention(query: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """What a GPU's kernels keep: the result alone."""
    return torch.empty_like(query)


def peak_gb(name: str, clip_s: float, batch_seconds: float) -> tuple[int, float]:
    """Clips in a batch, and the memory that it needs."""
    config = CONFIGS[name]()
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config, attn_implementation=attention_of(config, class_of(config)))
    model.eval().requires_grad_(False)
    make_attention_lean(model)
    clip = np.zeros(int(clip_s * RATE), np.float32)
    if isinstance(config, transformers.Wav2Vec2BertConfig):
        features = SeamlessFeatures()
        frames: hf.Frames = hf.StackedFrames(features)
        prepared = [features(clip)]
        run = FilterBankModel(model)
    else:
        frames = hf.ConvolutionalFrames(tuple(config.conv_kernel), tuple(config.conv_stride))
        prepared = [clip]
        waveforms = WaveformModel(model, frames)
        run = lambda batch: waveforms(batch, lengths_B, torch.from_numpy(lengths_B).to("meta"))  # noqa: E731

    def cost(length: int) -> float:
        count = frames.num_frames(length)
        return count * frames.hop_samples / RATE * (1 + count / attention_cost_frames(config))

    rows, *_ = make_batches([len(prepared[0])] * 4096, "padded", cost, batch_seconds)
    shorter = prepared[0][: -max(1, len(prepared[0]) // 20)]  # so that the batch is padded
    batch, lengths_B = collate([*prepared * (len(rows) - 1), shorter][-len(rows) :], "padded")
    alive = Alive()
    alive.count(*model.parameters(), *model.buffers())
    with torch.inference_mode(), alive:
        last_BTD, valid_BT = run(torch.from_numpy(batch).to("meta"))
        pool(last_BTD, valid_BT, "mean")
    return len(rows), alive.peak / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-seconds", type=float, nargs="+", default=[320.0, 80.0])
    given = parser.parse_args()
    torch.nn.functional.scaled_dot_product_attention = fused_attention
    print("| model | batch seconds | clips of 2 s | clips of 10 s | clips of 60 s |\n| --- | --- | --- | --- | --- |")
    for name in CONFIGS:
        for seconds in given.batch_seconds:
            found = [peak_gb(name, clip_s, seconds) for clip_s in (2.0, 10.0, 60.0)]
            cells = [f"{count} in {size:.1f} GB" for count, size in found]
            print(f"| {name} | {seconds:g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
