"""AU and SPHERE files: a header that counts the samples, then samples up to the end."""

from __future__ import annotations

import re
from typing import NamedTuple

from voxshard.audio.chunks import is_streamed
from voxshard.audio.sources import Source
from voxshard.audio.views import Rewritten

_BITS_IN_AU = {23: 4, 25: 3, 26: 5}
"""Bits per sample of G.721 and G.723 in AU files, by the number of the coding."""


class StatedSamples(NamedTuple):
    """Place and number of the samples as the header of an AU or SPHERE file states them."""

    start: int
    end: int
    num_frames: int | None
    """Number of frames, if libsndfile would read all bytes up to the end of the file as samples."""


def stated_samples(source: Source) -> StatedSamples | None:
    """Return the place of the samples; None where the file is another, or its header does not define it."""
    magic = source.head[:4]
    return _of_au(source) if magic == b".snd" else _of_sphere(source) if magic == b"NIST" else None


def with_unknown_size(source: Source) -> Source:
    """Return an AU file that states no number of samples with the size that libsndfile reads as "up to the end"."""
    start = int.from_bytes(source.head[4:8], "big")
    if source.head[:4] != b".snd" or source.head[8:12] != bytes(4) or start >= source.num_bytes:
        return source
    return Rewritten(source, source.head[:8] + b"\xff\xff\xff\xff" + source.read_at(12, start - 12), start)


def _of_au(source: Source) -> StatedSamples | None:
    start, size, coding = (int.from_bytes(source.head[at : at + 4], "big") for at in (4, 8, 12))
    if is_streamed(size) or size == 0:
        return None
    bits = _BITS_IN_AU.get(coding)
    return StatedSamples(start, start + size, None if bits is None else size * 8 // bits)


def _of_sphere(source: Source) -> StatedSamples | None:
    fields = dict(re.findall(rb"(?m)^(\w+) -\w+ (\S+)", source.head))
    if b"," in fields.get(b"sample_coding", b"pcm"):  # compressed inside
        return None
    try:
        start = int(source.head[8:16])
        sizes = [int(fields[name]) for name in (b"sample_count", b"channel_count", b"sample_n_bytes")]
    except (KeyError, ValueError):
        return None
    if min(sizes) <= 0:
        return None
    return StatedSamples(start, start + sizes[0] * sizes[1] * sizes[2], sizes[0])
