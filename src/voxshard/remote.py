"""Objects in buckets: listed, read, downloaded and uploaded, with bounded retries and one-line errors.

fsspec finds the package for a URL: s3fs for `s3://`, gcsfs for `gs://`, any other that is installed for its scheme.
Credentials come from each provider's own environment; this module never sees them, and names only the identity.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from voxshard.errors import (
    AccessDeniedError,
    BackendUnavailableError,
    ChangedObjectError,
    ConfigError,
    MissingObjectError,
    NoSuchBucketError,
    TransientFaultError,
    VoxshardError,
)

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
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_SECRET_IN_URL = re.compile(r"://[^/]*@")
_DENIED = {
    "AccessDenied", "AllAccessDisabled", "AuthorizationHeaderMalformed", "ExpiredToken", "Forbidden",
    "InvalidAccessKeyId", "InvalidToken", "RequestTimeTooSkewed", "SignatureDoesNotMatch", "TokenRefreshRequired",
}  # fmt: skip
"""Error codes of S3, https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, that credentials cause."""
_NO_CREDENTIALS = {
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError",
    "ProfileNotFound", "SSOTokenLoadError", "UnauthorizedSSOTokenError", "DefaultCredentialsError", "RefreshError",
}  # fmt: skip
"""Exceptions of botocore and google.auth."""
_WITH_TOKENS_IN_DEBUG = ("botocore", "aiobotocore", "urllib3", "google.auth", "s3fs", "gcsfs", "fsspec", "aiohttp")


@dataclass(frozen=True)
class RemoteObject:
    """What a store reports of one object."""

    url: str
    num_bytes: int
    version: str | None
    """`md5:HEX`, `etag:TEXT` or `generation:NUMBER`; another content has another version. None: the store has none."""


class PinnedUrl(str):
    """A URL whose object must have a version, as in `RemoteObject`, when it is read."""

    version: str

    def __new__(cls, url: str, version: str) -> PinnedUrl:
        pinned = super().__new__(cls, url)
        pinned.version = version
        return pinned


def is_url(path: object) -> bool:
    """Whether a path is a URL, which fsspec opens, and not a local file."""
    return isinstance(path, str) and _URL.match(path) is not None


def scheme_of(url: str) -> str:
    """`s3` of `s3://bucket/object`."""
    match = _URL.match(url)
    assert match is not None, "not a URL"
    return match[1].lower()


def join(url: str, *names: str) -> str:
    """A URL below another."""
    return "/".join([url.rstrip("/"), *(name.strip("/") for name in names if name)])


def require(url: str) -> None:
    """Check, without any request, that the packages for a URL are installed.

    Raises
    ------
    BackendUnavailableError : fsspec, or the package for this scheme, is not installed.
    ConfigError : the URL contains credentials.
    """
    if _SECRET_IN_URL.search(url):
        raise ConfigError(
            f"{scheme_of(url)}://...: this URL contains credentials; leave them out, and set them in the environment "
            "(AWS_PROFILE, AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS)"
        )
    package = _PACKAGES.get(scheme_of(url))
    missing = [name for name in ("fsspec", package) if name and importlib.util.find_spec(name) is None]
    if missing:
        raise BackendUnavailableError(
            f"{url}: {scheme_of(url)}:// needs {' and '.join(missing)}, not installed in this environment: "
            "`pip install 'voxshard[buckets]'`"
        )


def listing(url: str) -> list[RemoteObject]:
    """Every object below a URL, at any depth, sorted by name; empty if there is none.

    Raises
    ------
    NoSuchBucketError, AccessDeniedError, TransientFaultError, BackendUnavailableError.
    """
    store, path = _store(url)

    def find() -> list[RemoteObject]:
        found = store.find(path.rstrip("/"), detail=True)
        top = _url_of(store, url, path)
        return [
            _described(top(name), about)
            for name, about in sorted(found.items())
            if about.get("type") != "directory" and not name.endswith("/") and name != path.rstrip("/")
        ]

    found = _with_retries(url, store, find)
    if not found:
        _with_retries(url, store, lambda: _check_bucket(store, url, path))
    return found


def stat(url: str) -> RemoteObject:
    """One object, without its content.

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


def read(url: str, *, version: str | None = None, retries: bool = True) -> bytes:
    """The content of one object, by a single request.

    Parameters
    ----------
    version : as in `RemoteObject`; given, any other is refused.
    retries : whether to try again; a caller that does so itself passes False.

    Raises
    ------
    ChangedObjectError : the object has another version.
    MissingObjectError : there is no such object.
    NoSuchBucketError, AccessDeniedError, TransientFaultError, BackendUnavailableError.
    """
    store, path = _store(url)
    return _with_retries(url, store, lambda: _read(store, url, path, version), None if retries else ())


