"""Unpack tar archives from the internet: plain files only, names inside the folder, sizes bounded.

The checks are our own, and nothing is extracted by `tarfile` itself: its filters differ between releases of Python, and
those of older ones could be led outside by a chain of links.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from voxshard.errors import CorruptFileError

MAX_MEMBERS = 10_000
MAX_EXPANSION = 20
MIN_BOUND_BYTES = 64 << 20
"""What an archive may hold: a number of members, and a multiple of its own size in bytes or this many, whichever is
more. Weights hardly compress; a bomb expands a thousand times."""

_OPENERS = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open))
_NAME_ERRNOS = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


def unpack(archive: Path, folder: Path, *, where: str, reserved: tuple[str, ...] = ()) -> list[str]:
    """Unpack a tar archive, compressed by gzip, bzip2, xz or not at all, into a new folder.

    Parameters
    ----------
    where : names the archive in errors.
    reserved : names at the top of the folder that no member may have.

    Returns
    -------
    Names of the files, relative to `folder`, sorted.

    Raises
    ------
    CorruptFileError : not an archive, damaged, larger than the bounds, or with a link, a device or a name that is not
        inside the folder. What was unpacked before it was found stays in `folder`, for the caller to remove.
    """
    bound = max(MIN_BOUND_BYTES, MAX_EXPANSION * archive.stat().st_size)
    names: list[str] = []
    try:
        with _decompressed(archive) as plain, tarfile.open(fileobj=_Bounded(plain, bound), mode="r|") as tar:  # type: ignore[call-overload]
            for number, member in enumerate(tar):
                if number == MAX_MEMBERS:
                    raise _Refused(f"more than {MAX_MEMBERS:,} members")
                path = _inside(member.name, reserved)
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise _Refused(
                        f"{member.name!r} is a link, a device or a sparse file; only plain files are unpacked"
                    )
                _write(tar, member, folder / path)
                names.append(path.as_posix())
    except _Refused as exc:
        raise CorruptFileError(f"{where}: not a tar archive that can be unpacked: {exc}") from exc
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError, OverflowError, RecursionError) as exc:
        raise CorruptFileError(f"{where}: not a tar archive that can be unpacked: {type(exc).__name__}: {exc}") from exc
    except OSError as exc:
        if exc.errno is not None and exc.errno not in _NAME_ERRNOS:
            raise
        raise CorruptFileError(f"{where}: not a tar archive that can be unpacked: {exc}") from exc
    return sorted(names)


class _Refused(Exception):
    """The archive contains something that is not unpacked; the text gives the reason."""


class _Bounded:
    """Stream that can be read up to a number of bytes."""

    def __init__(self, stream: IO[bytes], num_bytes: int) -> None:
        self._stream, self._bound, self._left = stream, num_bytes, num_bytes

    def read(self, count: int = -1) -> bytes:
        content = self._stream.read(min(count, self._left + 1) if count >= 0 else self._left + 1)
        self._left -= len(content)
        if self._left < 0:
            raise _Refused(f"it holds more than {self._bound:,} bytes")
        return content


def _decompressed(archive: Path) -> IO[bytes]:
    with open(archive, "rb") as stream:
        start = stream.read(6)
    for magic, opener in _OPENERS:
        if start.startswith(magic):
            return opener(archive, "rb")  # type: ignore[return-value]
    return open(archive, "rb")


def _inside(name: str, reserved: tuple[str, ...]) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable():
        raise _Refused(f"the name {name!r} would be outside the destination, or is no plain name")
    if path.parts and path.parts[0] in reserved:
        raise _Refused(f"the name {name!r} is reserved")
    return path


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    source = tar.extractfile(member)
    assert source is not None, "a plain file has content"
    path.parent.mkdir(parents=True, exist_ok=True)
    with source, open(path, "xb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
        written = target.tell()
    if written != member.size:
        raise _Refused(f"{member.name!r} ends after {written} of {member.size} bytes")
