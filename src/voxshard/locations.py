"""A path or a URL: the single type used at every interface; and a cache for data in buckets that must be local."""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, PlainSerializer, PlainValidator

from voxshard import files, remote, urls
from voxshard.errors import ConfigError, CorruptFileError, DataError, MissingObjectError
from voxshard.remote import RemoteObject

CACHE_VARIABLE = "VOXSHARD_CACHE"
OFFLINE_VARIABLE = "VOXSHARD_OFFLINE"
"""Set to 1: copies in the cache are used as they are, and no request is made."""
MARKER = "published.json"
"""The last object of a published folder: name, size and SHA-256 of all others."""
BEGUN = "publishing.json"
"""The first object of a folder that is being published; it is removed at the end."""
_FORMATS = (
    *(".csv", ".tsv", ".txt", ".md", ".tex", ".json", ".jsonl", ".yaml", ".yml", ".parquet", ".pq", ".arrow", ".h5"),
    *(".hdf5", ".npy", ".npz", ".pt", ".pkl", ".xls", ".xlsx", ".html", ".htm", ".pdf", ".docx", ".png", ".svg", ".gz"),
)
"""Suffixes that promise a format."""
_DOWNLOADS = 16
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


class Url(str):
    """The URL of an object, or of a folder of objects, in a bucket."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """Return the last part of the path."""
        return self.rstrip("/").rpartition("/")[2]

    def __truediv__(self, name: str) -> Url:
        return Url(urls.join(self, name))


AnyLocation: TypeAlias = Path | Url


def parse(text: object) -> AnyLocation:
    """Return a `Url` for a URL, and a `Path` for any other path; `file://` URLs are paths, and `~` is the home folder.

    Raises
    ------
    ValueError : neither text nor a path, empty, or a URL without a bucket.
    """
    if isinstance(text, Url):
        return text
    if not isinstance(text, str | os.PathLike) or not os.fspath(text):
        raise ValueError("expected a path or a URL" if text else "expected a path or a URL, not an empty text")
    plain = os.fsdecode(os.fspath(text))
    if not urls.is_url(plain):
        urls.check_no_url(plain)
        return files.expanded(text)
    url = urls.normalized(plain)
    return Path(url.removeprefix("file://")) if url.startswith("file://") else Url(url)


def _parse_local(text: object) -> object:
    if isinstance(text, str) and isinstance(parse(text), Url):
        raise ValueError(
            "a URL; expected a local path, because files there are changed or resumed in place; to copy them to a "
            "bucket: `voxshard publish PATH URL` "
            "(in a config: `publish: URL`)"
        )
    return os.fspath(files.expanded(text)) if isinstance(text, str) and text else text


Location = Annotated[AnyLocation, PlainValidator(parse), PlainSerializer(str, when_used="json")]
"""A setting that takes a path or a URL."""
LocalPath = Annotated[Path, BeforeValidator(_parse_local)]
"""A setting that takes a local path only, because existing files are changed or resumed in place."""


def local_copy(location: AnyLocation) -> Path:
    """Return a local path with the content of `location`: the path itself, or a copy in the cache.

    An object is transferred once, whatever the number of processes that ask for it, until it changes in its bucket.
    The name of the copy is the last part of the URL.

    Raises
    ------
    MissingObjectError : there is no such object or folder; with VOXSHARD_OFFLINE, no copy of it.
    CorruptFileError : a published folder is incomplete.
    NoSuchBucketError, AccessDeniedError, TransientFaultError, BackendUnavailableError, StorageFullError.
    """
    return location if isinstance(location, Path) else _cached(location)


def as_path(location: AnyLocation) -> Path:
    """Return a location as a path; URLs were replaced by copies or by working folders before."""
    assert isinstance(location, Path), f"{location} is a URL"
    return location


def origin(path: Path) -> AnyLocation:
    """Return the URL of which a path in the cache is a copy; any other path unchanged."""
    real, top = path.resolve(), (cache_root() / "objects").resolve()
    if not real.is_relative_to(top):
        return path
    folder, version, _, _, *below = real.relative_to(top).parts
    content = json.loads(files.read_bytes(top / folder / version / "entry.json"))
    return Url(urls.join(content["url"], *below))


def with_urls(message: str) -> str:
    """Replace paths in the cache in a message by the URLs of which they are copies, which are what the user knows."""
    top = re.escape(str(cache_root() / "objects"))
    shown, end = "", 0
    for match in re.finditer(rf"({top}/\w+/\w+)/content/", message):
        try:
            content = json.loads(Path(match[1], "entry.json").read_bytes())
        except (OSError, ValueError):
            continue
        if message.startswith(content["name"], match.end()):
            shown += message[end : match.start()] + content["url"]
            end = match.end() + len(content["name"])
    return shown + message[end:]


@dataclass(frozen=True)
class CacheEntry:
    """A copy in the cache."""

    folder: Path
    url: str
    num_files: int
    num_bytes: int


def cache_root() -> Path:
    """Return the folder of the cache: $VOXSHARD_CACHE, by default ~/.cache/voxshard."""
    root = files.expanded(os.environ.get(CACHE_VARIABLE) or "~/.cache/voxshard")
    if root.parts[0].startswith("~"):
        raise ConfigError(f"{root}: there is no such home folder; set {CACHE_VARIABLE} to a folder")
    return root.absolute()


def cache_entries() -> list[CacheEntry]:
    """Return every copy in the cache, sorted by URL."""
    entries = []
    for path in (cache_root() / "objects").glob("*/*/entry.json"):
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError):  # removed meanwhile, or damaged: then it is downloaded again
            continue
        sizes = [item["num_bytes"] for item in content["files"]]
        entries.append(CacheEntry(path.parent, content["url"], len(sizes), sum(sizes)))
    return sorted(entries, key=lambda entry: (entry.url, entry.folder))


def clear_cache(given: Sequence[str] = ()) -> list[CacheEntry]:
    """Remove the copies of these URLs, or of all; return what was removed."""
    chosen = {str(parse(url)) for url in given}
    removed = [entry for entry in cache_entries() if not given or entry.url in chosen]
    for entry in removed:
        shutil.rmtree(entry.folder, ignore_errors=True)
    if not given:
        for name in ("objects", "outputs"):
            shutil.rmtree(cache_root() / name, ignore_errors=True)
    _cached.cache_clear()
    return removed


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file during the block; on file systems without locks, processes do the work twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as exc:
            if exc.errno not in _NO_LOCKS:
                raise
        yield


@functools.lru_cache(maxsize=1024)
def _cached(url: Url) -> Path:
    """Return the cached copy of a URL; one process sees one version of it, however often it asks."""
    urls.require(url)
    folder = cache_root() / "objects" / hashlib.sha256(url.encode()).hexdigest()[:20]
    name = url.name or "root"
    if os.environ.get(OFFLINE_VARIABLE) == "1":
        copies = sorted(folder.glob("*/entry.json"), key=_downloaded)
        if not copies:
            raise MissingObjectError(
                f"{url}: no copy in {cache_root()}, and {OFFLINE_VARIABLE}=1; run a command that reads it on a machine "
                "with a network first"
            )
        return copies[-1].parent / "content" / name
    items = objects_at(url)
    names = [_relative(item.url, url) for item in items]
    version = files.digest_of([[name, item.num_bytes, item.version] for name, item in zip(names, items, strict=True)])
    entry = folder / version[:20]
    with files.storage_errors(folder), locked(folder / "lock"):
        files.sweep_temporaries(folder)
        if not _is_intact(entry):
            shutil.rmtree(entry, ignore_errors=True)
            _download(url, items, names, entry, name)
    return entry / "content" / name


def _downloaded(entry: Path) -> float:
    """Return the recorded time of a copy; 0 if an earlier version of voxshard made it."""
    return float(json.loads(files.read_bytes(entry)).get("downloaded", 0.0))


def objects_at(url: Url) -> list[RemoteObject]:
    """Return the object at a URL, or all objects below it.

    Raises
    ------
    MissingObjectError : there is neither.
    """
    if not url.endswith("/"):
        try:
            return [remote.stat(url)]
        except MissingObjectError:
            pass
    items = remote.listing(url)
    if not items:
        raise MissingObjectError(f"{url}: no such object or folder; check the name")
    return items


def _relative(item: str, url: Url) -> str:
    """Return the name of an object below a folder; empty for the object itself."""
    name = item[len(url.rstrip("/")) :].lstrip("/")
    if name and any(part in ("", ".", "..") for part in name.split("/")):
        raise DataError(f"{item}: a name with empty parts, `.` or `..` cannot be a local file; rename the object")
    return name


def _download(url: Url, items: Sequence[RemoteObject], names: Sequence[str], entry: Path, name: str) -> None:
    temporary = files.temp_path_for(entry)
    try:
        target = temporary / "content" / name
        targets = [target / below if below else target for below in names]
        for path in targets:
            path.parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(_DOWNLOADS) as pool:
            digests = list(pool.map(remote.download, items, targets))
        _check_published(url, dict(zip(names, digests, strict=True)), target)
        described = [
            {"name": below, "num_bytes": item.num_bytes, "mtime_ns": path.stat().st_mtime_ns, "sha256": digest}
            for below, item, path, digest in zip(names, items, targets, digests, strict=True)
        ]
        entry_content = {"url": url, "name": name, "downloaded": time.time(), "files": described}
        (temporary / "entry.json").write_text(json.dumps(entry_content))
        try:
            temporary.rename(entry)
        except OSError as exc:
            if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise  # else: a process on a file system without locks was faster
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_published(url: Url, digests: dict[str, str], target: Path) -> None:
    """Check that a folder that `voxshard publish` wrote is complete."""
    if MARKER not in digests:
        if BEGUN in digests:
            raise CorruptFileError(
                f"{url}: not complete: its upload is still running or was interrupted; run the command that writes it "
                "again"
            )
        return
    wanted: dict[str, Any] = json.loads((target / MARKER).read_bytes())["files"]
    bad = sorted(name for name, about in wanted.items() if digests.get(name) != about["sha256"])
    if bad:
        raise CorruptFileError(
            f"{url}: {len(bad)} of {len(wanted)} objects are missing or differ from {MARKER}, such as {bad[0]}; "
            "publish it again"
        )


def _is_intact(entry: Path) -> bool:
    """Whether every file of a copy has the size and the content it was downloaded with."""
    try:
        content = json.loads((entry / "entry.json").read_bytes())
        top = entry / "content" / content["name"]
        for item in content["files"]:
            path = top / item["name"] if item["name"] else top
            status = path.stat()
            if status.st_size != item["num_bytes"]:
                return False
            if status.st_mtime_ns != item["mtime_ns"] and files.sha256_of(path) != item["sha256"]:
                return False
    except (OSError, ValueError, KeyError):
        return False
    return True


def check_output(out: AnyLocation, suffixes: Sequence[str] = ()) -> None:
    """Check, before any work, that results can be written to a path, or uploaded to a URL from here; one request.

    Parameters
    ----------
    suffixes : those that fit what is written to a file; a name with that of another format is refused.

    Raises
    ------
    ConfigError, ReadOnlyError, NoSuchBucketError, AccessDeniedError, TransientFaultError, BackendUnavailableError.
    """
    suffix = PurePath(out.name).suffix
    if suffixes and suffix.lower() in _FORMATS and suffix.lower() not in suffixes:
        raise ConfigError(
            f"--out {out}: this writes {suffixes[0]}, not {suffix}; give a name that ends in {suffixes[0]}"
        )
    check_output_name(out)
    if isinstance(out, Url):
        remote.check_reachable(out)
    else:
        files.check_writable(out)


def check_output_name(out: AnyLocation) -> None:
    """Check, without a request, that an output can be written to a URL in this environment.

    Raises
    ------
    ConfigError, BackendUnavailableError.
    """
    if isinstance(out, Url):
        urls.require(out)
        if urls.scheme_of(out) in ("http", "https"):
            raise ConfigError(f"{out}: nothing can be written there; expected a bucket, such as gs://bucket/name")
        if not out.name or out.count("/") < 3:
            raise ConfigError(f"{out}: names a bucket; give the name of an object or folder in it")