def download(item: RemoteObject, target: Path) -> str:
    """Write one object to a local file, and return its SHA-256.

    Raises
    ------
    ChangedObjectError : the object has another size or another content than `item`.
    MissingObjectError, NoSuchBucketError, AccessDeniedError, TransientFaultError, BackendUnavailableError.
    """
    store, path = _store(item.url)
    if _kind(store) == "s3":
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
    return hashlib.sha256(read(item.url)).hexdigest() == content.sha256


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
    options: dict[str, Any] = {"chunksize": PART_BYTES} if _kind(store) == "s3" else {}
    if if_absent:
        options["mode"] = "create"
    attempts = 0

    def put() -> None:
        nonlocal attempts
        attempts += 1
        try:
            if if_absent and not _kind(store) and store.exists(path):
                raise FileExistsError(url)
            store.put_file(str(source), path, **(options if _kind(store) else {}))
        except FileExistsError:
            # The answer to an earlier attempt may have been lost on its way: then the object is ours.
            if attempts == 1 or not has_content(_described(url, store.info(path)), file_digests(source)):
                raise

    _with_retries(url, store, put)


def delete(url: str) -> None:
    """Remove one object; one that is gone already is no error."""
    store, path = _store(url)
    try:
        _with_retries(url, store, lambda: store.rm_file(path))
    except MissingObjectError:
        pass


@dataclass(frozen=True)
class Digests:
    """What identifies the content of a local file."""

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
    """Digests of a local file, in constant memory."""
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


def _kind(store: Any) -> str:
    protocol = store.protocol if isinstance(store.protocol, str) else store.protocol[0]
    return {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}.get(protocol, "")


_set_up = threading.Lock()


