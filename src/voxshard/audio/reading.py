"""Probing and reading recordings: which decoder, what went wrong, mono, and the encoder's rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import soxr

from voxshard.audio import containers, ffmpeg, sndfile
from voxshard.audio.chunks import LARGEST_EXCESS
from voxshard.audio.clip import ClipPolicy, fit
from voxshard.audio.parts import Layout, layout_of, missing, mpeg_after_junk
from voxshard.audio.sndfile import WHOLE, CannotOpenError, Decoded, Part, Span
from voxshard.audio.sources import AudioPath, Source, opened
from voxshard.errors import EmptyAudioError, NonFiniteAudioError, TruncatedAudioError, UnreadableAudioError

_UNKNOWN = "an unknown format"
OnWarning: TypeAlias = Callable[[str], None]
_CROP_MARGIN_S = 1.0
"""Decoded beyond a crop at the head, so that resampling (its filter is far shorter) gives what the complete file
gives."""


@dataclass(frozen=True)
class AudioHeader:
    """Facts about a recording from its header, known without decoding it."""

    duration_s: float
    sample_rate: int
    num_channels: int
    num_frames: int
    format: str
    """Container as libsndfile calls it, in lower case: wav, flac, ogg, mp3...; or what ffmpeg was needed for."""
    warning: str | None = None
    """Irregularity of a recording that can be decoded nevertheless."""


def probe(path: AudioPath) -> AudioHeader:
    """Read a recording's header; decodes only what does not state its length, or what only ffmpeg reads.

    Raises
    ------
    EmptyAudioError, UnreadableAudioError, TruncatedAudioError : a verdict on the content.
    OSError : the storage failed; FileNotFoundError: there is no such file.
    """
    with opened(path) as source:
        try:
            header = _facts(layout_of(source, is_probe=True))
        except (UnreadableAudioError, TruncatedAudioError):
            header = None
        if header is not None:
            return header
        decoded = _decode(path, source, WHOLE, accept_truncated=False)
        num_frames, num_channels = decoded.samples_NC.shape
        return _header(num_frames, num_channels, decoded.sample_rate, decoded.format, decoded.warning)


def _facts(layout: Layout) -> AudioHeader | None:
    """Return what the headers of all parts state; None if only decoding shows it."""
    found = [sndfile.facts(part) for part in layout.parts]
    warnings = [*layout.warnings, *(about.warning for about in found if about.warning)]
    name, warning = layout.format or found[0].format, "; ".join(warnings) or None
    if len(found) == 1:
        about = found[0]
        if about.num_frames is None:
            return None
        return _header(about.num_frames, about.num_channels, about.sample_rate, name, warning)
    rate = found[0].sample_rate
    lengths = [_num_resampled(about.num_frames, about.sample_rate, rate) for about in found if about.num_frames]
    if len(lengths) < len(found):
        return None
    num_channels = found[0].num_channels if len({about.num_channels for about in found}) == 1 else 1
    return _header(sum(lengths), num_channels, rate, name, warning)


def _header(num_frames: int, num_channels: int, sample_rate: int, name: str, warning: str | None) -> AudioHeader:
    return AudioHeader(num_frames / sample_rate, sample_rate, num_channels, num_frames, name, warning)


def read(
    path: AudioPath,
    *,
    sample_rate: int,
    start_s: float | None = None,
    end_s: float | None = None,
    accept_truncated: bool = False,
    on_warning: OnWarning | None = None,
) -> npt.NDArray[np.float32]:
    """Read a recording, or a span of it, as float32 mono at the requested sample rate.

    Parameters
    ----------
    sample_rate : Hz of the result.
    start_s, end_s : the span in seconds, None for the recording's start and end; cut before resampling. An end up to
        10 ms beyond the recording counts as its end: lists of segments are rounded.
    accept_truncated : decode what a truncated recording still contains, with a warning.
    on_warning : called with what is odd about a recording that was decoded.

    Returns
    -------
    float32 (S,). Equal, to the last bit, to ``librosa.load(path, sr=sample_rate, mono=True)``, whose `offset` and
    `duration` stand for the span: the mean over channels, then soxr at its quality "HQ".

    Raises
    ------
    EmptyAudioError : no bytes, no samples, or none in the span.
    UnreadableAudioError : no audio, or in a format that nothing here reads.
    TruncatedAudioError : its end is missing, or decoding stops part-way.
    TooShortError : the span is beyond the recording's end.
    NonFiniteAudioError : NaN or infinite samples.
    OSError : the storage failed; FileNotFoundError: there is no such file.
    BackendUnavailableError : a URL, without the packages that open it.
    """
    found = _read(path, sample_rate, Span(start_s, end_s), accept_truncated)
    if found.warning is not None and on_warning is not None:
        on_warning(found.warning)
    return found.waveform


class Clip(NamedTuple):
    """Part of a recording that an encoder receives."""

    waveform: npt.NDArray[np.float32]
    """Samples (S,), mono."""
    sample_rate: int
    warning: str | None
    """Irregularity of a recording that was decoded nevertheless."""


def read_clip(
    path: AudioPath,
    *,
    sample_rate: int | None,
    clip: ClipPolicy,
    utterance_id: str,
    start_s: float | None = None,
    end_s: float | None = None,
) -> Clip:
    """Read a recording as `read` does, then trim, crop and pad it as `clip` specifies.

    Parameters
    ----------
    sample_rate : Hz of the result; None keeps the recording's own.

    Returns
    -------
    The clip. A crop at the head decodes only what it keeps.
    """
    head_only = clip.max_seconds is not None and clip.crop == "head" and not clip.trim
    at_most_s = clip.max_seconds + _CROP_MARGIN_S if head_only and clip.max_seconds is not None else None
    waveform, rate, warning = _read(path, sample_rate, Span(start_s, end_s, at_most_s), clip.accept_truncated)
    return Clip(fit(waveform, sample_rate=rate, clip=clip, utterance_id=utterance_id), rate, warning)


def clip_samples(
    samples: npt.NDArray[np.float32], found: int, *, sample_rate: int, clip: ClipPolicy, utterance_id: str
) -> npt.NDArray[np.float32]:
    """Process samples in memory as `read_clip` processes a recording.

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


