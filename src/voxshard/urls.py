"""Text that is a URL: what its scheme is, and which package it needs."""

from __future__ import annotations

import importlib.util
import re

from voxshard.errors import BackendUnavailableError, ConfigError

PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_ALMOST = re.compile(rf"({'|'.join(PACKAGES)}|https?|abfss?|az|hdfs):/?(?!/)", re.IGNORECASE)
_USER_IN_URL = re.compile(r"://[^/]*@")
_SIGNED_URL = re.compile(r"https?://[^?]*\?.*(signature|token|sig)=", re.IGNORECASE)


def is_url(path: object) -> bool:
    """Whether a path is a URL, which fsspec opens, and not a local file."""
    return isinstance(path, str) and _URL.match(path) is not None


def scheme_of(url: str) -> str:
    """Return the scheme of a URL: `s3` of `s3://bucket/object`."""
    match = _URL.match(url)
    assert match is not None, "not a URL"
    return match[1].lower()


def check_no_url(path: str) -> None:
    """Refuse a path that looks like a URL without one slash, as `pathlib.Path("s3://bucket/a")` writes it.

    Raises
    ------
    ConfigError : it would be a local folder named `s3:`.
    """
    if match := _ALMOST.match(path):
        raise ConfigError(f"{path}: looks like a URL; write {match[1]}://{path[match.end() :]}, or ./{path} for a file")


def normalized(url: str) -> str:
    """Return the normal form of a URL: scheme in lower case, and in a bucket no slashes at the end.

    Raises
    ------
    ConfigError : it names no bucket.
    """
    scheme = scheme_of(url)
    place = url[len(scheme) + len("://") :]
    if scheme in PACKAGES:
        place = place.rstrip("/")
        if not place.partition("/")[0]:
            raise ConfigError(f"{url}: a URL without a bucket; expected {scheme}://bucket/name")
    return f"{scheme}://{place}"


class PinnedUrl(str):
    """URL whose object must have this version, as in `RemoteObject`, when it is read."""

    version: str

    def __new__(cls, url: str, version: str) -> PinnedUrl:
        pinned = super().__new__(cls, url)
        pinned.version = version
        return pinned


def join(url: str, *names: str) -> str:
    """Join a name to a URL."""
    return "/".join([url.rstrip("/"), *(name.strip("/") for name in names if name)])


def require(url: str) -> None:
    """Check, without any request, that the packages for a URL are installed.

    Raises
    ------
    BackendUnavailableError : fsspec, or the package for this scheme, is not installed.
    ConfigError : the URL contains credentials, or is signed.
    """
    if _USER_IN_URL.search(url) or _SIGNED_URL.match(url):
        raise ConfigError(
            f"{scheme_of(url)}://...: this URL contains credentials; leave them out, and set them in the environment "
            "(AWS_PROFILE, AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS)"
        )
    package = PACKAGES.get(scheme_of(url))
    missing = [name for name in ("fsspec", package) if name and not _is_installed(name)]
    if missing:
        raise BackendUnavailableError(
            f"{url}: {scheme_of(url)}:// needs {' and '.join(missing)}, not installed in this environment: "
            "`pip install 'voxshard[buckets]'`"
        )
    if package is None:
        import fsspec

        try:
            fsspec.get_filesystem_class(scheme_of(url))
        except (ImportError, ValueError) as exc:
            raise unavailable(url, exc) from exc


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:  # an import hook refuses it
        return False


def unavailable(url: str, exc: Exception) -> BackendUnavailableError:
    """The error for a URL whose scheme fsspec cannot open here."""
    return BackendUnavailableError(
        f"{url}: {exc}; `pip install 'voxshard[buckets]'`, or install the package for this scheme"
    )
