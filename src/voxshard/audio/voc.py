"""Creative's VOC files: blocks of sound, of which libsndfile reads the first and takes all that follows for samples."""

from __future__ import annotations

import struct
from typing import NamedTuple

from voxshard.audio.sources import Source
from voxshard.errors import UnreadableAudioError

MAGIC = b"Creative Voice File\x1a"
_END, _SOUND, _MORE, _SILENCE, _REPEAT, _EXTENDED, _NEW_SOUND = 0, 1, 2, 3, 6, 8, 9
_CODINGS = {0: (1, 8), 4: (1, 16), 6: (6, 8), 7: (7, 8)}
"""Coding of a block -> a WAV's tag for the same, and the bits per sample."""


class Coding(NamedTuple):
    """Format in which the samples of a block are stored."""

    sample_rate: int
    num_channels: int
    tag: int
    bits: int


class Blocks(NamedTuple):
    """Sound blocks of a VOC file."""

    sounds: list[tuple[Coding, bytes]]
    """Sounds in order; consecutive blocks in the same coding are joined."""
    end: int
    """Offset after the block that ends the file, or after the last byte that the last block promises."""


def scan(source: Source) -> Blocks | None:
    """Collect the sound blocks; None if a block is in a coding that WAV does not have.

    Raises
    ------
    UnreadableAudioError : blocks of silence or repeats.
    """
    at = int.from_bytes(source.head[20:22], "little")
    sounds: list[tuple[Coding, bytes]] = []
    coding = extended = None
    while _END < (source.read_at(at, 1) or b"\0")[0] <= _NEW_SOUND:
        kind = source.read_at(at, 1)[0]
        size = int.from_bytes(source.read_at(at + 1, 3), "little")
        start, end = at + 4, at + 4 + size
        at = end
        if kind in (_SILENCE, _REPEAT):
            raise UnreadableAudioError("VOC with blocks of silence or repeats, which the decoders here do not read")
        head = source.read_at(start, 12)
        if kind == _EXTENDED and len(head) >= 4:
            ticks, _, mode = struct.unpack_from("<HBB", head)
            extended = 256_000_000 // ((mode + 1) * (65536 - ticks)), mode + 1
        if kind == _SOUND and len(head) >= 2:
            rate, num_channels = extended or (1_000_000 // (256 - head[0]), 1)
            stored, start, extended = head[1], start + 2, None
        elif kind == _NEW_SOUND and len(head) == 12:
            rate, _, num_channels, stored = struct.unpack_from("<IBBH", head)
            start += 12
        elif kind != _MORE:
            continue
        if kind != _MORE:
            if stored not in _CODINGS:
                return None
            coding = Coding(rate, num_channels, *_CODINGS[stored])
        if coding is None:
            return None
        samples = source.read_at(start, max(0, end - start))
        if sounds and sounds[-1][0] == coding:
            samples = sounds.pop()[1] + samples
        sounds.append((coding, samples))
    return Blocks(sounds, at + (source.read_at(at, 1) == b"\0"))


def as_wav(coding: Coding, samples: bytes) -> Source:
    """Return the same samples with a WAV header."""
    block_bytes = coding.num_channels * coding.bits // 8
    num_bytes = len(samples) // max(1, block_bytes) * block_bytes
    per_second = coding.sample_rate * block_bytes
    about = struct.pack("<HHIIHH", coding.tag, *coding[1::-1], per_second, block_bytes, coding.bits)
    header = b"RIFF" + struct.pack("<I", 36 + num_bytes) + b"WAVEfmt " + struct.pack("<I", 16) + about
    return Source(header + b"data" + struct.pack("<I", num_bytes) + samples[:num_bytes])