def _read(path: AudioPath, sample_rate: int | None, span: Span, accept_truncated: bool) -> Clip:
    with opened(path) as source:
        decoded = _decode(path, source, span, accept_truncated=accept_truncated)
    rate = decoded.sample_rate if sample_rate is None else sample_rate
    return Clip(_finished(_mono(decoded.samples_NC), decoded.sample_rate, rate), rate, decoded.warning)


def _finished(mono: npt.NDArray[np.float32], found: int, wanted: int) -> npt.NDArray[np.float32]:
    """Check that all samples (N,) are finite, and resample them from the rate `found` to `wanted`."""
    finite = np.isfinite(mono)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise NonFiniteAudioError(
            f"{len(bad)} of {len(mono)} samples are NaN or infinite, the first at {bad[0] / found:.3f} s"
        )
    return _resampled(mono, found, wanted)


def _decode(path: AudioPath, source: Source, span: Span, *, accept_truncated: bool) -> Decoded:
    """Decode with the decoder that can; report a bad recording only for bytes that a plain read returned completely."""
    what = containers.format_for_ffmpeg(source.head)
    if what is None:
        try:
            return _by_libsndfile(source, span, accept_truncated=False)
        except (UnreadableAudioError, TruncatedAudioError):
            copy = Source(source.whole())
        try:
            return _by_libsndfile(copy, span, accept_truncated=accept_truncated)
        except CannotOpenError:
            other = containers.not_audio(source.head)
            layout = None if containers.is_archive(source.head) else mpeg_after_junk(copy)
            if layout is not None:
                return _joined(layout, span, accept_truncated=accept_truncated)
            if other is not None:
                raise UnreadableAudioError(f"not audio: it looks like {other}") from None
            what = "IFF" if source.head[:4] == b"FORM" else _UNKNOWN
    try:
        if what == _UNKNOWN:
            layout = layout_of(source, accept_truncated=accept_truncated)
        else:
            num_missing = containers.num_missing_bytes(source)
            accepted = accept_truncated or num_missing <= LARGEST_EXCESS
            layout = Layout((Part(source),), missing(num_missing, source, accepted))
        streams = [ffmpeg.to_wav(path, part.source, what, accept_truncated=accept_truncated) for part in layout.parts]
    except (UnreadableAudioError, TruncatedAudioError):
        source.whole()
        raise
    warnings = (*layout.warnings, *(warning for _, warning in streams if warning is not None))
    second = None if what == _UNKNOWN else containers.second_start(source, what)
    if second is not None:
        warnings += (f"a second {what} file seems to begin at byte {second}, which is not read",)
    parts = tuple(Part(Source(wav)) for wav, _ in streams)
    return _joined(Layout(parts, warnings, what.lower()), span, accept_truncated=accept_truncated)


