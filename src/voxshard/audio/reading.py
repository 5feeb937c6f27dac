"""Probing and reading recordings: which decoder, what went wrong, mono, and the encoder's rate."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import soxr

from voxshard.audio import containers, ffmpeg, sndfile
from voxshard.audio.clip import ClipPolicy, fit
from voxshard.audio.sndfile import WHOLE, CannotOpenError, Decoded, Span
from voxshard.audio.sources import AudioPath, Source, opened
from voxshard.errors import EmptyAudioError, NonFiniteAudioError, TruncatedAudioError, UnreadableAudioError

_CROP_MARGIN_S = 1.0
"""Decoded beyond a crop at the head, so that resampling (its filter is far shorter) gives what the whole file gives."""


@dataclass(frozen=True)
class AudioHeader:
    """What is known of a recording without listening to it."""

    duration_s: float
    sample_rate: int
    num_channels: int
    num_frames: int
    format: str
    """Container as libsndfile calls it, in lower case: wav, flac, ogg, mp3...; or what ffmpeg was needed for."""


def probe(path: AudioPath) -> AudioHeader:
    """Read a recording's header; decodes only what does not state its length, or what only ffmpeg reads.

    Raises
    ------
    EmptyAudioError, UnreadableAudioError, TruncatedAudioError : a verdict on the content.
    OSError : the storage failed; FileNotFoundError: there is no such file.
    """
    with opened(path) as source:
        try:
            about = sndfile.facts(source)
        except (UnreadableAudioError, TruncatedAudioError):
            about = None
        if about is not None and about.num_frames is not None:
            return _header(about.num_frames, about.num_channels, about.sample_rate, about.format)
        decoded = _decode(path, source, WHOLE)
        num_frames, num_channels = decoded.samples_NC.shape
        return _header(num_frames, num_channels, decoded.sample_rate, decoded.format)


def _header(num_frames: int, num_channels: int, sample_rate: int, name: str) -> AudioHeader:
    return AudioHeader(num_frames / sample_rate, sample_rate, num_channels, num_frames, name)


def read(
    path: AudioPath, *, sample_rate: int, start_s: float | None = None, end_s: float | None = None
) -> npt.NDArray[np.float32]:
    """A recording, or a span of it, as float32 mono at the rate asked for.

    Parameters
    ----------
    sample_rate : Hz of the result.
    start_s, end_s : the span in seconds, None for the recording's start and end; cut before resampling. An end up to
        10 ms beyond the recording counts as its end: lists of segments are rounded.

    Returns
    -------
    float32 (S,). Equal, to the last bit, to ``librosa.load(path, sr=sample_rate, mono=True)``, whose `offset` and
    `duration` stand for the span: the mean over channels, then soxr at its quality "HQ".

    Raises
    ------
    EmptyAudioError : no bytes, no samples, or none in the span.
    UnreadableAudioError : no audio, or in a format that nothing here reads.
    TruncatedAudioError : its end is missing, or decoding stops part-way.
    TooShortError : the span lies beyond the recording's end.
    NonFiniteAudioError : NaN or infinite samples.
    OSError : the storage failed; FileNotFoundError: there is no such file.
    BackendUnavailableError : a URL, without the packages that open it.
    """
    return _read(path, sample_rate, Span(start_s, end_s))


def read_clip(
    path: AudioPath,
    *,
    sample_rate: int,
    clip: ClipPolicy,
    utterance_id: str,
    start_s: float | None = None,
    end_s: float | None = None,
) -> npt.NDArray[np.float32]:
    """`read`, then trimmed, cropped and padded as `clip` says.

    Returns
    -------
    float32 (S,). A crop at the head decodes only what it keeps.
    """
    head_only = clip.max_seconds is not None and clip.crop == "head" and not clip.trim
    at_most_s = clip.max_seconds + _CROP_MARGIN_S if head_only and clip.max_seconds is not None else None
    waveform = _read(path, sample_rate, Span(start_s, end_s, at_most_s))
    return fit(waveform, sample_rate=sample_rate, clip=clip, utterance_id=utterance_id)


def clip_samples(
    samples: npt.NDArray[np.float32], found: int, *, sample_rate: int, clip: ClipPolicy, utterance_id: str
) -> npt.NDArray[np.float32]:
    """Do to samples in memory what `read_clip` does to a recording.

    Parameters
    ----------
    samples : float32 (N,), mono.
    found : their sample rate in Hz.
    sample_rate : Hz of the result.

    Returns
    -------
    float32 (S,), equal to `read_clip` of a recording with these samples.

    Raises
    ------
    EmptyAudioError, NonFiniteAudioError : a verdict on the content.
    """
    if not len(samples):
        raise EmptyAudioError("no samples in it")
    return fit(_finished(samples, found, sample_rate), sample_rate=sample_rate, clip=clip, utterance_id=utterance_id)


def _read(path: AudioPath, sample_rate: int, span: Span) -> npt.NDArray[np.float32]:
    with opened(path) as source:
        decoded = _decode(path, source, span)
    return _finished(_mono(decoded.samples_NC), decoded.sample_rate, sample_rate)


def _finished(mono: npt.NDArray[np.float32], found: int, wanted: int) -> npt.NDArray[np.float32]:
    """Check that all samples (N,) are finite, and resample them from the rate `found` to `wanted`."""
    finite = np.isfinite(mono)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise NonFiniteAudioError(
            f"{len(bad)} of {len(mono)} samples are NaN or infinite, the first at {bad[0] / found:.3f} s"
        )
    return _resampled(mono, found, wanted)


def _decode(path: AudioPath, source: Source, span: Span) -> Decoded:
    """Decode by whatever can; a verdict falls only on bytes that a plain read brought whole."""
    what = containers.format_for_ffmpeg(source.head)
    if what is None:
        try:
            return sndfile.decode(source, span)
        except (UnreadableAudioError, TruncatedAudioError):
            copy = Source(source.whole())
        try:
            return sndfile.decode(copy, span)
        except CannotOpenError:
            other = containers.not_audio(source.head)
            if other is not None:
                raise UnreadableAudioError(f"not audio: it looks like {other}") from None
            what = "an unknown format"
    try:
        wav = ffmpeg.to_wav(path, source, what)
    except (UnreadableAudioError, TruncatedAudioError):
        source.whole()
        raise
    return replace(sndfile.decode(Source(wav), span), format=what.lower())


def _mono(samples_NC: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The mean over channels, (N,), as `np.mean` has it."""
    num_channels = samples_NC.shape[1]
    if num_channels == 1:
        return samples_NC[:, 0]
    if num_channels == 2:  # the same bits, 25 times faster
        return (samples_NC[:, 0] + samples_NC[:, 1]) / np.float32(2)
    mono: npt.NDArray[np.float32] = np.mean(samples_NC, axis=1)
    return mono


def _resampled(mono: npt.NDArray[np.float32], found: int, wanted: int) -> npt.NDArray[np.float32]:
    """As `librosa.resample` does it: soxr's HQ, and its rule for the number of samples."""
    if found == wanted:
        return mono
    num_samples = int(np.ceil(len(mono) * (float(wanted) / found)))
    resampled = soxr.resample(mono, found, wanted, quality="soxr_hq")[:num_samples]
    if len(resampled) < num_samples:
        resampled = np.pad(resampled, (0, num_samples - len(resampled)))
    return np.asarray(resampled, dtype=np.float32)
