"""Recordings inside tar archives, read in place: how a path names one.

    shards/000.tar:1536+64044:speaker/utt1.wav      archive : first byte + number of bytes : name in the archive

The numbers are those of the member's content, so that opening a recording reads nothing else of the archive.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from voxshard.errors import UnreadableAudioError

_REFERENCE = re.compile(r"(.*?\.tar):(\d+)\+(\d+):(.*)", re.DOTALL)
HEADER_BYTES = 512
"""The header is the block before the content (POSIX.1-1988 ustar)."""


class Member(NamedTuple):
    """One file in a tar archive."""

    archive: str
    offset: int
    num_bytes: int
    name: str

    def __str__(self) -> str:
        return f"{self.archive}:{self.offset}+{self.num_bytes}:{self.name}"


def member_of(path: str | bytes | os.PathLike[str]) -> Member | None:
    """Return the member that a path names; None if it names a file."""
    text = path if isinstance(path, str) else os.fsdecode(path)
    if ".tar:" not in text:
        return None
    match = _REFERENCE.fullmatch(text)
    return Member(match[1], int(match[2]), int(match[3]), match[4]) if match else None


def file_of(path: str | bytes | os.PathLike[str]) -> str | bytes | os.PathLike[str]:
    """Return the file that contains a recording: its archive, or the path itself."""
    member = member_of(path)
    return path if member is None else member.archive


def check_header(header: bytes, member: Member) -> None:
    """Check that the archive still contains the member at its recorded offset.

    Parameters
    ----------
    header : the HEADER_BYTES before the member's content.

    Raises
    ------
    UnreadableAudioError : it has something else there: it was written again since the corpus was prepared.
    """
    size = header[124:136].rstrip(b"\0 ")
    is_large = header[124:125] == b"\x80"
    if header[257:262] == b"ustar" and (is_large or (size and _octal(size) == member.num_bytes)):
        return
    raise UnreadableAudioError(
        "the archive has another file at this place: it was written again since `voxshard prepare`; prepare it again"
    )


def _octal(text: bytes) -> int:
    try:
        return int(text, 8)
    except ValueError:
        return -1
