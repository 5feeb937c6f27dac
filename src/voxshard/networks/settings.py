"""Settings of the networks that voxshard trains; no framework is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BeforeValidator, Field, model_validator

from voxshard.config import Settings, validated

Family = Literal["wav2vec2", "ecapa", "sbcnn", "timbre", "vgg", "vggish"]
Loss = Literal["cross_entropy", "bce", "mse", "aam"]
PooledBy = Literal["mean", "sum", "max"]


class HeadSettings(Settings):
    """Settings of the classification heads, one per group of labels: dense layer, optional layer norm, activation,
    dropout, linear layer."""

    hidden: int | None = Field(None, ge=1)
    """Size of the first dense layer. Null: the size of its input."""
    layer_norm: bool = False
    activation: Literal["relu", "tanh", "gelu"] = "relu"
    dropout: float = Field(0.3, ge=0, lt=1)


class NetworkSettings(Settings):
    """Settings that every network takes."""

    min_batch: ClassVar[int] = 1
    """Minimum number of recordings in a training step."""
    sample_rate: int = Field(16000, ge=1000)
    """Sample rate in Hz to which recordings are resampled."""
    heads: HeadSettings = HeadSettings.model_validate({})
    shared_dim: int | None = Field(None, ge=1)
    """Size of a dense layer between the backbone and all heads; null: no such layer."""


def _fine_tuned(value: Any) -> Any:
    is_number = isinstance(value, int) and not isinstance(value, bool) and value > 0
    if not is_number and value not in ("none", "all", "transformer"):
        raise ValueError("fine_tune is none, all, transformer (all but the convolutions) or a number of top layers")
    return value


def _one_layer(value: Any) -> Any:
    if value != "last" and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ValueError("a layer is 0 (input of the first layer), 1, 2, ... or `last`")
    return value


HiddenLayer = Annotated[int | str, BeforeValidator(_one_layer)]


class Wav2Vec2Settings(NetworkSettings):
    """Self-supervised model of the package transformers, frozen or fine-tuned, with heads."""

    weights: str | None = None
    """Folder of the pretrained model, or `org/name`, as for the encoder `hf`."""
    fine_tune: Annotated[int | str, BeforeValidator(_fine_tuned)] = "transformer"
    """What is trained in addition to the heads: `none`; `all`; `transformer` (everything but the convolutions at the
    bottom, the usual choice); or a number of highest layers."""
    layer: HiddenLayer = "last"
    """Hidden layer whose frames are pooled, numbered as in the encoder `hf`."""
    weighted: bool = False
    """Pool a learned weighted sum of all layers 0 ... n instead."""
    layer_weighting: Literal["softmax", "raw"] = "softmax"
    """With `weighted`, `softmax` gives positive weights that sum to 1; `raw` gives unconstrained weights, initially 1 /
    (n + 1) each."""
    pooling: PooledBy = "mean"
    """Pooling over the valid frames."""

    @model_validator(mode="after")
    def _check_weighting(self) -> Self:
        if self.layer_weighting == "raw" and not self.weighted:
            raise ValueError("layer_weighting: no effect without weighted=true")
        return self


class MelNetworkSettings(NetworkSettings):
    """Settings of networks on a spectrogram."""

    normalize: bool = True
    """Shift and scale features to mean 0 and variance 1 on the training recordings."""
    mean: float | None = None
    """Mean of the features, if known; null: computed per band from the training recordings."""
    std: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("give mean and std both, or neither")
        if self.mean is not None and not self.normalize:
            raise ValueError("normalize=false leaves features as they are, and mean and std out")
        return self


class EcapaNetworkSettings(MelNetworkSettings):
    """ECAPA-TDNN (SpeechBrain's class), trained from scratch, with heads."""

    min_batch: ClassVar[int] = 2
    """Minimum number of recordings in a training step; pooled vectors are normalised over the batch."""
    features: Literal["mfcc", "fbank", "kaldi_fbank"] = "mfcc"
    """`mfcc`: torchaudio's MFCC; `fbank`: SpeechBrain's filter bank, minus its mean over each recording; `kaldi_fbank`:
    Kaldi's filter bank (Hann window, no dither, HTK order) of the waveform minus its mean. A front end that divides by
    twice the standard deviation, as the audio spectrogram transformer's does, is `mean=M std=2S`."""
    num_mfcc: int = Field(80, ge=1)
    num_mels: int | None = Field(None, ge=1)
    """Number of mel bands; null: 128 for `mfcc` and `kaldi_fbank`, 80 for `fbank`."""
    n_fft: int = Field(400, ge=16)
    """Window size of `mfcc`, in samples; the filter banks have windows of 25 ms."""
    hop_length: int = Field(200, ge=1)
    """Hop of `mfcc`, in samples; torchaudio's default is half a window. The filter banks have 10 ms."""
    remove_mean: bool = False
    """With `mfcc`, subtract the waveform's mean first, as `kaldi_fbank` always does."""
    num_frames: int | None = Field(None, ge=5)
    """With `kaldi_fbank`, number of frames to which every recording is cropped or padded with zeros; null:
    unchanged."""
    width: int = Field(512, ge=8)
    """Number of channels of the blocks, a multiple of 8; pooling has three times as many."""
    embedding_size: int = Field(192, ge=1)
    attention_channels: int = Field(128, ge=1)

    @property
    def mel_bands(self) -> int:
        return self.num_mels or (80 if self.features == "fbank" else 128)

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if self.width % 8:
            raise ValueError("width is a multiple of 8: a Res2Net block cuts its channels into 8 parts")
        if self.features == "mfcc" and self.num_mfcc > self.mel_bands:
            raise ValueError("num_mfcc is at most num_mels")
        if self.features != "mfcc":
            defaults = type(self).model_fields
            of_mfcc = ("num_mfcc", "n_fft", "hop_length", "remove_mean")
            idle = [name for name in of_mfcc if getattr(self, name) != defaults[name].default]
            if idle:
                raise ValueError(f"{', '.join(idle)}: no effect with features={self.features}; omit it, or use mfcc")
        if self.features != "kaldi_fbank" and self.num_frames is not None:
            raise ValueError(f"num_frames: no effect with features={self.features}; omit it, or use kaldi_fbank")
        if self.features == "fbank" and self.sample_rate != 16000:
            raise ValueError("fbank is defined at 16000 Hz; use mfcc at other rates")
        return self


_PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Pons, Serrà, Serra (arXiv 1810.10274): `us8k_spec`, `asc_spec` and `spec` in config_file.py of
    # neural-classifiers-with-few-audio.
    "few-audio-2018": {
        "features": "log10", "sample_rate": 44100, "n_fft": 1024, "hop_length": 1024, "num_mels": 128,
        "patch_frames": 128, "dropout": 0.5,
    },
}  # fmt: skip


