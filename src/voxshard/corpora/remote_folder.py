"""A corpus in a bucket, for adapters: paths whose answers come from a single listing of the root."""

from __future__ import annotations

import errno
import fnmatch
import functools
import io
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal, TypeAlias

from voxshard import remote
from voxshard.errors import MissingObjectError
from voxshard.remote import RemoteObject
from voxshard.urls import is_url, join

_Folders: TypeAlias = dict[str, dict[str, RemoteObject | None]]
"""Folder, relative to the root -> name in it -> the object, or None for a folder."""

_STREAM_BYTES = 256 << 10
"""What a stream asks for at once."""
_REQUESTS = 32


class RemotePath:
    """A file or folder of a corpus in a bucket, with those methods of `pathlib.Path` that corpus adapters use."""

    def __init__(self, root: str, below: str, folders: _Folders) -> None:
        """`below` is relative to the URL `root`, empty for the root itself."""
        self._root, self._below, self._folders = root, below, folders

    def __str__(self) -> str:
        return join(self._root, self._below) if self._below else self._root

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __lt__(self, other: RemotePath) -> bool:
        return str(self) < str(other)

    def __truediv__(self, name: str) -> RemotePath:
        parts = [part for part in PurePosixPath(self._below, name).parts if part != "."]
        return RemotePath(self._root, "/".join(parts), self._folders)

    @property
    def name(self) -> str:
        return str(self).rpartition("/")[2]

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> RemotePath:
        return RemotePath(self._root, self._below.rpartition("/")[0], self._folders)

    def _object(self) -> RemoteObject | None:
        folder, _, name = self._below.rpartition("/")
        return self._folders.get(folder, {}).get(name)

    def is_file(self) -> bool:
        return self._object() is not None

    def is_dir(self) -> bool:
        return self._below in self._folders

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator[RemotePath]:
        """Return what is directly in a folder.

        Raises
        ------
        FileNotFoundError : there is no such folder.
        """
        if not self.is_dir():
            raise FileNotFoundError(str(self))
        return (self / name for name in self._folders[self._below])

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Yield the matches of a pattern without `**`, in order."""
        first, _, others = pattern.partition("/")
        for path in sorted(self.iterdir()) if self.is_dir() else ():
            if fnmatch.fnmatchcase(path.name, first):
                if others:
                    yield from path.glob(others)
                else:
                    yield path

    def match(self, pattern: str) -> bool:
        """Whether the name matches a pattern."""
        return fnmatch.fnmatchcase(self.name, pattern)

    def relative_to(self, root: RemotePath) -> PurePosixPath:
        return PurePosixPath(self._below).relative_to(root._below)

    def open(self, mode: Literal["rb"]) -> io.BufferedReader:
        """Open the content, of the version that was listed, as a stream; only what is read is transferred.

        Raises
        ------
        FileNotFoundError : there is no such object.
        """
        found = self._object()
        if found is None:
            raise FileNotFoundError(str(self))
        return io.BufferedReader(remote.ObjectStream(found), _STREAM_BYTES)

    def read_bytes(self) -> bytes:
        """Read the content of the version that was listed."""
        found = self._object()
        return remote.read(str(self), version=found.version if found else None)


CorpusPath: TypeAlias = Path | RemotePath


def corpus_path(root: str) -> CorpusPath:
    """Return the root of a corpus: a local folder or file, or a listed one in a bucket."""
    if not is_url(root):
        return Path(root)
    root = root.rstrip("/")
    objects = objects_below(root)
    if not objects and exists(root):
        folder, _, name = root.rpartition("/")
        return corpus_path(folder) / name
    folders: _Folders = {"": {}}
    for name, item in objects.items():
        folder, _, base = name.rpartition("/")
        folders.setdefault(folder, {})[base] = item
        while folder:
            above, _, base = folder.rpartition("/")
            folders.setdefault(above, {}).setdefault(base, None)
            folder = above
    return RemotePath(root, "", folders)


def open_file(path: CorpusPath) -> BinaryIO:
    """Open a file of a corpus.

    Raises
    ------
    OSError : it cannot be opened, or is a pipe, socket or device, which could make the program wait for ever. The pipes
        that a shell makes (`/dev/fd/63`) are read.
    """
    if isinstance(path, RemotePath):
        return path.open("rb")
    if str(path).startswith("/dev/"):
        return open(path, "rb")
    stream = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        return stream
    stream.close()
    raise OSError(errno.ENXIO, "not a file but a pipe, socket or device", str(path))


def content_of(path: CorpusPath) -> bytes:
    """Read a file of a corpus; see `open_file`."""
    if isinstance(path, RemotePath):
        return path.read_bytes()
    with open_file(path) as stream:
        return stream.read()


def exists(url: str) -> bool:
    """Whether an object exists at a URL."""
    return _stat(url) is not None


def _stat(url: str) -> RemoteObject | None:
    try:
        return remote.stat(url)
    except MissingObjectError:
        return None


@functools.lru_cache(maxsize=2)
def objects_below(root: str) -> dict[str, RemoteObject]:
    """Return all objects below a URL by relative name; they are listed once per process.

    Raises
    ------
    NoSuchBucketError, AccessDeniedError, TransientFaultError, BackendUnavailableError.
    """
    top = len(root.rstrip("/")) + 1
    return {item.url[top:]: item for item in remote.listing(root)}


def objects_of(places: Sequence[str | None], root: str) -> list[RemoteObject | None]:
    """Return the object at each URL, from the listing of the root if that is above it; None if there is none.

    Raises
    ------
    NoSuchBucketError, AccessDeniedError, TransientFaultError, BackendUnavailableError.
    """
    top = f"{root.rstrip('/')}/"
    listed = objects_below(root) if is_url(root) else {}
    elsewhere = sorted(
        {place for place in places if place is not None and not (is_url(root) and place.startswith(top))}
    )
    with ThreadPoolExecutor(_REQUESTS) as pool:
        single = dict(zip(elsewhere, pool.map(_stat, elsewhere), strict=True))
    return [
        None if place is None else single[place] if place in single else listed.get(place.removeprefix(top))
        for place in places
    ]


def matches(folder: CorpusPath, pattern: str) -> list[CorpusPath]:
    """Return what a pattern matches in a folder, in order."""
    if isinstance(folder, Path):
        return [*sorted(folder.glob(pattern))]
    return list(folder.glob(pattern))


def relative(path: CorpusPath, root: CorpusPath) -> str:
    """Return a path relative to a root, as manifests store it."""
    if isinstance(path, Path) and isinstance(root, Path):
        return path.relative_to(root).as_posix()
    assert isinstance(path, RemotePath)
    assert isinstance(root, RemotePath)
    return path.relative_to(root).as_posix()
