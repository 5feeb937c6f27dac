"""Objects in buckets: listed, read, downloaded and uploaded, with bounded retries and one-line errors.

fsspec finds the package for a URL: s3fs for `s3://`, gcsfs for `gs://`, any other that is installed for its scheme.
Credentials come from each provider's own environment; this module never sees them, and names only the identity.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from voxshard.errors import (
    AccessDeniedError,
    ChangedObjectError,
    MissingObjectError,
    TransientFaultError,
    VoxshardError,
)
from voxshard.remote_faults import check_bucket, classified, kind_of, lacks_credentials
from voxshard.urls import PACKAGES, normalized, require, scheme_of, unavailable

Result = TypeVar("Result")

RETRY_DELAYS_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Waits between attempts, each multiplied by a random number from 0.5 to 1.5."""
_GCS_RETRY_DELAYS_S = (2.0,)
"""gcsfs makes six attempts itself, up to 16 s apart."""
PART_BYTES = 64 << 20
"""Part of a multipart upload to S3; the ETag of such an object depends on it."""
_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S = 10, 60
_CONNECTIONS = 64
_BLOCK_BYTES = 1 << 20
_WITH_TOKENS_IN_DEBUG = ("botocore", "aiobotocore", "urllib3", "google.auth", "s3fs", "gcsfs", "fsspec", "aiohttp")


@dataclass(frozen=True)
class RemoteObject:
    """Facts that a store reports of one object."""

    url: str
    num_bytes: int
    version: str | None
    """`md5:HEX`, `etag:TEXT` or `generation:NUMBER`; another content has another version. None: the store has none."""


def listing(url: str) -> list[RemoteObject]:
    """List every object below a URL, at any depth, sorted by name; empty if there is none.

    Raises
    ------
    NoSuchBucketError, AccessDeniedError, TransientFaultError, BackendUnavailableError.
    """
    store, path = _store(url)

    def find() -> list[RemoteObject]:
        found = store.find(path.rstrip("/"), detail=True)
        top = _url_of(store, url, path)
        return [
            _described(top(name), about if about.get("size") is not None else store.info(name))
            for name, about in sorted(found.items())
            if about.get("type") != "directory" and not name.endswith("/") and name != path.rstrip("/")
        ]

    found = _with_retries(url, store, find)
    if not found:
        _with_retries(url, store, lambda: check_bucket(store, url, path))
    return found


def stat(url: str) -> RemoteObject:
    """Return the facts of one object, without its content.

    Raises
    ------
    MissingObjectError : there is no such object.
    NoSuchBucketError, AccessDeniedError, TransientFaultError, BackendUnavailableError.
    """
    store, path = _store(url)
    about = _with_retries(url, store, lambda: store.info(path))
    if about.get("type") == "directory":
        raise MissingObjectError(f"{url}: no such object; it is a folder")
    return _described(url, about)


def check_reachable(url: str) -> None:
    """Check, with one request, that the bucket of a URL exists and that there are credentials for it.

    An identity that may write objects and not list them passes.

    Raises
    ------
    NoSuchBucketError, AccessDeniedError, TransientFaultError, BackendUnavailableError.
    """
    store, path = _store(url)
    try:
        _with_retries(url, store, lambda: check_bucket(store, url, path))
    except AccessDeniedError as exc:
        if lacks_credentials(exc):
            raise


def read(url: str, *, version: str | None = None, span: tuple[int, int] | None = None, retries: bool = True) -> bytes:
    """Read the content of one object, or a part of it, with a single request.

    Parameters
    ----------
    version : as in `RemoteObject`; given, any other is refused. Of a part, an MD5 is compared with the one that the
        store reports, if it reports one.
    span : the first byte, and the one after the last; only these are transferred.
    retries : whether to try again; a caller that does so itself passes False.

    Raises
    ------
    ChangedObjectError : the object has another version.
    MissingObjectError : there is no such object.
    NoSuchBucketError, AccessDeniedError, TransientFaultError, BackendUnavailableError.
    """
    store, path = _store(url)
    return _with_retries(url, store, lambda: _read(store, url, path, version, span), None if retries else ())


