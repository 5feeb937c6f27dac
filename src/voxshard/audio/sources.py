"""Where a recording's bytes come from: a local file, opened once, or a URL, fetched into memory."""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

from voxshard.errors import BackendUnavailableError, EmptyAudioError, UnreadableAudioError

AudioPath: TypeAlias = str | bytes | os.PathLike[str]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
HEAD_BYTES = 4096


def is_url(path: AudioPath) -> bool:
    """Whether a path is a URL, which fsspec opens, and not a local file."""
    return isinstance(path, str) and _URL.match(path) is not None


def resolve(root: str, path: str | bytes) -> str | bytes:
    """Where a recording lies: `path` itself if it is absolute or a URL, else `path` below `root`.

    Parameters
    ----------
    root : folder or URL that relative paths start from.
    path : as it stands in a manifest; bytes where names are not valid UTF-8.
    """
    if is_url(path):
        return path
    if is_url(root):
        return f"{root.rstrip('/')}/{os.fsdecode(path)}"
    if isinstance(path, bytes):
        return os.path.join(os.fsencode(root), path)  # noqa: PTH118  pathlib takes no bytes
    return os.path.join(root, path)  # noqa: PTH118  names stay as they are, whatever they hold


class Source:
    """The bytes of one recording, held in memory."""

    is_file = False
    """Whether its bytes are all the bytes of a local file."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.num_bytes = len(content)
        self.head = content[:HEAD_BYTES]

    def read_at(self, offset: int, num_bytes: int) -> bytes:
        """Up to `num_bytes` bytes from `offset` on; fewer at the end."""
        if offset + num_bytes <= len(self.head):
            return self.head[offset : offset + num_bytes]
        return self._read(offset, num_bytes)

    def _read(self, offset: int, num_bytes: int) -> bytes:
        return self._content[offset : offset + num_bytes]

    def whole(self) -> bytes:
        """All bytes, by plain reads: an OSError here is the storage's fault, whatever a decoder made of it."""
        return self._content

    def for_libsndfile(self) -> int | io.RawIOBase | io.BytesIO:
        """What `soundfile.SoundFile` opens, from its first byte on."""
        return io.BytesIO(self._content)


class FileSource(Source):
    """The bytes of one local file, read through a descriptor opened once."""

    is_file = True

    def __init__(self, descriptor: int, num_bytes: int) -> None:
        self._descriptor = descriptor
        self.num_bytes = num_bytes
        self.head = os.pread(descriptor, HEAD_BYTES, 0)

    def _read(self, offset: int, num_bytes: int) -> bytes:
        return os.pread(self._descriptor, num_bytes, offset)

    def whole(self) -> bytes:
        blocks = []
        offset = 0
        while block := os.pread(self._descriptor, 8 << 20, offset):
            blocks.append(block)
            offset += len(block)
        return b"".join(blocks)

    def for_libsndfile(self) -> int | io.RawIOBase | io.BytesIO:
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        return self._descriptor


@contextmanager
def opened(path: AudioPath) -> Iterator[Source]:
    """Open a recording's bytes for the length of the block.

    Raises
    ------
    EmptyAudioError : it has no bytes.
    UnreadableAudioError : it is a folder, a pipe or a device.
    OSError : the storage failed, or there is no such file (FileNotFoundError).
    BackendUnavailableError : a URL, without fsspec or the package for its scheme.
    """
    if is_url(path):
        source = Source(_fetch(os.fspath(path)))  # type: ignore[arg-type]
        _check_not_empty(source)
        yield source
        return
    # Without O_NONBLOCK, opening a named pipe waits for a writer for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
            raise UnreadableAudioError(f"not a file but {kind}")
        source = FileSource(descriptor, status.st_size)
        _check_not_empty(source)
        yield source
    finally:
        os.close(descriptor)


def _check_not_empty(source: Source) -> None:
    if source.num_bytes == 0:
        raise EmptyAudioError("the file is empty (0 bytes)")


def _fetch(url: str) -> bytes:
    scheme = url.partition("://")[0]
    try:
        import fsspec

        with fsspec.open(url, "rb") as stream:
            return bytes(stream.read())
    except ImportError as exc:
        raise BackendUnavailableError(
            f"{url}: reading {scheme}:// needs {exc.name or 'a package of fsspec'}, which is not installed here; "
            "`pip install 'voxshard[buckets]'`"
        ) from exc
    except OSError:
        raise
    except Exception as exc:  # each store's client has errors of its own; all mean that the bytes did not come
        raise OSError(f"{url}: {type(exc).__name__}: {exc}") from exc
