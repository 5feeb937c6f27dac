"""Interface of every encoder, in NumPy on both sides.

Suffixes: B utterances of a batch, S samples, L feature length, P windows, T frames, D embedding size.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from voxshard import files
from voxshard.config import Settings
from voxshard.errors import DeviceUnavailableError
from voxshard.store.output_spec import Granularity as Granularity
from voxshard.store.output_spec import OutputSpec

Waveform: TypeAlias = npt.NDArray[np.float32]
"""(S,) float32, mono, at the encoder's sample rate, in [-1, 1]."""
Features: TypeAlias = npt.NDArray[Any]
"""What `prepare` gives for one utterance: an array whose first axis is the length that `encode` is given."""
Output: TypeAlias = dict[str, npt.NDArray[Any]]
"""Per utterance: "embedding" (D,) or (L, D), "frames" (T, D) or (T, L, D), "codes" (T,) or (T, K) of
several codebooks."""

BatchPolicy = Literal["padded", "windows", "equal_length", "single"]
Precision = Literal["float32", "tf32", "bf16", "fp16"]


class ClipSettings(Settings):
    """How a recording becomes the clip an encoder sees; the same for every encoder."""

    max_seconds: float | None = Field(None, gt=0)
    """Maximum length of a clip in seconds; longer recordings are cropped. Null: no limit."""
    crop: Literal["head", "centre", "random"] = "head"
    """Part of a longer recording that is kept; random is seeded by (seed, utterance_id)."""
    pad: Literal["none", "zero", "repeat"] = "none"
    """How a shorter clip is padded to `min_seconds`, or to `max_seconds` if `min_seconds` is not set."""
    min_seconds: float | None = Field(None, gt=0)
    """Minimum length of a clip in seconds; shorter clips are padded with `pad`. Null: no minimum."""
    trim: bool = False
    """Remove silence at both ends before cropping."""
    accept_truncated: bool = False
    """Decode what a truncated recording still contains, with a warning; false: it is a failure."""
    seed: int = 0
    """Seed of random crops."""

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if self.min_seconds is not None and self.pad == "none":
            raise ValueError("min_seconds needs pad=zero or pad=repeat: it sets how long clips become, pad sets how")
        if self.min_seconds is not None and self.max_seconds is not None and self.min_seconds > self.max_seconds:
            raise ValueError(f"min_seconds {self.min_seconds:g} is more than max_seconds {self.max_seconds:g}")
        return self


class EncoderSettings(ClipSettings):
    """Settings of every encoder; encoders add their own by inheriting from this class."""

    precision: Precision = "float32"
    """Arithmetic of the model."""
    store_dtype: Literal["float32", "float16"] = "float32"
    """Type in which embeddings are stored."""

    @classmethod
    def weight_files(cls, folder: Path) -> list[str]:
        """Return the names, relative to `folder`, of the weight files that loading the encoder opens.

        An encoder with weights has a setting `weights` and overrides this method.

        Raises
        ------
        MissingWeightsError : the folder contains no model.
        """
        return []


@dataclass(frozen=True)
class WeightFile:
    """File on which the encoder's numbers depend."""

    name: str
    """Path relative to the weights folder."""
    num_bytes: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class EncoderInfo(OutputSpec):
    """Facts of one encoder with its settings; known without loading the model."""

    name: str
    requires: tuple[str, ...] = ()
    """Packages that must be importable where the encoder runs, by import name, in addition to voxshard's own."""
    needs_gpu: bool = False
    """Whether it uses a GPU where one is available; without it, jobs go to CPU partitions."""
    batch_policy: BatchPolicy
    fingerprint: str
    """SHA-256 (hex) of `provenance`."""
    provenance: Mapping[str, Any]
    """Everything that the numbers depend on: encoder, settings, weights' hashes, numerics version, libraries."""
    min_samples: int = 1
    """Fewest samples at `sample_rate` an utterance needs; shorter ones fail with TooShortError."""
    chunk_samples: int | None = None
    """Longer clips are prepared and encoded in pieces of this many samples, then joined; None: never cut."""
    keeps_rate: bool = False
    """Recordings are not resampled: the preparer is called with the waveform and its own rate in Hz; `sample_rate` is
    nominal."""
    encodes_in_prepare: bool = False
    """All the work is in `prepare`; `encode` only hands it on. Every CPU then runs a decode worker."""
    weights_folder: Path | None = None
    weight_files: tuple[WeightFile, ...] = field(default=(), repr=False)


def describe(
    *,
    name: str,
    settings: EncoderSettings,
    code_version: int,
    libraries: Sequence[str],
    weight_files: tuple[WeightFile, ...] = (),
    derived: Mapping[str, Any] | None = None,
    **facts: Any,
) -> EncoderInfo:
    """Build the facts of an encoder, with the fingerprint that follows from its settings.

    Parameters
    ----------
    code_version : raised by hand whenever our code changes the numbers.
    libraries : distributions whose major version the numbers depend on (of a 0.x, the minor one too).
    weight_files : the files the loader opens.
    derived : further facts the numbers depend on (a probed frame hop, the layer a default stands for).
    facts : the remaining fields of `EncoderInfo`.

    The path of the weights does not count, and a setting at its default does not either: a setting added later, off
    by default, leaves old feature sets valid.
    """
    chosen = settings.model_dump(mode="json", exclude_defaults=True, exclude={"weights"})
    if settings.crop != "random":
        chosen.pop("seed", None)
    provenance = {
        "encoder": name,
        "settings": chosen,
        "weights": {item.name: item.sha256 for item in weight_files},
        "numerics": code_version,
        "libraries": {library: _major(version(library)) for library in libraries},
        **({"derived": dict(derived)} if derived else {}),
    }
    return EncoderInfo(
        name=name, provenance=provenance, fingerprint=files.digest_of(provenance), weight_files=weight_files, **facts
    )


