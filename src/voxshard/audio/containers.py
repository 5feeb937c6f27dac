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
_PART_HEADER = 24
"""Bytes that contain the name and the size of a part of an MP4, AVI or ASF file."""
_LARGEST_STATED = 0xFFFF0000
"""A larger 32-bit size means that the writer did not know it."""


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
_ATOM_NAME = re.compile(rb"[ -~\xa9]{4}")
_ASF_HEADER, _ASF_DATA = b"\x30\x26\xb2\x75", b"\x36\x26\xb2\x75"
"""First bytes of the names of an ASF file's header and of its packets."""
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


def num_missing_bytes(source: Source) -> int:
    """Return by how many bytes the outermost parts of an MP4, AVI or ASF file reach beyond its end."""
    at = 0
    while at + _PART_HEADER <= source.num_bytes:
        size = _part_bytes(source.read_at(at, _PART_HEADER), source.head)
        if size is None:
            return 0
        at += size
    return max(0, at - source.num_bytes)


def _part_bytes(header: bytes, head: bytes) -> int | None:
    """Return the size of the part with this header; None if it is not stated, or if this is no such part."""
    size = 0
    if head[4:8] == b"ftyp" and _ATOM_NAME.match(header[4:]):
        size = int.from_bytes(header[:4], "big")
        size = int.from_bytes(header[8:16], "big") if size == 1 else size
    elif head[8:12] == b"AVI " and header[:4] == b"RIFF":
        stated = int.from_bytes(header[4:8], "little")
        size = stated + 8 if 0 < stated < _LARGEST_STATED else 0
    elif header[:4] in (_ASF_HEADER, _ASF_DATA) and head[:4] == _ASF_HEADER:
        size = int.from_bytes(header[16:24], "little")
    return size if 8 <= size < 1 << 62 else None


def second_start(source: Source, what: str) -> int | None:
    """Return the offset at which a second file in a format that only ffmpeg reads begins; None if there is none.

    Parameters
    ----------
    what : name of the format. AAC and WavPack begin so with every frame, and ffmpeg reads all of them.
    """
    if what in ("AAC", "WavPack"):
        return None
    lengths = {"AMR": 6, "IFF": 4}
    start = source.head[4:12] if what == "MP4/M4A" else source.head[: lengths.get(what, 8)]
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
