"""Pages of Ogg files (RFC 3533): one recording after the other in one file, pages that are missing, a cut end."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

_BEGINS, _ENDS = 2, 4  # flags of a page


@dataclass
class Link:
    """One of the recordings in a file; most files have one."""

    start: int
    end: int
    is_opus: bool = False
    last_page: int = 0
    """Offset of its last page."""
    has_end_flag: bool = False


@dataclass
class Pages:
    """What the pages of a file show."""

    links: list[Link] = field(default_factory=list)
    num_missing_bytes: int = 0
    """Bytes that the last page lacks."""
    num_lost_pages: int = 0
    num_foreign_bytes: int = 0
    """Bytes that belong to no page."""


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
            link, has_data, numbers = Link(at, at), False, {}
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
        link.last_page, link.end, link.has_end_flag = at, end, bool(flags & _ENDS)
        at = end
    return pages


def with_end_flag(content: bytes, link: Link) -> bytes:
    """The bytes of one recording, its last page marked as the last, as libsndfile requires of Opus."""
    page = bytearray(content[link.last_page : link.end])
    page[5] |= _ENDS
    page[22:26] = bytes(4)
    page[22:26] = checksum(page).to_bytes(4, "little")
    return content[link.start : link.last_page] + bytes(page)


@functools.cache
def _table() -> tuple[int, ...]:
    """Checksums of single bytes: CRC-32 with the polynomial 0x04C11DB7, not reflected (RFC 3533, section 6)."""
    values = []
    for value in range(256):
        value <<= 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
        values.append(value)
    return tuple(values)


def checksum(page: bytes | bytearray) -> int:
    table = _table()
    value = 0
    for byte in page:
        value = (value << 8 & 0xFFFFFFFF) ^ table[value >> 24 ^ byte]
    return value