class ObjectStream(io.RawIOBase):
    """One object as a seekable stream; every read is a request for that part, so wrap it in `io.BufferedReader`."""

    def __init__(self, item: RemoteObject, *, retries: bool = True) -> None:
        self._item, self._retries, self._position = item, retries, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._item.num_bytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer.

        Raises
        ------
        As `read`; ChangedObjectError: the object has another version than `item`.
        """
        end = min(self._position + len(buffer), self._item.num_bytes)
        if self._position >= end:
            return 0
        item = self._item
        content = read(item.url, version=item.version, span=(self._position, end), retries=self._retries)
        if len(content) != end - self._position:
            raise ChangedObjectError(f"{item.url}: the object was replaced")
        buffer[: len(content)] = content
        self._position = end
        return len(content)


def download(item: RemoteObject, target: Path) -> str:
    """Write one object to a local file, and return its SHA-256.

    Raises
    ------
    ChangedObjectError : the object has another size or another content than `item`.
    MissingObjectError, NoSuchBucketError, AccessDeniedError, TransientFaultError, BackendUnavailableError.
    """
    store, path = _store(item.url)
    if kind_of(store) == "s3":
        _with_retries(item.url, store, lambda: _run(store, _download_s3(store, path, item.version, target)))
    else:
        _with_retries(item.url, store, lambda: store.get_file(path, str(target)))
    found = file_digests(target)
    of_md5 = (item.version or "").startswith("md5:")
    if found.num_bytes != item.num_bytes or (of_md5 and not found.matches(item.version)):
        raise ChangedObjectError(f"{item.url}: was replaced while it was downloaded; run the same command again")
    return found.sha256


def has_content(item: RemoteObject, content: Digests) -> bool:
    """Whether an object has the content of a local file; it is read where its version does not show it."""
    if item.num_bytes != content.num_bytes:
        return False
    if content.matches(item.version):
        return True
    if (item.version or "").startswith("md5:"):
        return False
    with io.BufferedReader(ObjectStream(item), PART_BYTES) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == content.sha256


def upload(source: Path, url: str, *, if_absent: bool) -> None:
    """Write a local file as one object, which appears complete or not at all.

    Parameters
    ----------
    if_absent : refuse to replace an object. S3 and Google Cloud Storage check this themselves, in the same request.

    Raises
    ------
    FileExistsError : `if_absent`, and there is an object.
    NoSuchBucketError, AccessDeniedError, TransientFaultError, BackendUnavailableError.
    """
    store, path = _store(url)
    options: dict[str, Any] = {"chunksize": PART_BYTES} if kind_of(store) == "s3" else {}
    if if_absent:
        options["mode"] = "create"
    attempts = 0

    def put() -> None:
        nonlocal attempts
        attempts += 1
        try:
            if if_absent and not kind_of(store) and store.exists(path):
                raise FileExistsError(url)
            store.put_file(str(source), path, **(options if kind_of(store) else {}))
        except FileExistsError:
            # The answer to an earlier attempt may have been lost on its way: then the object is ours.
            if attempts == 1 or not has_content(_described(url, store.info(path)), file_digests(source)):
                raise

    _with_retries(url, store, put)


def delete(url: str) -> None:
    """Remove one object; an object that does not exist is no error."""
    store, path = _store(url)
    try:
        _with_retries(url, store, lambda: store.rm_file(path))
    except MissingObjectError:
        pass


@dataclass(frozen=True)
class Digests:
    """Digests that identify the content of a local file."""

    num_bytes: int
    sha256: str
    md5: str
    parts: str
    """ETag of S3 for an upload in parts of PART_BYTES."""

    def matches(self, version: str | None) -> bool:
        """Whether the version of an object proves that it has this content.

        An ETag of S3 proves nothing if the object was encrypted with a key of AWS KMS, or uploaded in other parts.
        """
        return version in (f"md5:{self.md5}", f"etag:{self.md5}", f"etag:{self.parts}")


def file_digests(path: Path) -> Digests:
    """Return the digests of a local file, in constant memory."""
    num_bytes = 0
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    parts = []
    with open(path, "rb") as stream:
        while part := stream.read(PART_BYTES):
            num_bytes += len(part)
            sha256.update(part)
            md5.update(part)
            parts.append(hashlib.md5(part, usedforsecurity=False).digest())
    joined = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
    return Digests(num_bytes, sha256.hexdigest(), md5.hexdigest(), f"{joined}-{len(parts)}")


_set_up = threading.Lock()


def _store(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the path in it."""
    require(url)
    import fsspec

    package, plain = PACKAGES.get(scheme_of(url)), normalized(url)
    try:
        if package is None:
            store, path = fsspec.core.url_to_fs(plain)
        else:
            with _set_up:  # many threads begin at once, and each would set up its own
                store = _file_system(package, os.getpid())
            path = store._strip_protocol(plain)
    except (ImportError, ValueError) as exc:
        raise unavailable(url, exc) from exc
    except Exception as exc:  # credentials are looked up here
        raise classified(url, None, exc) from exc
    return store, path