def _store(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it."""
    require(url)
    import fsspec

    kind = _PACKAGES.get(scheme_of(url))
    options: dict[str, Any] = {"use_listings_cache": False}
    if kind == "s3fs":
        options["config_kwargs"] = {
            "retries": {"max_attempts": 0},
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "read_timeout": _READ_TIMEOUT_S,
            "max_pool_connections": _CONNECTIONS,
        }
    elif kind == "gcsfs":
        options["requests_timeout"] = _READ_TIMEOUT_S
    else:
        options = {}
    try:
        with _set_up:
            for name in _WITH_TOKENS_IN_DEBUG:  # at DEBUG they log request headers, which hold session tokens
                logger = logging.getLogger(name)
                logger.setLevel(max(logger.level, logging.INFO))
                if not logger.handlers:
                    logger.addHandler(logging.NullHandler())
            store, path = fsspec.core.url_to_fs(url, **options)
            if kind == "s3fs":
                store.retries = 1
    except (ImportError, ValueError) as exc:
        raise BackendUnavailableError(
            f"{url}: {exc}; `pip install 'voxshard[buckets]'`, or install the package for this scheme"
        ) from exc
    except Exception as exc:  # credentials are looked up here
        raise _classified(url, None, exc) from exc
    return store, path


def _with_retries(
    url: str, store: Any, operation: Callable[[], Result], delays_s: Sequence[float] | None = None
) -> Result:
    if delays_s is None:
        delays_s = _GCS_RETRY_DELAYS_S if _kind(store) == "gs" else RETRY_DELAYS_S
    for delay_s in (*delays_s, None):
        try:
            return operation()
        except (VoxshardError, FileExistsError, MemoryError):
            raise
        except Exception as exc:
            error = _classified(url, store, exc)
            if delay_s is None or not isinstance(error, TransientFaultError):
                raise error from exc
            time.sleep(delay_s * random.uniform(0.5, 1.5))
    raise AssertionError("unreachable")


def _classified(url: str, store: Any, exc: Exception) -> VoxshardError:
    """What an exception of a store's client means, in one line."""
    answer: Any = getattr(exc, "response", None) or getattr(exc.__cause__, "response", None)
    answer = answer if isinstance(answer, dict) else {}
    code = str(answer.get("Error", {}).get("Code", ""))
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") or getattr(exc, "code", None)
    text = " ".join(str(exc).split())[:300]
    forbidden = isinstance(exc, PermissionError) or text.startswith("Forbidden")
    if forbidden or code in _DENIED or status in (401, 403, "401", "403"):
        why = code or (f"{status}" if status else "403")
        return AccessDeniedError(
            f"{url}: access denied ({why}: {text or 'no reason given'}); identity used: {identity(url, store)}; "
            "renew expired credentials, or ask the owner of the bucket for access, then run the same command again"
        )
    if type(exc).__name__ in _NO_CREDENTIALS:
        return AccessDeniedError(
            f"{url}: no usable credentials ({type(exc).__name__}: {text}); identity used: {identity(url, store)}; "
            f"{_how_to_log_in(url)}, then run the same command again"
        )
    if code == "NoSuchBucket":
        return NoSuchBucketError(_no_bucket(url))
    if isinstance(exc, FileNotFoundError):
        if store is not None and not _bucket_exists(store, url):
            return NoSuchBucketError(_no_bucket(url))
        return MissingObjectError(f"{url}: no such object")
    if code == "PreconditionFailed" or status == 412:
        return ChangedObjectError(f"{url}: the object was replaced")
    known = f"HTTP {status}, {code or text}" if status else f"{type(exc).__name__}: {text}"
    return TransientFaultError(
        f"{url}: the store keeps failing ({known}); what is finished is kept, run the same command again later"
    )


def identity(url: str, store: Any = None) -> str:
    """The name of the identity that requests are made with, never its secret."""
    if _PACKAGES.get(scheme_of(url)) == "s3fs":
        if profile := os.environ.get("AWS_PROFILE"):
            return f"AWS profile {profile}"
        if key := os.environ.get("AWS_ACCESS_KEY_ID"):
            return f"the AWS access key that ends in {key[-4:]} (AWS_ACCESS_KEY_ID)"
        if role := os.environ.get("AWS_ROLE_ARN"):
            return f"AWS role {role}"
        return "the default of AWS (~/.aws, or the role of this machine)"
    if _PACKAGES.get(scheme_of(url)) == "gcsfs":
        held = getattr(getattr(store, "credentials", None), "credentials", None)
        if name := getattr(held, "service_account_email", None) or getattr(held, "account", None):
            return f"Google account {name}"
        if file := os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
            return f"the Google credentials in {file}"
        return "a Google user" if held is not None else "none (anonymous)"
    return f"the default of {scheme_of(url)}"


def _how_to_log_in(url: str) -> str:
    if _PACKAGES.get(scheme_of(url)) == "s3fs":
        return "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run `aws sso login`"
    return "set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`"


def _no_bucket(url: str) -> str:
    scheme, _, path = url.partition("://")
    bucket = path.partition("/")[0]
    return f"{url}: no bucket {bucket!r} at {scheme}://; check its name, and the endpoint if the store is not public"


def _bucket_exists(store: Any, url: str) -> bool:
    if not _kind(store):
        return True
    try:
        _check_bucket(store, url, url.partition("://")[2])
    except (NoSuchBucketError, FileNotFoundError):
        return False
    except Exception:  # noqa: BLE001  the fault that is being described counts, not this look-up's
        return True
    return True


def _check_bucket(store: Any, url: str, path: str) -> None:
    """Make sure that the bucket exists: stores answer a listing of a bucket that does not exist in different ways."""
    bucket = path.partition("/")[0]
    if _kind(store) == "s3":
        try:
            store.call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1)
        except FileNotFoundError as exc:
            raise NoSuchBucketError(_no_bucket(url)) from exc
    elif _kind(store) == "gs":
        try:
            store.call("GET", "b/{}/o", bucket, maxResults=1, json_out=True)
        except FileNotFoundError as exc:
            raise NoSuchBucketError(_no_bucket(url)) from exc


def _url_of(store: Any, url: str, path: str) -> Callable[[str], str]:
    """From a name as a store lists it to a URL as the user wrote it."""
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


def _read(store: Any, url: str, path: str, version: str | None) -> bytes:
    kind, _, value = (version or "").partition(":")
    if _kind(store) == "s3":
        return _run(store, _read_s3(store, path, {"IfMatch": value} if kind == "etag" else {}))
    if _kind(store) == "gs":
        condition = f"&ifGenerationMatch={value}" if kind == "generation" else ""
        try:
            content = _run(store, _read_gcs(store, path, condition))
        except FileExistsError as exc:
            raise ChangedObjectError(f"{url}: the object was replaced") from exc
        if kind == "md5" and hashlib.md5(content, usedforsecurity=False).hexdigest() != value:
            raise ChangedObjectError(f"{url}: the object was replaced")
        return content
    return bytes(store.cat_file(path))


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


async def _read_gcs(store: Any, path: str, condition: str) -> bytes:
    _, content = await store._call("GET", store.url(path) + condition)
    return bytes(content)
