"""Download one file from a web server with pooch: retried after an interruption, verified before use."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import IO, Any

from voxshard import files
from voxshard.errors import CorruptFileError, MissingWeightsError, TransientFaultError

_TRIES = 4
_TIMEOUT_S = 60.0
_BLOCK = 1 << 20
MAX_BYTES = 16 << 30
"""No file of weights is larger; a server that states no length and never ends would fill the disk."""
_BUSY = (408, 425, 429)
"""Statuses that pass (RFC 9110, RFC 8470, RFC 6585), as those from 500 on may."""


class NotThereError(MissingWeightsError):
    """The origin does not have the file (404)."""


def download(url: str, target: Path, *, sha256: str | None, num_bytes: int | None, wait_s: float) -> str:
    """Download a file; it appears under its name when it is complete and verified.

    Parameters
    ----------
    sha256, num_bytes : what it must be, where that is known.
    wait_s : before the first new attempt after an interruption; doubled each time.

    Returns
    -------
    Its SHA-256 (hex).

    Raises
    ------
    MissingWeightsError : the origin refuses or has no such file.
    CorruptFileError : complete, but not the file it should be; nothing is kept.
    TransientFaultError : cut off or unreachable, again and again.
    """
    target.unlink(missing_ok=True)  # pooch would take a file that exists for the one that is wanted
    with files.storage_errors(target):
        _retrieve(url, target, num_bytes or MAX_BYTES, wait_s)
    found = files.sha256_of(target)
    size = target.stat().st_size
    problem = None
    if num_bytes is not None and size != num_bytes:
        problem = f"{size:,} bytes, expected {num_bytes:,}"
    elif sha256 is not None and found != sha256:
        problem = f"SHA-256 is {found}, expected {sha256}"
    if problem:
        target.unlink()
        raise CorruptFileError(f"{url}: {problem}; nothing was kept. Try again; if it stays so, the origin changed")
    return found


class _LimitedWriter:
    """Passes on what is written, up to a number of bytes."""

    def __init__(self, stream: IO[bytes], url: str, num_bytes: int) -> None:
        self._stream, self._url, self._bound, self._left = stream, url, num_bytes, num_bytes
        self.flush = stream.flush

    def write(self, content: bytes) -> int:
        self._left -= len(content)
        if self._left < 0:
            raise CorruptFileError(
                f"{self._url}: more than the {self._bound:,} bytes that were expected at most; nothing was kept"
            )
        return self._stream.write(content)


def _retrieve(url: str, target: Path, most_bytes: int, wait_s: float) -> None:
    import pooch
    import requests
    import urllib3

    pooch.get_logger().setLevel(logging.ERROR)
    downloader = pooch.HTTPDownloader(chunk_size=_BLOCK, timeout=_TIMEOUT_S)

    def download_bounded(url: str, path: str, caller: Any) -> None:
        with open(path, "wb") as stream:
            downloader(url, _LimitedWriter(stream, url, most_bytes), caller)

    reason = ""
    for attempt in range(1, _TRIES + 1):
        try:
            pooch.retrieve(url, None, fname=target.name, path=target.parent, downloader=download_bounded)
        except requests.HTTPError as exc:
            status, text = exc.response.status_code, f"{exc.response.status_code} {exc.response.reason}"
            if status not in _BUSY and status < 500:
                raise _refusal(url, status, text) from exc
            reason = text
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as exc:
            reason = " ".join(str(exc).split())[:300] or type(exc).__name__
        else:
            return
        if attempt < _TRIES:
            time.sleep(wait_s * 2 ** (attempt - 1))
    raise unreachable(url, f"{reason} ({_TRIES} attempts)")


def unreachable(what: str, reason: str) -> TransientFaultError:
    """Return the error for an origin that cannot be reached or breaks off."""
    return TransientFaultError(
        f"{what}: {reason}; run the same command again. Compute nodes often have no internet: use a login node, or"
        " fetch elsewhere and copy the folder"
    )


def _refusal(url: str, status: int, text: str) -> MissingWeightsError:
    if status == 404:
        return NotThereError(f"{url}: {text}: no such file; the origin has moved or removed it")
    return MissingWeightsError(f"{url}: {text}; download it in a browser, and put it into the folder yourself")
