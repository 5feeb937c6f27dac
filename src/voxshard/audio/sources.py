"""Where a recording's bytes come from: a local file, opened once, or a URL, fetched into memory."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import ClassVar, TypeAlias

from voxshard import remote
from voxshard.audio.members import check_header, member_of
from voxshard.errors import ChangedObjectError, ChangedRecordingError, EmptyAudioError, UnreadableAudioError
from voxshard.remote import PinnedUrl, is_url

AudioPath: TypeAlias = str | bytes | os.PathLike[str]

HEAD_BYTES = 4096


def resolve(root: str, path: str | bytes) -> str | bytes:
    """Where a recording lies: `path` itself if it is absolute or a URL, else `path` below `root`.

    Parameters
    ----------
    root : folder or URL that relative paths start from.
    path : as it is in a manifest; bytes where names are not valid UTF-8.
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
        return self.between(0, sys.maxsize)

    def between(self, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end`, or up to the end of the file; a read gives at most 2 GiB at once."""
        blocks = []
        while block := os.pread(self._descriptor, min(8 << 20, end - start), start):
            blocks.append(block)
            start += len(block)
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
    ChangedRecordingError : the object has another version than the URL is pinned to.
    AccessDeniedError, NoSuchBucketError : the bucket cannot be read.
    BackendUnavailableError : a URL, without fsspec or the package for its scheme.
    """
    if is_url(path):
        source = Source(_fetch(os.fspath(path)))  # type: ignore[arg-type]
        _check_not_empty(source)
        yield source
        return
    member = member_of(path)
    # Without O_NONBLOCK, opening a named pipe waits for a writer for ever.
    descriptor = os.open(path if member is None else member.archive, os.O_RDONLY | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
            raise UnreadableAudioError(f"not a file but {kind}")
        file = FileSource(descriptor, status.st_size)
        found: Source = file
        if member is not None:
            check_header(descriptor, member)
            found = Source(file.between(member.offset, member.offset + member.num_bytes))
        _check_not_empty(found)
        yield found
    finally:
        os.close(descriptor)


def _check_not_empty(source: Source) -> None:
    if source.num_bytes == 0:
        raise EmptyAudioError("the file is empty (0 bytes)")


class ReadAhead:
    """Fetches objects before they are opened, with several requests at once; `opened` takes them from here.

    Whoever asks for more objects than are opened holds them in memory: ask for a few blocks of recordings at most.
    """

    _pending: ClassVar[dict[str, Future[bytes]]] = {}

    def __init__(self, num_requests: int) -> None:
        self._pool = ThreadPoolExecutor(num_requests, "read-ahead")

    def ask(self, path: AudioPath) -> None:
        """Fetch what is at a URL; a local path is left to the file system."""
        if isinstance(path, str) and is_url(path) and path not in self._pending:
            self._pending[path] = self._pool.submit(_read, path)

    @classmethod
    def take(cls, url: str) -> bytes | None:
        """The bytes of an object that was asked for, once; None: it was not.

        Raises
        ------
        OSError, ChangedObjectError, EnvironmentProblemError : the request failed.
        """
        future = cls._pending.pop(url, None)
        return None if future is None else future.result()


def _read(url: str) -> bytes:
    return remote.read(url, version=url.version if isinstance(url, PinnedUrl) else None, retries=False)


def _fetch(url: str) -> bytes:
    """The bytes of an object; reading recordings is tried again by `read_with_retries`."""
    try:
        content = ReadAhead.take(url)
        return _read(url) if content is None else content
    except ChangedObjectError as exc:
        raise ChangedRecordingError("the object was replaced in its bucket since it was prepared") from exc