def _by_libsndfile(source: Source, span: Span, *, accept_truncated: bool) -> Decoded:
    if span == WHOLE and source.head[:1] in (b"I", b"\xff"):
        decoded = _intact_mpeg(source)
        if decoded is not None:
            return decoded
    return _joined(layout_of(source, accept_truncated=accept_truncated), span, accept_truncated=accept_truncated)


def _intact_mpeg(source: Source) -> Decoded | None:
    """Decode an MPEG file that has as many bytes, and then as many samples, as its header states; None: another."""
    layout = layout_of(source, is_probe=True)
    stated = layout.parts[0].facts
    if len(layout.parts) > 1 or stated is None or layout.warnings:
        return None
    try:
        decoded = sndfile.decode(layout.parts[0])
    except (UnreadableAudioError, TruncatedAudioError):
        return None
    return decoded if len(decoded.samples_NC) == stated.num_frames else None


def _joined(layout: Layout, span: Span, *, accept_truncated: bool) -> Decoded:
    """Join the parts of a recording at the sample rate of the first, and cut the span."""
    if len(layout.parts) == 1:
        decoded = sndfile.decode(layout.parts[0], span, accept_truncated=accept_truncated)
        if not layout.warnings and layout.format is None:
            return decoded
        warnings = [*layout.warnings, *([decoded.warning] if decoded.warning else [])]
        return decoded._replace(format=layout.format or decoded.format, warning="; ".join(warnings) or None)
    parts = [sndfile.decode(part, accept_truncated=accept_truncated) for part in layout.parts]
    rate = parts[0].sample_rate
    blocks = [part.samples_NC for part in parts]
    if len({block.shape[1] for block in blocks}) > 1:
        blocks = [_mono(block)[:, None] for block in blocks]
    blocks = [_resampled(block, part.sample_rate, rate) for block, part in zip(blocks, parts, strict=True)]
    samples_NC = np.concatenate(blocks)
    first, last = span.frames(rate)
    span.check(len(samples_NC), rate)
    if span.at_most_s is not None:
        last = min(last or len(samples_NC), first + round(span.at_most_s * rate))
    warnings = [*layout.warnings, *(part.warning for part in parts if part.warning)]
    return Decoded(samples_NC[first:last], rate, layout.format or parts[0].format, "; ".join(warnings) or None)


def _mono(samples_NC: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Average the channels to samples (N,), as `np.mean` does."""
    num_channels = samples_NC.shape[1]
    if num_channels == 1:
        return samples_NC[:, 0]
    if num_channels == 2:  # the same bits, 25 times faster
        return (samples_NC[:, 0] + samples_NC[:, 1]) / np.float32(2)
    mono: npt.NDArray[np.float32] = np.mean(samples_NC, axis=1)
    return mono


def _num_resampled(num_samples: int, found: int, wanted: int) -> int:
    return num_samples if found == wanted else int(np.ceil(num_samples * (float(wanted) / found)))


def _resampled(samples: npt.NDArray[np.float32], found: int, wanted: int) -> npt.NDArray[np.float32]:
    """Resample (N,) or (N, C) as `librosa.resample` does: soxr HQ, and the same number of samples."""
    if found == wanted:
        return samples
    num_samples = _num_resampled(len(samples), found, wanted)
    resampled = soxr.resample(samples, found, wanted, quality="soxr_hq")[:num_samples]
    if len(resampled) < num_samples:
        resampled = np.pad(resampled, [(0, num_samples - len(resampled)), *[(0, 0)] * (resampled.ndim - 1)])
    return np.asarray(resampled, dtype=np.float32)