def _major(text: str) -> str:
    first, _, rest = text.partition(".")
    return f"0.{rest.partition('.')[0]}" if first == "0" else first


class _EncoderMeta(ABCMeta):
    """Metaclass that raises an error for an encoder without `info` when it is constructed."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        encoder = super().__call__(*args, **kwargs)
        if not isinstance(getattr(encoder, "info", None), EncoderInfo):
            raise TypeError(
                f"{cls.__module__}.{cls.__qualname__}: its constructor sets no `info`; "
                "set `self.info = voxshard.encoders.base.describe(...)`"
            )
        return encoder


class Encoder(metaclass=_EncoderMeta):
    """One pretrained or hand-made encoder.

    Constructing it is cheap: it reads configuration, not weights, so that its `info` is known on any machine that has
    its framework. `load` brings the model onto a device. Row b of what `encode` returns depends on row b alone: not
    on the other rows, the padding, the shard, or the order. `voxshard.testing.EncoderConformance` checks that.

    A subclass sets `info` in its constructor and defines `encode`; one that does not is refused when it is constructed.
    Classes are built as ``Class(name, settings, known_hashes)``; see `voxshard.encoders.registry.create`.
    """

    settings_model: ClassVar[type[EncoderSettings]] = EncoderSettings
    info: EncoderInfo

    in_flight: int = 2
    """Batches that may be begun before the first is waited for: while a GPU computes one, the next is copied to it."""
    precisions: Sequence[Precision] = ()
    """Precisions that `encode_in` accepts."""
    loaded: Mapping[str, Any] = {}
    """Facts known once the model is loaded (a probed frame hop), for the record; its weights' hashes cover them."""
    preparer: Callable[[Waveform], Features] | None = None
    """What `prepare` does, as a picklable callable whose module imports no framework; None: nothing. Decode
    workers run it, in processes that never see the encoder itself."""

    def prepare(self, waveform: Waveform) -> Features:
        """Prepare one utterance: everything that does not need the framework.

        Parameters
        ----------
        waveform : float32 (S,), S >= info.min_samples.

        Returns
        -------
        Array with the utterance's length as its first axis: (S,) as it came, unless the encoder states otherwise.

        Raises
        ------
        UtteranceError : this recording cannot be encoded; the message gives the reason.
        """
        return waveform if self.preparer is None else self.preparer(waveform)

    def choose_device(self, request: str) -> tuple[str, str]:
        """Choose a device of this machine for a request.

        Parameters
        ----------
        request : "auto", "cpu", "cuda" or "cuda:1".

        Returns
        -------
        The device for `load`, and why it is that one, for the log.

        Raises
        ------
        DeviceUnavailableError : a GPU was asked for and cannot be had; reports what would help.
        """
        if request.startswith("cuda"):
            raise DeviceUnavailableError(f"{self.info.name} runs on the CPU; use --device cpu")
        return "cpu", "it needs no GPU"

    def load(self, device: str) -> None:
        """Bring the model onto `device` ("cpu", "cuda", "cuda:1") in the settings' precision. Called once."""

    @abstractmethod
    def encode(self, features: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> list[Output]:
        """Embed one batch.

        Parameters
        ----------
        features : for the batch policies `padded`, `equal_length` and `single`: (B, Lmax, ...), right-padded with
            zeros; for `windows`: (sum of P, ...), the utterances' windows one after the other.
        lengths : int64 (B,), valid length of each utterance on the first axis of its features (L, or P).

        Returns
        -------
        One dict per utterance, in order: "embedding" float32 (D,) or (num_layers, D), or "frames" float32 (T, D) or
        (T, num_layers, D), and where asked for "codes" int32 (T,) or (T, K).

        Raises
        ------
        DeviceMemoryError : the batch does not fit; the caller tries a smaller one.
        """

    def encode_in(
        self, precision: Precision, features: npt.NDArray[Any], lengths: npt.NDArray[np.int64]
    ) -> list[Output]:
        """Embed one batch in another precision than the settings', to learn what that would gain and cost; encoders
        that compute in several have it, see `precisions`."""
        raise NotImplementedError

    def start(self, features: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> Callable[[], list[Output]]:
        """Begin a batch and return a function that waits for its outputs; by default nothing overlaps."""
        outputs = self.encode(features, lengths)
        return lambda: outputs

    def join(self, parts: Sequence[Output], lengths: Sequence[int]) -> Output:
        """Put the pieces of one chunked utterance together.

        Parameters
        ----------
        parts : outputs of its pieces, in order.
        lengths : feature length of each piece.

        Returns
        -------
        Frames and codes one after the other; embeddings averaged, weighted by length.
        """
        joined: Output = {}
        for key in parts[0]:
            values = [part[key] for part in parts]
            if key == "embedding":
                joined[key] = np.average(values, axis=0, weights=lengths).astype(values[0].dtype)
            else:
                joined[key] = np.concatenate(values)
        return joined

    def cost(self, length: int) -> float:
        """Relative cost of one utterance of `length` padded feature rows; a batch's budget is a sum of these, in
        seconds of audio. By default linear."""
        return length / self.info.sample_rate


KnownHashes: TypeAlias = Mapping[Path, Sequence[WeightFile]]
"""Hashes taken earlier, by weights folder; a file with the same size and time is not hashed again."""
