"""Small models of the families of `hf` with random weights, in the layout of `save_pretrained`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers

_LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_SPEECH = {
    **_LAYERS,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_prob": 0.0,
}
_SEANET = {"num_filters": 2, "num_residual_layers": 1, "codebook_size": 32, "codebook_dim": 8, "hidden_size": 16}


def _speech(family: str, **settings: Any) -> tuple[Any, Any]:
    config = getattr(transformers, f"{family}Config")(**{**_SPEECH, **settings})
    return getattr(transformers, f"{family}Model")(config), transformers.Wav2Vec2FeatureExtractor()


def _whisper_config(**settings: Any) -> dict[str, Any]:
    sizes = {"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "d_model": 32}
    return {**sizes, "num_mel_bins": 80, "max_source_positions": 1500, **settings}


def _whisper() -> tuple[Any, Any]:
    config = transformers.WhisperConfig(
        **_whisper_config(decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=48),
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 7),
        vocab_size=50,
        max_target_positions=20,
    )
    return transformers.WhisperForConditionalGeneration(config), transformers.WhisperFeatureExtractor()


def _qwen2_audio() -> tuple[Any, Any]:
    config = transformers.Qwen2AudioConfig(
        audio_config=_whisper_config(model_type="qwen2_audio_encoder"),
        text_config={**_LAYERS, "model_type": "qwen2", "num_key_value_heads": 4, "vocab_size": 50},
    )
    return transformers.Qwen2AudioForConditionalGeneration(config), transformers.WhisperFeatureExtractor()


def _ast() -> tuple[Any, Any]:
    config = transformers.ASTConfig(**_LAYERS, max_length=128, num_mel_bins=64)
    extractor = transformers.ASTFeatureExtractor(max_length=128, num_mel_bins=64)
    return transformers.ASTForAudioClassification(config), extractor


def _clap_audio(**settings: Any) -> dict[str, Any]:
    return {
        "depths": [1, 1],
        "num_attention_heads": [2, 4],
        "patch_embeds_hidden_size": 16,
        "hidden_size": 32,
        "projection_dim": 24,
        **settings,
    }


def _clap(*, fused: bool) -> tuple[Any, Any]:
    text = {**_LAYERS, "vocab_size": 50, "projection_dim": 24}
    audio = _clap_audio(enable_fusion=fused, **({"fusion_type": "aff_2d"} if fused else {}))
    config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=24)
    extractor = transformers.ClapFeatureExtractor(
        truncation="fusion" if fused else "rand_trunc", frequency_min=50, frequency_max=14000
    )
    return transformers.ClapModel(config), extractor


def _clap_projection() -> tuple[Any, Any]:
    config = transformers.ClapAudioConfig(**_clap_audio())
    return transformers.ClapAudioModelWithProjection(config), transformers.ClapFeatureExtractor(truncation="rand_trunc")


def _mimi() -> tuple[Any, Any]:
    config = transformers.MimiConfig(
        **{**_SEANET, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4},
        intermediate_size=48,
        head_dim=8,
        num_quantizers=4,
        vector_quantization_hidden_dimension=8,
        upsample_groups=32,
    )
    return transformers.MimiModel(config), transformers.EncodecFeatureExtractor()


def _encodec() -> tuple[Any, Any]:
    config = transformers.EncodecConfig(**{**_SEANET, "codebook_dim": 16})
    return transformers.EncodecModel(config), transformers.EncodecFeatureExtractor()


def _encodec_stereo() -> tuple[Any, Any]:
    """As the published 48 kHz model: pieces of one second with an overlap, normalised, two channels."""
    config = transformers.EncodecConfig(
        **{**_SEANET, "codebook_dim": 16},
        sampling_rate=48000,
        audio_channels=2,
        normalize=True,
        chunk_length_s=1.0,
        overlap=0.01,
        norm_type="time_group_norm",
        use_causal_conv=False,
        target_bandwidths=[3.0],
    )
    extractor = transformers.EncodecFeatureExtractor(
        feature_size=2, sampling_rate=48000, chunk_length_s=1.0, overlap=0.01
    )
    return transformers.EncodecModel(config), extractor


def _dac() -> tuple[Any, Any]:
    config = transformers.DacConfig(
        encoder_hidden_size=2, decoder_hidden_size=32, downsampling_ratios=[2, 4, 5, 8], n_codebooks=3,
        codebook_size=32, codebook_dim=4, hidden_size=32,
    )  # fmt: skip
    return transformers.DacModel(config), transformers.DacFeatureExtractor(hop_length=320)


def _speech_to_text() -> tuple[Any, Any]:
    """An encoder-decoder without an adapter here."""
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    config = transformers.Speech2TextConfig(
        **sizes,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        vocab_size=50,
        conv_channels=32,
        max_source_positions=600,
    )
    return transformers.Speech2TextModel(config), transformers.Speech2TextFeatureExtractor(normalize_vars=False)


SMALL_MODELS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "unispeech": lambda: _speech("UniSpeech"),
    "unispeech-layer": lambda: _speech(
        "UniSpeech", feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True
    ),
    "unispeech-sat": lambda: _speech("UniSpeechSat"),
    "conformer-rotary": lambda: _speech("Wav2Vec2Conformer", position_embeddings_type="rotary"),
    "conformer-relative": lambda: _speech("Wav2Vec2Conformer", position_embeddings_type="relative"),
    "sew": lambda: _speech("SEW", conv_kernel=(10, 3, 3, 3, 3, 2, 2), conv_stride=(5, 2, 2, 2, 2, 2, 2)),
    "whisper": _whisper,
    "qwen2-audio": _qwen2_audio,
    "ast": _ast,
    "clap": lambda: _clap(fused=False),
    "clap-fused": lambda: _clap(fused=True),
    "clap-projection": _clap_projection,
    "mimi": _mimi,
    "encodec": _encodec,
    "encodec-stereo": _encodec_stereo,
    "dac": _dac,
    "speech-to-text": _speech_to_text,
}


def save_small_model(kind: str, folder: Path) -> Path:
    """Save a model and its feature extractor; returns the folder."""
    model, extractor = SMALL_MODELS[kind]()
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder
