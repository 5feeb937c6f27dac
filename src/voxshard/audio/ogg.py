"""Pages of Ogg files (RFC 3533): one recording after the other in one file, pages that are missing, a cut end."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

_CONTINUED, _BEGINS, _ENDS = 1, 2, 4  # flags of a page


@dataclass
class Link:
    """One of the recordings in an Ogg file; most files have one."""

    pages: list[tuple[int, int]] = field(default_factory=list)
    """Where each page begins and ends."""
    is_opus: bool = False
    num_streams: int = 0
    has_end_flag: bool = False


@dataclass
class Pages:
    """All pages of an Ogg file."""

    links: list[Link] = field(default_factory=list)
    num_missing_bytes: int = 0
    """Number of bytes missing from the last page."""
    num_lost_pages: int = 0
    num_foreign_bytes: int = 0
    """Number of bytes that do not belong to any page."""


def scan(content: bytes) -> Pages:
    """Read the headers of all pages; a page that begins a stream, after pages with data, begins another recording."""
    pages = Pages()
    link: Link | None = None
    has_data = False
    numbers: dict[bytes, int] = {}
    at = 0
    while at < len(content):
        found = content.find(b"OggS\0", at)
        if found < 0:
            pages.num_foreign_bytes += len(content) - at
            break
        pages.num_foreign_bytes += found - at
        at = found
        body = at + 27 + content[at + 26] if len(content) >= at + 27 else len(content) + 1
        end = body + sum(content[at + 27 : body])
        if link is None or (has_data and content[at + 5] & _BEGINS):
            link, has_data, numbers = Link(), False, {}
            pages.links.append(link)
        if end > len(content):
            pages.num_missing_bytes = end - len(content) if body <= len(content) else at + 28 - len(content)
            break
        flags, serial = content[at + 5], content[at + 14 : at + 18]
        number = int.from_bytes(content[at + 18 : at + 22], "little")
        if flags & _BEGINS:
            link.is_opus |= content[body : body + 8] == b"OpusHead"
        else:
            has_data = True
            pages.num_lost_pages += max(0, number - numbers.get(serial, number - 1) - 1)
        numbers[serial] = number
        link.num_streams = len(numbers)
        link.pages.append((at, end))
        link.has_end_flag = bool(flags & _ENDS)
        at = end
    pages.links = [link for link in pages.links if link.pages]
    return pages


def num_damaged_pages(content: bytes, link: Link) -> int:
    """Return the number of pages whose checksum is wrong; decoders leave them out without a message."""
    return sum(
        checksum(content[start : start + 22] + bytes(4) + content[start + 26 : end])
        != int.from_bytes(content[start + 22 : start + 26], "little")
        for start, end in link.pages
    )


def _position(page: bytes) -> int:
    """Return the number of samples up to the end of a page as the page states it; -1 if no packet ends on it."""
    return int.from_bytes(page[6:14], "little", signed=True)


def has_wrong_end(content: bytes, link: Link) -> bool:
    """Whether the last page states a position before that of another page, or none although a packet ends on it."""
    start, end = link.pages[-1]
    last = content[start:end]
    before = max((_position(content[at : at + 14]) for at, _ in link.pages[:-1]), default=0)
    has_packet = any(size < 255 for size in last[27 : 27 + last[26]])
    return link.num_streams == 1 and has_packet and _position(last) < before


def repaired_opus(content: bytes, link: Link) -> tuple[bytes, bool] | None:
    """Return the bytes of an Opus recording as libsndfile decodes all of it, and whether its end was stated wrongly.

    The last page needs its mark and a packet. Positions must begin with 0, which those of a recorded broadcast do not,
    and the last can only cut samples of its own page. A sample rate of 0 in the header stands for 48 kHz (RFC 7845).

    Returns
    -------
    None where nothing is wrong.
    """
    if _is_regular(content, link):
        return None
    pages = [content[start:end] for start, end in link.pages]
    rate_at = pages[0].find(b"OpusHead") + 12
    has_rate = any(pages[0][rate_at : rate_at + 4])
    stated, is_empty = [_position(page) for page in pages], len(pages) > 2 and not pages[-1][26]
    if is_empty:
        pages.pop()
        stated[-2:] = stated[-1:]
    counts = _counted(pages)
    first = next((at for at, count in enumerate(counts) if count > 0), 0)
    offset = max(0, stated[first] - counts[first]) if first < len(pages) - 1 else 0
    positions = [at - offset if at > 0 else at for at in stated]
    before = max((at for at in range(len(pages) - 1) if positions[at] >= 0), key=positions.__getitem__, default=0)
    end = positions[before] + counts[-1] - counts[before]
    is_wrong = not positions[before] <= positions[-1] <= end and (positions[-1] >= 0 or counts[-1] > counts[-2])
    if link.has_end_flag and has_rate and not offset and not is_wrong and not is_empty:
        return None
    if is_wrong:
        positions[-1] = end
    changed = [bytearray(page) for page in pages]
    if not has_rate:
        changed[0][rate_at : rate_at + 4] = (48000).to_bytes(4, "little")
    changed[-1][5] |= _ENDS
    for page, position in zip(changed, positions, strict=True):
        page[6:14] = position.to_bytes(8, "little", signed=True)
        page[22:26] = bytes(4)
        page[22:26] = checksum(page).to_bytes(4, "little")
    return b"".join(changed), is_wrong


def _is_regular(content: bytes, link: Link) -> bool:
    """Whether the first page with sound and the last one show that nothing needs to be repaired."""
    first = next((page for page in link.pages[1:] if _position(content[page[0] : page[0] + 14]) > 0), None)
    if first is None or first == link.pages[-1] or not link.has_end_flag:
        return False
    head, opening, before, last = (content[a:b] for a, b in (link.pages[0], first, *link.pages[-2:]))
    rate_at = head.find(b"OpusHead") + 12
    if not any(head[rate_at : rate_at + 4]) or opening[5] & _CONTINUED or last[5] & _CONTINUED or not last[26]:
        return False
    is_at_start = _position(opening) <= _page_samples(opening)
    return is_at_start and 0 <= _position(last) - _position(before) <= _page_samples(last)


def _page_samples(page: bytes) -> int:
    """Samples at 48 kHz in the packets that end on a page, if all are as long as the first."""
    at = 27 + page[26]
    return _packet_samples(page[at : at + 2]) * (page[26] - page.count(b"\xff", 27, at))


def _counted(pages: Sequence[bytes]) -> list[int]:
    """Return the samples at 48 kHz up to the end of each page; the first two packets are headers."""
    counts: list[int] = []
    total = samples = num_packets = 0
    is_start = True
    for page in pages:
        at = 27 + page[26]
        for size in page[27:at]:
            if is_start:
                samples = _packet_samples(page[at : at + 2]) if num_packets >= 2 else 0
            is_start = size < 255
            if is_start:
                total += samples
                num_packets += 1
            at += size
        counts.append(total)
    return counts


def _packet_samples(start: bytes) -> int:
    """Return the samples at 48 kHz in the Opus packet that begins with these bytes (RFC 6716, section 3.1)."""
    if not start:
        return 0
    config, code = start[0] >> 3, start[0] & 3
    if config < 12:
        per_frame = (480, 960, 1920, 2880)[config & 3]
    else:
        per_frame = 480 << (config & 1) if config < 16 else 120 << (config & 3)
    return per_frame * (1 if code == 0 else 2 if code < 3 else (start[1:2] or b"\0")[0] & 63)


_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
"""Bytes with their bits in the opposite order."""


def checksum(page: bytes | bytearray) -> int:
    """Return the CRC-32 of a page: initial value 0, most significant bit first, not inverted (RFC 3533, section 6)."""
    value = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{value:032b}"[::-1], 2)
