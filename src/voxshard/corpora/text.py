"""Bytes of tables and lists as text: encodings that are read, and what to do about the others."""

from __future__ import annotations

from voxshard.audio import containers
from voxshard.errors import ManifestError

_UTF8_MARK = b"\xef\xbb\xbf"
_MARKS = {
    b"\xff\xfe\0\0": "utf-32-le", b"\0\0\xfe\xff": "utf-32-be", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be",
}  # fmt: skip
_START = 1000
_FEWEST_ZEROS = 4
"""Zero bytes in the first 1,000, all at odd or all at even places, that show UTF-16."""
_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""First bytes of documents of Microsoft Office up to 2003 (MS-CFB, section 2.2)."""
_SHEETS = (b"xl/", b"application/vnd.oasis.opendocument.spreadsheet")
"""Names in the zip archives that workbooks of Excel and LibreOffice are."""


def as_utf8(content: bytes, where: str) -> bytes:
    """Convert text to UTF-8 without a byte order mark; the mark identifies UTF-16 and UTF-32, zero bytes UTF-16 too.

    Bytes that are not UTF-8 stay: names of files may have them.

    Raises
    ------
    ManifestError : damaged UTF-16 or UTF-32, or zero bytes in other text.
    """
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), None) or _utf16(content)
    if encoding is not None:
        try:
            content = content.decode(encoding).removeprefix("\ufeff").encode()
        except UnicodeDecodeError as exc:
            raise ManifestError(f"{where}: damaged {encoding.upper()} ({exc.reason}); save the table as UTF-8") from exc
    zero = content.find(b"\0")
    if zero >= 0:
        line = content.count(b"\n", 0, zero) + 1
        raise ManifestError(
            f"{where}: line {line:,} has a zero byte: the file is damaged or no text; write it again, in UTF-8"
        )
    return content.removeprefix(_UTF8_MARK)


def _utf16(content: bytes) -> str | None:
    """Return the encoding of text in UTF-16 without a mark, by the zero bytes of its ASCII letters."""
    at_even, at_odd = (content[start:_START:2].count(0) for start in (0, 1))
    if len(content) % 2 or (at_even and at_odd) or at_even + at_odd < _FEWEST_ZEROS:
        return None
    return "utf-16-le" if at_odd else "utf-16-be"


def check_text(content: bytes, where: str) -> None:
    """Check that a file is no archive, workbook or recording.

    Raises
    ------
    ManifestError : it is one; says what to do.
    """
    remedy = "save it as CSV in UTF-8"
    if content.startswith(_OFFICE) or (content.startswith(b"PK") and any(name in content for name in _SHEETS)):
        what: str | None = "a workbook of Excel or the like"
    elif containers.recordings_in(content[:12]):
        what, remedy = "a recording", "name the table that lists it"
    else:
        what = containers.not_audio(content) if containers.is_archive(content) else None
        if what == "a gzip file":
            remedy = "decompress it: gunzip"
    if what is not None:
        raise ManifestError(f"{where}: no table: it looks like {what}; {remedy}")


def not_utf8(value: bytes, where: str, row: int | None = None) -> ManifestError:
    """Return the error for text in another encoding, with the first wrong byte and a remedy."""
    try:
        value.decode()
    except UnicodeDecodeError as exc:
        value = value[exc.start : exc.start + 1]
    place = "" if row is None else f" in row {row:,}"
    return ManifestError(
        f"{where} is not UTF-8; save the table as UTF-8 (byte 0x{value.hex()}{place}; a file from Windows: "
        "`iconv -f WINDOWS-1252 -t UTF-8`)"
    )


def first_not_utf8(values: list[bytes | None]) -> tuple[int, bytes]:
    """Return the position of the first value that is not UTF-8, and the value."""
    for row, value in enumerate(values):
        try:
            (value or b"").decode()
        except UnicodeDecodeError:
            return row, value or b""
    raise AssertionError("all values are UTF-8")
