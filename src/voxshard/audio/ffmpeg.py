"""Decode what libsndfile cannot read with ffmpeg, if it is installed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from voxshard.audio.cut_frames import end_of_last_frame
from voxshard.audio.mpeg import tag_bytes
from voxshard.audio.sources import AudioPath, Source
from voxshard.errors import TruncatedAudioError, UnreadableAudioError
from voxshard.urls import is_url

# A SLURM job's warnings reach every process of the job. Blocked signals stay blocked across exec, so ffmpeg decodes
# on; whether to stop is for the process that reads from it.
_NOT_FOR_CHILDREN = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
_CUT_SHORT = (b"File ended prematurely", b"partial file", b"corrupt input packet")
_STREAMS_OF_FRAMES = ("AAC", "AMR", "WavPack")
_WAV_HEADER_BYTES = 128
_NO_COMPLAINT = re.compile(rb"^(?:\[[^]\n]*] )*\[(?:info|warning)] .*\n?(?:(?!\[).*\n)*", re.MULTILINE)
"""A message that is no error, with its further lines."""
_DURATION = re.compile(rb"Duration: (\d+):(\d+):(\d+\.\d+), start: (-?\d+\.\d+)")
_VIDEO = re.compile(rb"Stream #0:.*: Video: (?!.*\(attached pic\))")
_SLACK_S = 0.1
"""Seconds by which the length in a header and that of the samples may differ: encoders pad the first and last frame."""
_SLACK_OF_VIDEO_S = 0.25
"""The same where there is a video, which may be longer than its sound."""
_STOPPED_STATUS = 255  # how ffmpeg ends when it was asked to stop (fftools/ffmpeg.c)


def to_wav(path: AudioPath, source: Source, what: str, *, accept_truncated: bool = False) -> tuple[bytes, str | None]:
    """Decode the first audio stream at its own sample rate and with its own channels.

    Parameters
    ----------
    path : the file; what is not a file is decoded from a temporary one with the bytes of `source`.
    what : name of the format, for the message.
    accept_truncated : what ffmpeg decodes of a damaged file counts, with a warning.

    Returns
    -------
    A float32 WAV, as bytes, no sample of which is changed; and a warning, where something is odd. The last frame of
    AAC and AMR is left out, with a warning, where it is cut.

    Raises
    ------
    UnreadableAudioError : ffmpeg is not installed, or cannot decode it.
    TruncatedAudioError : ffmpeg finds that its end is missing.
    OSError : ffmpeg was stopped before its end.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise UnreadableAudioError(f"{what}, which libsndfile does not read; with ffmpeg installed it may be readable")
    local_path: AudioPath | None = path
    warning = None
    if what in _STREAMS_OF_FRAMES:
        content = source.whole()
        end = end_of_last_frame(content)
        if 0 < end < len(content):
            if not tag_bytes(content, end, len(content)):
                warning = f"the last {what} frame is cut: {len(content) - end} bytes of it are left out"
            source, local_path = Source(content[:end]), None
    with _local(local_path, source) as local:
        command: list[str | bytes] = [program, "-nostdin", "-hide_banner", "-nostats", "-v", "level+info"]
        if not accept_truncated:
            command.append("-xerror")
        # The whitelist keeps a playlist or a crafted container from opening anything on the network.
        command += ["-protocol_whitelist", "file,pipe", "-i", b"file:" + os.fsencode(local), "-map", "0:a:0"]
        command += ["-c:a", "pcm_f32le", "-f", "wav", "pipe:1"]
        process = _start(command)
        try:
            output, messages = process.communicate()
        except BaseException:
            process.kill()
            process.wait()
            raise
    status = process.returncode
    if (status < 0 and -status not in _CRASHES) or status == _STOPPED_STATUS:
        raise InterruptedError(f"ffmpeg was stopped (exit status {status}) while it decoded {os.fsdecode(local)!r}")
    complaints = _NO_COMPLAINT.sub(b"", messages)
    complaint = _first_complaint(complaints, status, os.fsencode(local))
    if accept_truncated and complaints and len(output) > _WAV_HEADER_BYTES:
        return output, f"damaged or truncated {what}: {complaint}"
    if any(words in complaints for words in _CUT_SHORT):  # some demuxers report it and end as if all were well
        raise TruncatedAudioError(f"truncated: {what} that ffmpeg finds cut short")
    if status != 0 or not output:
        raise UnreadableAudioError(f"{what}, which ffmpeg cannot decode: {complaint}")
    return output, warning or _other_length(output, messages)


def _other_length(output: bytes, messages: bytes) -> str | None:
    """Return a warning where a file's header states another length than that of the samples decoded.

    Parameters
    ----------
    output : a float32 WAV.
    messages : ffmpeg's description of the input, among others. The length that it states may begin at the time 0, or
        at that of the first sample; it may also be a guess.
    """
    stated = _DURATION.search(messages)
    if stated is None or b"Estimating duration" in messages:
        return None
    hours, minutes, seconds, start_s = map(float, stated.groups())
    duration_s = 3600 * hours + 60 * minutes + seconds
    num_channels, sample_rate = struct.unpack_from("<HI", output, 22)
    decoded_s = (len(output) - _WAV_HEADER_BYTES) / (4 * num_channels * sample_rate)
    slack_s = _SLACK_OF_VIDEO_S if _VIDEO.search(messages) else _SLACK_S
    if duration_s - max(0.0, start_s) - slack_s <= decoded_s <= duration_s + slack_s:
        return None
    return f"its header states {duration_s:.2f} s, ffmpeg decodes {decoded_s:.2f} s: parts may be damaged or missing"


def _first_complaint(complaints: bytes, status: int, name: bytes) -> str:
    """Return ffmpeg's first error line, without addresses and file names, so that equal causes have equal messages."""
    text = complaints.replace(b"file:" + name, b"").replace(name, b"").decode(errors="replace").strip()
    lines = text.splitlines()
    return re.sub(r"^(\[[^]]*] ?)+", "", lines[0]).lstrip(": ") if lines else f"exit status {status}"


def _start(command: list[str | bytes]) -> subprocess.Popen[bytes]:
    """Start ffmpeg with the signals of `_NOT_FOR_CHILDREN` blocked: the child inherits this thread's mask."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_CHILDREN)
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _local(path: AudioPath | None, source: Source) -> Iterator[AudioPath]:
    if path is not None and source.is_file and not is_url(path):
        yield path
        return
    with tempfile.NamedTemporaryFile(prefix="voxshard-") as copy:
        copy.write(source.whole())
        copy.flush()
        yield copy.name