class SpectrogramSettings(MelNetworkSettings):
    """Convolutional network for small training sets, on patches of a log-mel spectrogram."""

    preset: Literal["few-audio-2018"] | None = None
    """Published front end that sets the defaults of the settings below; explicit settings take precedence."""
    features: Literal["mel", "logmel", "log10"] = "mel"
    """`mel`: log(10000 x + 1) of the power x in bands of the HTK mel scale; `logmel`: decibels in Slaney's bands, as
    the encoder `logmel` computes and stores them; `log10`: log10(x + 2.2e-16) in Slaney's bands."""
    patch_frames: int = Field(128, ge=32)
    """Number of frames in a patch; patches do not overlap, and the last one is completed by repetition."""
    num_mels: int = Field(128, ge=32)
    n_fft: int = Field(1024, ge=64)
    hop_length: int = Field(512, ge=1)
    """Hop in samples."""
    fmin: float = Field(0.0, ge=0)
    """Lowest frequency of Slaney's bands, in Hz."""
    fmax: float | None = None
    """Highest frequency of Slaney's bands, in Hz; null: half the sample rate."""
    channels: int = Field(24, ge=4)
    """Number of channels of the first convolution; later layers have multiples of it."""
    embedding_size: int = Field(64, ge=2)
    """Size of the last layer below the heads, in which prototypes are compared."""
    learned_log: bool = False
    """Learn the compression log(a x + b) of the power x instead of a fixed one."""
    dropout: float = Field(0.5, ge=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("preset") in _PRESETS:
            return {**_PRESETS[value["preset"]], **value}
        return value

    @model_validator(mode="after")
    def _check_features(self) -> Self:
        if self.features == "logmel" and self.learned_log:
            raise ValueError("learned_log compresses power; features=logmel is in decibels already")
        if self.features == "mel" and (self.fmin or self.fmax is not None):
            raise ValueError("fmin and fmax are of logmel and log10; those of mel go from 0 to half the sample rate")
        return self


class VggishNetworkSettings(NetworkSettings):
    """VGGish's network, fine-tuned from converted weights."""

    weights: str | None = None
    """Folder with vggish.safetensors (`voxshard weights convert`), as for the encoder `vggish`."""
    fine_tune: bool = True
    """Train the network as well as the heads."""


FAMILIES: Mapping[str, type[NetworkSettings]] = {
    "wav2vec2": Wav2Vec2Settings,
    "ecapa": EcapaNetworkSettings,
    "sbcnn": SpectrogramSettings,
    "timbre": SpectrogramSettings,
    "vgg": SpectrogramSettings,
    "vggish": VggishNetworkSettings,
}
SUMMARIES: Mapping[str, str] = {
    "wav2vec2": "any model of the encoder hf, frozen or fine-tuned, with heads",
    "ecapa": "SpeechBrain's ECAPA-TDNN from scratch",
    "sbcnn": "convolutional network for few data, on patches of a log-mel spectrogram (Salamon, Bello)",
    "timbre": "convolutional network for few data with filters of several shapes (Pons)",
    "vgg": "small VGG network for few data, on patches of a log-mel spectrogram",
    "vggish": "VGGish's network, fine-tuned from converted weights",
}
NAMES: tuple[str, ...] = get_args(Family)
ON_LOGMEL: tuple[str, ...] = tuple(name for name, model in FAMILIES.items() if model is SpectrogramSettings)
"""Families that take a stored `logmel` set."""


class LabelGroup(Settings):
    """The outputs of one head."""

    labels: tuple[str, ...] = Field(min_length=1)
    """Names of the outputs, in order."""
    column: str | None = None
    """Column of the manifest whose values are the outputs; null: each label is a yes-or-no column."""


class NetworkSpec(Settings):
    """Everything needed to build a network, except its weights."""

    family: Family
    settings: dict[str, Any]
    groups: tuple[LabelGroup, ...] = Field(min_length=1)
    """One group per head; the outputs are concatenated in this order."""
    loss: Loss
    scale: float = 30.0
    """With the loss aam, factor on cosines before the softmax."""
    prototypes: bool = False
    """Classify by the distance to one point per class instead of with heads."""

    def network_settings(self) -> NetworkSettings:
        """Return `settings`, validated for the family.

        Raises
        ------
        ConfigError : everything that is wrong with them.
        """
        return settings_of(self.family, self.settings)

    @property
    def num_outputs(self) -> int:
        return sum(len(group.labels) for group in self.groups)


def settings_of(family: str, content: Mapping[str, Any]) -> NetworkSettings:
    """Return the validated settings of a family.

    Raises
    ------
    ConfigError : everything that is wrong with `content`, with the keys this family knows.
    """
    return validated(FAMILIES[family], content, where=f"settings of {family}")
