"""Work of a decode worker on one utterance: read, cut, prepare, and tell bad recordings from temporary faults."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from voxshard import audio
from voxshard.encoders.base import ClipSettings, EncoderInfo, Features, Waveform
from voxshard.errors import (
    BrokenPluginError,
    EnvironmentProblemError,
    TooShortError,
    UnexpectedFaultError,
    UtteranceError,
)
from voxshard.manifest import Utterance
from voxshard.store.shard import Failure
from voxshard.urls import PinnedUrl

_WARM_UP_S = 1.0


@dataclass(frozen=True)
class PreparedUtterance:
    """Utterance that is ready to be encoded."""

    pieces: list[Features]
    """One array, or several if the clip was longer than the encoder's chunk."""
    audio_s: float
    warning: str | None = None
    """Irregularity of a recording that was decoded nevertheless."""


@dataclass(frozen=True)
class Decoder:
    """Everything that a worker needs; it is pickled, and imports no framework."""

    root: str
    sample_rate: int
    min_samples: int
    chunk_samples: int | None
    clip: ClipSettings
    preparer: Callable[..., Features] | None
    """Function of the waveform, and of its rate in Hz if recordings keep theirs."""
    retry_delays_s: tuple[float, ...]
    """Waits in seconds between attempts to read a recording whose storage fails; after the last, the task ends."""
    encoder: str = "the encoder"
    """Name and settings of the encoder, for messages."""
    keeps_rate: bool = False
    """Whether recordings keep their own rate, which the preparer receives; `sample_rate` is then nominal."""

    @classmethod
    def of(
        cls,
        root: str,
        info: EncoderInfo,
        clip: ClipSettings,
        preparer: Callable[..., Features] | None,
        retry_delays_s: tuple[float, ...],
    ) -> Decoder:
        """Collect what a worker needs of an encoder."""
        common = ClipSettings(**clip.model_dump(include=set(ClipSettings.model_fields)))
        chosen = [f"{key}={value}" for key, value in info.provenance.get("settings", {}).items()]
        label = f"encoder {info.name}" + (f" with {', '.join(chosen)}" if chosen else "")
        return cls(
            root,
            info.sample_rate,
            info.min_samples,
            info.chunk_samples,
            common,
            preparer,
            retry_delays_s,
            label,
            info.keeps_rate,
        )

    def warm_up(self) -> None:
        """Import and compile what the preparer needs, before the first recording is timed or blamed.

        Raises
        ------
        BrokenPluginError : the preparer fails on noise, so no recording is at fault.
        """
        if self.preparer is None:
            return
        samples = max(self.min_samples, int(_WARM_UP_S * self.sample_rate))
        noise = np.random.default_rng(0).standard_normal(samples).astype(np.float32) * 0.1
        try:
            features = self.preparer(noise)
        except UtteranceError:
            return
        except (OSError, MemoryError, EnvironmentProblemError):
            raise
        except Exception as exc:  # another package's code: anything can go wrong in it
            frame = traceback.extract_tb(exc.__traceback__)[-1]
            raise BrokenPluginError(
                f"{self.encoder}: its preparer fails on {samples} samples of noise: {type(exc).__name__}: {exc} "
                f"({frame.filename}, line {frame.lineno}); change the setting or fix the encoder"
            ) from exc
        if not isinstance(features, np.ndarray) or features.ndim == 0 or features.dtype.hasobject:
            raise BrokenPluginError(
                f"{self.encoder}: its preparer returns {type(features).__name__} for {samples} samples of noise, "
                "expected an array of numbers whose first axis is the utterance's length; fix the encoder"
            )

    def decode(self, utterance: Utterance) -> PreparedUtterance | Failure:
        """Read and prepare one utterance.

        Returns
        -------
        PreparedUtterance, or a Failure where the recording itself is at fault, which an UtteranceError alone states.

        Raises
        ------
        OSError, MemoryError : reading failed for reasons outside the recording, after every retry.
        EnvironmentProblemError : a package that reading needs is not installed, for example.
        UnexpectedFaultError : any other error, such as a missing package or a bug in an encoder's `prepare`: no verdict
            on the recording, so that it must not become a failure.
        """
        return self._decoded(utterance.utterance_id, lambda: self._read(utterance))

    def decode_samples(self, samples: Waveform, sample_rate: int, name: str) -> PreparedUtterance | Failure:
        """Prepare samples (N,) that are already in memory, as `decode` prepares those of a recording.

        Parameters
        ----------
        sample_rate : of the samples, in Hz.
        name : replaces the utterance_id.
        """
        return self._decoded(
            name,
            lambda: self._clip_of_samples(samples, sample_rate, name),
        )

    def _clip_of_samples(self, samples: Waveform, found: int, name: str) -> audio.Clip:
        wanted = found if self.keeps_rate else self.sample_rate
        waveform = audio.clip_samples(samples, found, sample_rate=wanted, clip=self.clip, utterance_id=name)
        return audio.Clip(waveform, wanted, None)

    def _decoded(self, name: str, read: Callable[[], audio.Clip]) -> PreparedUtterance | Failure:
        try:
            waveform, rate, warning = read()
            min_samples = math.ceil(self.min_samples * rate / self.sample_rate)
            if len(waveform) < min_samples:
                advised_s = math.ceil(10 * min_samples / rate) / 10
                raise TooShortError(
                    f"{len(waveform)} samples at {rate} Hz ({len(waveform) / rate:.4f} s); this encoder needs at least "
                    f"{min_samples}: `--set min_seconds={advised_s:g} --set pad=repeat` (or pad=zero) fills short "
                    "recordings up"
                )
            pieces = [self._prepare(piece, rate) for piece in self._pieces(waveform)]
        except UtteranceError as exc:
            return Failure(name, type(exc).__name__, str(exc))
        except (OSError, MemoryError, EnvironmentProblemError):
            raise
        except Exception as exc:
            raise UnexpectedFaultError(f"{self.encoder}, utterance {name!r}: {type(exc).__name__}: {exc}") from exc
        return PreparedUtterance(pieces, len(waveform) / rate, warning)

    def place(self, utterance: Utterance) -> str | bytes:
        """Return the location of a recording; an object in a bucket is pinned to the version that was prepared."""
        place = audio.resolve(self.root, utterance.path)
        if utterance.object_version is not None and isinstance(place, str):
            return PinnedUrl(place, utterance.object_version)
        return place

    def _read(self, utterance: Utterance) -> audio.Clip:
        return audio.read_with_retries(
            self.place(utterance),
            sample_rate=None if self.keeps_rate else self.sample_rate,
            clip=self.clip,
            utterance_id=utterance.utterance_id,
            start_s=utterance.start_s,
            end_s=utterance.end_s,
            problem=utterance.problem,
            retry_delays_s=self.retry_delays_s,
        )

    def _pieces(self, waveform: Waveform) -> list[Waveform]:
        """Cut a clip into chunks of `chunk_samples`; a remainder that is too short joins the chunk before it."""
        if self.chunk_samples is None or len(waveform) <= self.chunk_samples:
            return [waveform]
        starts = list(range(0, len(waveform), self.chunk_samples))
        if len(waveform) - starts[-1] < self.min_samples:
            starts.pop()
        return [waveform[a:b] for a, b in zip(starts, [*starts[1:], len(waveform)], strict=True)]

    def _prepare(self, waveform: Waveform, rate: int) -> Features:
        if self.preparer is None:
            return waveform
        return np.ascontiguousarray(self.preparer(waveform, rate) if self.keeps_rate else self.preparer(waveform))
