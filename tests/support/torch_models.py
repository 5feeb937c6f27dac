"""Small PyTorch models with random weights, in the layouts users download.

`python -m support.torch_models FOLDER NAME...` saves those of `WEIGHTS` as a weights folder; for tests of another
environment.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file as save_arrays

from support.vggish_reference import random_weights

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "mask_time_prob": 0.0,
}
CONVOLUTIONAL = {**SMALL, "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec2-group": ("Wav2Vec2", CONVOLUTIONAL),
    "wav2vec2-layer": ("Wav2Vec2", {**CONVOLUTIONAL, **STABLE}),
    "hubert-group": ("Hubert", CONVOLUTIONAL),
    "hubert-batch-norm": ("Hubert", {**CONVOLUTIONAL, **STABLE, "conv_pos_batch_norm": True}),
    "wavlm-group": ("WavLM", CONVOLUTIONAL),
    "wavlm-layer": ("WavLM", {**CONVOLUTIONAL, **STABLE}),
    "data2vec": ("Data2VecAudio", {**CONVOLUTIONAL, "num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 19}),
    "w2v-bert": ("Wav2Vec2Bert", {**SMALL, "left_max_position_embeddings": 6, "right_max_position_embeddings": 3}),
}


def spread_weights(model: Any, seed: int = 0) -> None:
    """Weights of unit gain, so that attention is not uniform and every layer shows in the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point() or "running_var" in name:
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim > 1 and "original0" not in name:
                tensor.copy_(noise / tensor[0].numel() ** 0.5)
            elif "bias" in name or "mean" in name:
                tensor.copy_(0.1 * noise)


def save_hf(folder: Path, kind: str, *, do_normalize: bool = True, seed: int = 0, **overrides: Any) -> None:
    """Save a model of `MODELS` and its feature extractor, as `save_pretrained` does."""
    import transformers

    family, settings = MODELS[kind]
    config = getattr(transformers, f"{family}Config")(**{**settings, **overrides})
    with torch.random.fork_rng(devices=[]):  # `spread_weights` leaves the gains of weight normalisation as they are
        torch.manual_seed(seed)
        model = getattr(transformers, f"{family}Model")(config)
    spread_weights(model, seed)
    model.save_pretrained(folder)
    if kind == "w2v-bert":
        extractor = transformers.SeamlessM4TFeatureExtractor(padding_value=1)
    else:
        extractor = transformers.Wav2Vec2FeatureExtractor(
            do_normalize=do_normalize, return_attention_mask=not do_normalize
        )
    extractor.save_pretrained(folder)


def save_metis(
    folder: Path, w2v_bert: Path, *, hidden: int = 32, channels: int = 24, intermediate: int = 40, blocks: int = 3,
    tokens: int = 64,
) -> None:  # fmt: skip
    """Save a folder in the layout of metis8d, with a codec of other sizes than the published one."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "w2v-bert-2.0").symlink_to(w2v_bert)
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> torch.Tensor:
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 10
        return torch.randn(shape, generator=generator) / fan_in**0.5

    def norm(name: str) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": 1 + random(channels), f"{name}.bias": random(channels)}

    state = {"encoder.0.embed.weight": random(channels, hidden, 7), "encoder.0.embed.bias": random(channels)}
    state |= norm("encoder.0.norm") | norm("encoder.0.final_layer_norm")
    for number in range(blocks):
        block = f"encoder.0.convnext.{number}"
        state |= norm(f"{block}.norm")
        state |= {
            f"{block}.gamma": 1 + random(channels),
            f"{block}.dwconv.weight": random(channels, 1, 7),
            f"{block}.dwconv.bias": random(channels),
            f"{block}.pwconv1.weight": random(intermediate, channels),
            f"{block}.pwconv1.bias": random(intermediate),
            f"{block}.pwconv2.weight": random(channels, intermediate),
            f"{block}.pwconv2.bias": random(channels),
        }
    quantizer = "quantizer.quantizers.0"
    state |= {
        "encoder.1.weight": random(hidden, channels),
        "encoder.1.bias": random(hidden),
        f"{quantizer}.in_project.weight_g": 1 + random(8, 1, 1).abs(),
        f"{quantizer}.in_project.weight_v": random(8, hidden, 1),
        f"{quantizer}.in_project.bias": random(8),
        f"{quantizer}.codebook.weight": random(tokens, 8),
        "decoder.1.bias": random(hidden),
    }
    (folder / "MaskGCT/semantic_codec").mkdir(parents=True)
    save_file(state, folder / "MaskGCT/semantic_codec/model.safetensors")
    statistics = {"mean": 0.1 * random(hidden), "var": 1 + random(hidden).abs()}
    torch.save(statistics, folder / "wav2vec2bert_stats.pt")


def save_ecapa(folder: Path, **sizes: Any) -> None:
    """Save an ECAPA-TDNN as SpeechBrain does, with a YAML file that must never be executed."""
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    small = {"input_size": 40, "channels": [32, 32, 32, 32, 48], "attention_channels": 16, "se_channels": 8}
    network = ECAPA_TDNN(**{**small, "lin_neurons": 24, "res2net_scale": 4, **sizes})
    spread_weights(network, 5)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), folder / "embedding_model.ckpt")
    (folder / "hyperparams.yaml").write_text("model: !new:os.system ['touch executed']\n")


def _metis_with_w2v_bert(folder: Path) -> None:
    # metis8d reads layer 17 unless it is asked for another.
    save_hf(folder.with_name("w2v-bert"), "w2v-bert", num_hidden_layers=18)
    save_metis(folder, folder.with_name("w2v-bert"))


def _narrow_vggish(folder: Path) -> None:
    folder.mkdir(parents=True)
    save_arrays(random_weights(0), folder / "vggish.safetensors")


WEIGHTS = {
    "metis8d": _metis_with_w2v_bert,
    "ecapa": save_ecapa,
    "vggish": _narrow_vggish,
    "hf/facebook/wav2vec2-base": lambda folder: save_hf(folder, "wav2vec2-layer"),
    "hf/small/wav2vec2": lambda folder: save_hf(folder, "wav2vec2-layer"),
}
"""What saves the weights of an encoder, by their place below $VOXSHARD_WEIGHTS."""

if __name__ == "__main__":
    for name in sys.argv[2:]:
        WEIGHTS[name](Path(sys.argv[1]) / name)
