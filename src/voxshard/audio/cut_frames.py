"""Streams of frames that no header counts, AAC in ADTS, AMR and WavPack: where the last complete frame ends.

A recorder that is stopped leaves a cut frame, which ffmpeg counts as an error, as it does a tag behind WavPack.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from voxshard.audio.mpeg import tag_bytes

# Bytes of a frame, without the one that names its type, by type. 3GPP TS 26.101 and 26.201, annex A.
_AMR = (12, 13, 15, 17, 19, 20, 26, 31, 5, 6, 5, 5, 0, 0, 0, 0)
_AMR_WB = (17, 23, 32, 36, 40, 46, 50, 58, 60, 5, 0, 0, 0, 0, 0, 0)
_ADTS_HEADER = 7


def end_of_last_frame(content: bytes) -> int:
    """Return the offset after the last complete frame; the length of `content` if nothing is cut off."""
    if content[:2] in (b"\xff\xf1", b"\xff\xf9"):
        return _walk(content, 0, _adts_bytes)
    for magic, sizes in ((b"#!AMR-WB\n", _AMR_WB), (b"#!AMR\n", _AMR)):
        if content.startswith(magic):
            return _walk(content, len(magic), functools.partial(_amr_bytes, sizes))
    if content.startswith(b"wvpk"):
        return _walk(content, 0, _wavpack_bytes)
    return len(content)


def _walk(content: bytes, at: int, num_bytes: Callable[[bytes, int], int | None]) -> int:
    end = at
    while at < len(content):
        if tag := tag_bytes(content, at, len(content)):
            at += tag
            continue
        size = num_bytes(content, at)
        if size is None:  # no frame: damage, which the decoder reports
            return len(content)
        if at + size > len(content):
            return at
        at = end = at + size
    return end


def _adts_bytes(content: bytes, at: int) -> int | None:
    header = content[at : at + _ADTS_HEADER]
    if header[:1] != b"\xff" or (len(header) > 1 and header[1] & 0xF6 != 0xF0):
        return None
    if len(header) < _ADTS_HEADER:
        return _ADTS_HEADER
    return max(_ADTS_HEADER, (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5)


def _amr_bytes(sizes: Sequence[int], content: bytes, at: int) -> int:
    return 1 + sizes[content[at] >> 3 & 15]


def _wavpack_bytes(content: bytes, at: int) -> int | None:
    header = content[at : at + 8]
    return 8 + int.from_bytes(header[4:], "little") if header[:4] == b"wvpk" and len(header) == 8 else None