@functools.lru_cache
def _file_system(package: str, pid: int) -> Any:
    """Return the file system of a package, set up once per process: asking fsspec for it takes 0.1 ms of CPU time.

    `pid` is the process: one that was forked has no event loop of its parent.
    """
    import fsspec

    for name in _WITH_TOKENS_IN_DEBUG:  # at DEBUG they log request headers, which hold session tokens
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.INFO))
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
    if package == "gcsfs":
        return fsspec.filesystem("gs", use_listings_cache=False, requests_timeout=_READ_TIMEOUT_S)
    from aiobotocore.session import get_session
    from botocore.handlers import add_expect_header

    session = get_session()
    # An answer to `Expect: 100-continue` is waited for without a time limit.
    session.unregister("before-call.s3", add_expect_header)
    config = {
        "retries": {"max_attempts": 0},
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "read_timeout": _READ_TIMEOUT_S,
        "max_pool_connections": _CONNECTIONS,
    }
    store = fsspec.filesystem("s3", use_listings_cache=False, config_kwargs=config, session=session)
    store.retries = 1
    return store


def _with_retries(
    url: str, store: Any, operation: Callable[[], Result], delays_s: Sequence[float] | None = None
) -> Result:
    if delays_s is None:
        delays_s = _GCS_RETRY_DELAYS_S if kind_of(store) == "gs" else RETRY_DELAYS_S
    for delay_s in (*delays_s, None):
        try:
            if kind_of(store) == "gs":
                store.credentials.maybe_refresh()  # gcsfs would repeat a refusal six times
            return operation()
        except (VoxshardError, FileExistsError, MemoryError):
            raise
        except Exception as exc:
            error = classified(url, store, exc)
            if delay_s is None or not isinstance(error, TransientFaultError):
                raise error from exc
            time.sleep(delay_s * random.uniform(0.5, 1.5))
    raise AssertionError("unreachable")


def _url_of(store: Any, url: str, path: str) -> Callable[[str], str]:
    """Turn a name as a store lists it into a URL as the user wrote it."""
    top, place = url.rstrip("/"), path.rstrip("/")
    return lambda name: top + name[len(place) :]


def _described(url: str, about: dict[str, Any]) -> RemoteObject:
    version = None
    if about.get("md5Hash"):
        version = f"md5:{base64.b64decode(about['md5Hash']).hex()}"
    elif about.get("generation"):
        version = f"generation:{about['generation']}"
    elif about.get("ETag"):
        version = f"etag:{about['ETag'].strip(chr(34))}"
    return RemoteObject(url, int(about.get("size") or 0), version)


def _read(store: Any, url: str, path: str, version: str | None, span: tuple[int, int] | None) -> bytes:
    kind, _, value = (version or "").partition(":")
    wanted = None if span is None else f"bytes={span[0]}-{span[1] - 1}"
    if kind_of(store) == "s3":
        conditions = {"IfMatch": value} if kind == "etag" else {}
        return _run(store, _read_s3(store, path, conditions | ({"Range": wanted} if wanted else {})))
    if kind_of(store) == "gs":
        condition = f"&ifGenerationMatch={value}" if kind == "generation" else ""
        try:
            headers, content = _run(store, _read_gcs(store, path, condition, {"Range": wanted} if wanted else {}))
        except FileExistsError as exc:
            raise ChangedObjectError(f"{url}: the object was replaced") from exc
        if kind == "md5":
            digest = _reported_md5(headers) if span else hashlib.md5(content, usedforsecurity=False).hexdigest()
            if digest not in (value, None):
                raise ChangedObjectError(f"{url}: the object was replaced")
        return content
    return bytes(store.cat_file(path, *(span or ())))


def _reported_md5(headers: Mapping[str, str]) -> str | None:
    """Return the MD5 of the complete object, which Google Cloud Storage sends with every part of it."""
    hashes = dict(part.strip().partition("=")[::2] for part in headers.get("X-Goog-Hash", "").split(","))
    return base64.b64decode(hashes["md5"]).hex() if "md5" in hashes else None


def _run(store: Any, work: Coroutine[Any, Any, Result]) -> Result:
    """Run one request in fsspec's event loop, from any thread."""
    from fsspec.asyn import sync

    async def request() -> Result:
        return await work

    result: Result = sync(store.loop, request)
    return result


async def _read_s3(store: Any, path: str, condition: dict[str, str]) -> bytes:
    bucket, key, _ = store.split_path(path)
    answer = await store._call_s3("get_object", Bucket=bucket, Key=key, **condition)
    async with answer["Body"] as body:
        return bytes(await body.read())


async def _download_s3(store: Any, path: str, version: str | None, target: Path) -> None:
    bucket, key, _ = store.split_path(path)
    kind, _, value = (version or "").partition(":")
    condition = {"IfMatch": value} if kind == "etag" else {}
    answer = await store._call_s3("get_object", Bucket=bucket, Key=key, **condition)
    async with answer["Body"] as body:
        with open(target, "wb") as stream:
            while block := await body.read(_BLOCK_BYTES):
                stream.write(block)


async def _read_gcs(store: Any, path: str, condition: str, headers: dict[str, str]) -> tuple[Mapping[str, str], bytes]:
    received, content = await store._call("GET", store.url(path) + condition, headers=headers)
    return received, bytes(content)
