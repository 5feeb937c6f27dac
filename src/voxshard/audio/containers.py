"""What the first bytes of a file show: its format, what is surely no audio, and the sizes of AU and SPHERE files."""

from __future__ import annotations

import re

from voxshard.audio.chunks import is_streamed
from voxshard.audio.sources import Source


def num_missing_bytes(source: Source) -> int:
    """How many bytes the header promises beyond the end of the file; 0 where it promises none or does not define it."""
    magic = source.head[:4]
    if magic == b".snd":
        start, size = (int.from_bytes(source.head[at : at + 4], "big") for at in (4, 8))
        return max(0, start + size - source.num_bytes) if not is_streamed(size) else 0
    if magic == b"NIST":
        return _missing_of_sphere(source)
    return 0


def _missing_of_sphere(source: Source) -> int:
    fields = dict(re.findall(rb"(?m)^(\w+) -\w+ (\S+)", source.head))
    if b"," in fields.get(b"sample_coding", b"pcm"):  # compressed inside
        return 0
    try:
        header_bytes = int(source.head[8:16])
        sizes = [int(fields[name]) for name in (b"sample_count", b"channel_count", b"sample_n_bytes")]
    except (KeyError, ValueError):
        return 0
    return max(0, header_bytes + sizes[0] * sizes[1] * sizes[2] - source.num_bytes)


# Formats that libsndfile does not read and ffmpeg does: (bytes, offset, name).
_FOR_FFMPEG = [
    (b"ftyp", 4, "MP4/M4A"),
    (b"\x1aE\xdf\xa3", 0, "Matroska/WebM"),
    (b"#!AMR", 0, "AMR"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", 0, "ASF/WMA"),
    (b"wvpk", 0, "WavPack"),
    (b"MAC ", 0, "Monkey's Audio"),
    (b"TTA1", 0, "True Audio"),
    (b"FLV\x01", 0, "FLV"),
    (b"\xff\xf1", 0, "AAC"),
    (b"\xff\xf9", 0, "AAC"),
    (b"AVI ", 8, "AVI"),
]
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
    """The name of the format, if the first bytes are those of one that only ffmpeg reads."""
    return next((name for magic, at, name in _FOR_FFMPEG if head[at : at + len(magic)] == magic), None)


def is_archive(head: bytes) -> bool:
    """Whether the first bytes are those of a file that is surely something else than audio behind junk."""
    return any(head.startswith(magic) for magic, _ in _NOT_AUDIO)


def not_audio(head: bytes) -> str | None:
    """What the first bytes show the file to be, if that is surely no audio."""
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
