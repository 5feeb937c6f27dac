"""Where a recording's bytes come from: a local file, opened once, or a URL, fetched into memory."""

from __future__ import annotations

import errno
import io
import os
import posixpath
import re
import stat
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from voxshard import remote
from voxshard.audio.members import HEADER_BYTES, Member, check_header, member_of
from voxshard.errors import ChangedObjectError, ChangedRecordingError, EmptyAudioError, UnreadableAudioError
from voxshard.urls import PinnedUrl, is_url

AudioPath: TypeAlias = str | bytes | os.PathLike[str]

HEAD_BYTES = 4096
_SPECIAL = "a pipe, socket or device"
_DOTS = re.compile(r"/\.{1,2}/")
_UNKNOWN_BYTES = 16 << 20
"""What an object counts whose size is not known."""


def resolve(root: str, path: str | bytes) -> str | bytes:
    """Return the location of a recording: `path` if it is absolute or a URL, else `path` below `root`.

    Parameters
    ----------
    root : folder or URL that relative paths start from.
    path : as it is in a manifest; bytes where names are not valid UTF-8.
    """
    if is_url(path):
        return path
    if is_url(root):
        url = f"{root.rstrip('/')}/{os.fsdecode(path)}"
        return _without_dots(url) if _DOTS.search(url) else url
    if isinstance(path, bytes):
        return os.path.join(os.fsencode(root), path)  # noqa: PTH118  pathlib takes no bytes
    return os.path.join(root, path)  # noqa: PTH118  names stay as they are, whatever they hold


def _without_dots(url: str) -> str:
    """Remove `.` and `..` from a URL, which stores do not resolve."""
    scheme, _, place = url.partition("://")
    return f"{scheme}://{posixpath.normpath(place)}"


class Source:
    """The bytes of one recording, held in memory."""

    is_file = False
    """Whether the bytes are the complete content of a local file."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.num_bytes = len(content)
        self.head = content[:HEAD_BYTES]

    def read_at(self, offset: int, num_bytes: int) -> bytes:
        """Read up to `num_bytes` bytes from `offset` on; fewer at the end."""
        if offset + num_bytes <= len(self.head):
            return self.head[offset : offset + num_bytes]
        return self._read(offset, num_bytes)

    def _read(self, offset: int, num_bytes: int) -> bytes:
        return self._content[offset : offset + num_bytes]

    def whole(self) -> bytes:
        """Read all bytes by plain reads, so that an OSError here is a fault of the storage, not of a decoder."""
        return self._content

    def for_libsndfile(self) -> int | io.RawIOBase | io.BytesIO:
        """Return what `soundfile.SoundFile` opens, from its first byte on."""
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
        """Read the bytes from `start` up to `end` or the end of the file; one read returns at most 2 GiB."""
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
    """Open the bytes of a recording for the duration of the block.

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
    try:
        descriptor = os.open(path if member is None else member.archive, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as exc:
        if exc.errno == errno.ENXIO:  # a socket, or a device that this machine lacks
            raise UnreadableAudioError(f"not a file but {_SPECIAL}") from exc
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else _SPECIAL
            raise UnreadableAudioError(f"not a file but {kind}")
        file = FileSource(descriptor, status.st_size)
        found: Source = file
        if member is not None:
            found = Source(_content_of(member, file.between(*_span_of(member))))
        _check_not_empty(found)
        yield found
    finally:
        os.close(descriptor)


def _span_of(member: Member) -> tuple[int, int]:
    """Return the span of a member in its archive, with its header: the first byte, and the one after the last."""
    return max(0, member.offset - HEADER_BYTES), member.offset + member.num_bytes


def _content_of(member: Member, content: bytes) -> bytes:
    """Return the content of a member from the bytes of its span."""
    check_header(content[:HEADER_BYTES], member)
    return content[HEADER_BYTES:]


def _check_not_empty(source: Source) -> None:
    if source.num_bytes == 0:
        raise EmptyAudioError("the file is empty (0 bytes)")


@dataclass
class _Fetch:
    num_bytes: int
    num_uses: int = 1
    """Number of times it will be taken: several utterances may be spans of one recording."""
    content: Future[bytes] | None = None
    """Request for the content; None: not started."""


class ReadAhead:
    """Fetches objects before they are opened, with several requests at once; `opened` takes them from here.

    Objects are fetched in the order in which they are asked for. What is fetched and not yet taken is bounded: then no
    further request is made until something is taken.
    """

    _current: ClassVar[ReadAhead | None] = None

    def __init__(self, num_requests: int, max_bytes: int) -> None:
        self._pool = ThreadPoolExecutor(num_requests, "read-ahead")
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._lock = threading.Lock()
        self._fetches: dict[str, _Fetch] = {}
        self._waiting: deque[str] = deque()
        ReadAhead._current = self

    def ask(self, path: AudioPath, num_bytes: int | None) -> None:
        """Request what is at a URL; a local path is left to the file system.

        Parameters
        ----------
        num_bytes : how large it is, None: not known.
        """
        if not isinstance(path, str) or not is_url(path):
            return
        with self._lock:
            if path in self._fetches:
                self._fetches[path].num_uses += 1
                return
            self._fetches[path] = _Fetch(_UNKNOWN_BYTES if num_bytes is None else num_bytes)
            self._waiting.append(path)
            self._begin()

    def _begin(self) -> None:
        """Start the requests for which there is room; one object is always fetched, whatever its size."""
        while self._waiting:
            fetch = self._fetches.get(self._waiting[0])
            if fetch is not None and fetch.content is None:
                if self._num_bytes and self._num_bytes + fetch.num_bytes > self._max_bytes:
                    return
                self._num_bytes += fetch.num_bytes
                fetch.content = self._pool.submit(_read, self._waiting[0])
            self._waiting.popleft()

    def _take(self, url: str) -> bytes | None:
        with self._lock:
            fetch = self._fetches.get(url)
            if fetch is None:
                return None
            fetch.num_uses -= 1
            is_last = fetch.num_uses == 0
            if fetch.content is None or is_last:
                del self._fetches[url]
            if fetch.content is None:  # read at once, without waiting for room
                return None
        try:
            return fetch.content.result()
        finally:
            if is_last:
                with self._lock:
                    self._num_bytes -= fetch.num_bytes
                    self._begin()

    @classmethod
    def take(cls, url: str) -> bytes | None:
        """Return the bytes of an object that was requested; None if it was not, or if its request has not started.

        Raises
        ------
        OSError, ChangedObjectError, EnvironmentProblemError : the request failed.
        """
        return None if cls._current is None else cls._current._take(url)


def _read(url: str) -> bytes:
    version = url.version if isinstance(url, PinnedUrl) else None
    member = member_of(url)
    if member is None:
        return remote.read(url, version=version, retries=False)
    return _content_of(member, remote.read(member.archive, version=version, span=_span_of(member), retries=False))


def _fetch(url: str) -> bytes:
    """Fetch the bytes of an object; failures are left to `read_with_retries`."""
    try:
        content = ReadAhead.take(url)
        return _read(url) if content is None else content
    except ChangedObjectError as exc:
        raise ChangedRecordingError("the object was replaced in its bucket since it was prepared") from exc
