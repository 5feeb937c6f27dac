"""What bytes show: where a file of a usual container begins, what only ffmpeg reads, and what is surely no audio."""

from __future__ import annotations

import re

from voxshard.audio.sources import Source

_RECORDING = re.compile(
    rb"RIFF....WAVE|RIFX....WAVE|RF64....WAVE|BW64....WAVE|FORM....AIF[FC]|riff\x2e\x91\xcf\x11|caff\0[\1\2]\0\0|fLaC[\0\x80]\0\0\x22"
    rb"|OggS\0\x02|\.snd\0\0|NIST_1A\n|Creative Voi",
    re.DOTALL,
)
"""First bytes of files of the usual containers, except MPEG."""
_LONGEST_START = 12


def recordings_in(content: bytes, start: int = 0) -> list[int]:
    """Return the offset of every place from `start` on at which a file of a known container begins."""
    return [match.start() for match in _RECORDING.finditer(content, start)]


def begins_recording(source: Source, offset: int) -> bool:
    """Whether a file of a known container begins at an offset."""
    return _RECORDING.match(source.read_at(offset, _LONGEST_START)) is not None


AAC = (b"\xff\xf1", b"\xff\xf9")
"""First bytes of frames of AAC (ADTS, ISO/IEC 13818-7)."""
_FOR_FFMPEG = {
    b"\x1aE\xdf\xa3": "Matroska/WebM",
    b"#!AM": "AMR",
    b"\x30\x26\xb2\x75": "ASF/WMA",
    b"wvpk": "WavPack",
    b"MAC ": "Monkey's Audio",
    b"TTA1": "True Audio",
    b"FLV\x01": "FLV",
    **dict.fromkeys(AAC, "AAC"),
}
"""Formats that libsndfile does not read and ffmpeg does, by their first four bytes, or two."""
_NOT_AUDIO = [
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\x00", "an xz file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a rar archive"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy file"),
    (b"PAR1", "a Parquet file"),
    (b"\x7fELF", "a program"),
    (b"version https://git-lfs", "a Git LFS pointer: run `git lfs pull` in the corpus"),
]


def format_for_ffmpeg(head: bytes) -> str | None:
    """Return the name of the format if only ffmpeg can read it, judged by its first bytes; else None."""
    if head[4:8] == b"ftyp":
        return "MP4/M4A"
    if head[8:12] == b"AVI ":
        return "AVI"
    return _FOR_FFMPEG.get(head[:4]) or _FOR_FFMPEG.get(head[:2])


def second_start(source: Source, what: str) -> int | None:
    """Return the offset at which a second file in a format that only ffmpeg reads begins; None if there is none.

    Parameters
    ----------
    what : name of the format. AAC and WavPack begin so with every frame, and ffmpeg reads all of them.
    """
    if what in ("AAC", "WavPack"):
        return None
    start = source.head[4:12] if what == "MP4/M4A" else source.head[:6] if what == "AMR" else source.head[:8]
    found = source.whole().find(start, len(start))
    return found if found >= 0 else None


def is_archive(head: bytes) -> bool:
    """Whether the first bytes are those of an archive or document, not of audio behind other bytes."""
    return any(head.startswith(magic) for magic, _ in _NOT_AUDIO)


def not_audio(head: bytes) -> str | None:
    """Return what kind of file the first bytes show, if it cannot be audio."""
    for magic, name in _NOT_AUDIO:
        if head.startswith(magic):
            return name
    if head.startswith(b"NIST_1A"):  # a text header before the samples
        return None
    if not head.strip(b"\0"):
        return "nothing but zero bytes"
    start = head[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
    if re.match(rb"(?i)<(!doctype html|html|head|\?xml)", start):
        return "an HTML or XML page"
    if re.fullmatch(rb"[\t\n\r\x20-\x7e]+", head[:512]):
        return "JSON" if start[:1] in (b"{", b"[") else "text"
    return None
