"""One file over HTTP: resumed where it was cut off, checked before it appears under its name."""

from __future__ import annotations

import errno
import fcntl
import http.client
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any

from voxshard import files
from voxshard.errors import CorruptFileError, MissingWeightsError, TransientFaultError

_TRIES = 4
_TIMEOUT_S = 60.0
_BLOCK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
TOKEN_VARIABLE = "HF_TOKEN"


@dataclass(frozen=True)
class Received:
    """What is known of a file once it is here."""

    num_bytes: int
    sha256: str
    published_sha256: str | None
    """What the origin says it should be; None where it says nothing."""
    revision: str | None
    """The commit the origin served, where it names one."""


class NotThereError(MissingWeightsError):
    """The origin has no such file (404)."""


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    num_bytes: int | None = None,
    token: str | None = None,
    on_size: Callable[[int], None] = lambda size: None,
    on_bytes: Callable[[int], None] = lambda count: None,
    wait_s: float = 2.0,
) -> Received:
    """Fetch a file.

    Parameters
    ----------
    sha256, num_bytes : what it must be, where that is known; the hub's own digest is checked besides.
    token : sent to the host of `url`, and to no other it redirects to.
    wait_s : before the first new attempt after an interruption; doubled each time.

    Raises
    ------
    MissingWeightsError : the origin refuses (401, 403) or has no such file (404).
    CorruptFileError : complete, but not the file it should be; nothing is kept.
    TransientFaultError : cut off or unreachable, again and again; what has arrived is kept for the next attempt.
    """
    part = target.with_name(f"{target.name}.part")
    with _held(part) as stream:
        transfer = _Transfer(url, part, stream, token, on_size, on_bytes)
        headers = transfer.complete(wait_s)
        found = Received(
            os.fstat(stream.fileno()).st_size, files.sha256_of(part), _published(headers), headers.get("X-Repo-Commit")
        )
        problem = _mismatch(found, sha256, num_bytes)
        if problem:
            transfer.forget()
            raise CorruptFileError(f"{url}: {problem}; nothing was kept. Try again; if it stays so, the origin changed")
        os.fchmod(stream.fileno(), 0o640 | (0o004 & os.fstat(stream.fileno()).st_mode))
        os.fsync(stream.fileno())
        files.commit(part, target)
        transfer.forget()
    return found


def _mismatch(found: Received, sha256: str | None, num_bytes: int | None) -> str | None:
    if num_bytes is not None and found.num_bytes != num_bytes:
        return f"{found.num_bytes:,} bytes, expected {num_bytes:,}"
    for wanted in (sha256, found.published_sha256):
        if wanted is not None and found.sha256 != wanted:
            return f"SHA-256 is {found.sha256}, expected {wanted}"
    return None


def _published(headers: Message) -> str | None:
    """The hub names the SHA-256 of large files in a header; of small ones it gives another digest, not 64 digits."""
    text = (headers.get("X-Linked-Etag") or "").strip('"')
    return text if re.fullmatch("[0-9a-f]{64}", text) else None


@contextmanager
def _held(part: Path) -> Iterator[IO[bytes]]:
    """The partial file, to append to, held against a second fetch of the same file."""
    with files.storage_errors(part), open(part, "ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise TransientFaultError(f"{part}: another process is fetching this file; wait for it") from exc
        except OSError:  # some network file systems have no locks; the digest still guards the result
            pass
        yield stream


@dataclass
class _Transfer:
    """Appends to a partial file until it is whole, over as many connections as it takes.

    What is here is gone on with only if the origin still serves the same version, by its ETag.
    """

    url: str
    part: Path
    stream: IO[bytes]
    token: str | None
    on_size: Callable[[int], None]
    on_bytes: Callable[[int], None]

    @property
    def _etag(self) -> Path:
        return self.part.with_name(f"{self.part.name}.etag")

    def forget(self) -> None:
        """Remove the partial file."""
        self.part.unlink(missing_ok=True)
        self._etag.unlink(missing_ok=True)

    def complete(self, wait_s: float) -> Message:
        """Returns the headers of the origin's first answer, before any redirect."""
        for attempt in range(1, _TRIES + 1):
            try:
                return self._attempt()
            except urllib.error.HTTPError as exc:
                if exc.code == 416 and self._restart():
                    reason = "what was here was not part of the file"
                elif exc.code in (408, 425, 429) or exc.code >= 500:
                    reason = f"{exc.code} {exc.reason}"
                else:
                    self.forget()
                    raise _refusal(self.url, exc) from exc
            except (http.client.HTTPException, OSError) as exc:
                if getattr(exc, "errno", None) in _FULL:
                    raise
                reason = str(getattr(exc, "reason", exc)) or type(exc).__name__
            if attempt < _TRIES:
                time.sleep(wait_s * 2 ** (attempt - 1))
        here = self._here()
        if not here:
            self.forget()
        raise TransientFaultError(
            f"{self.url}: {reason} ({_TRIES} attempts, {here:,} bytes here); run the same command again to go on."
            " Compute nodes often have no internet: use a login node, or fetch elsewhere and copy the folder"
        )

    def _here(self) -> int:
        return os.fstat(self.stream.fileno()).st_size

    def _restart(self) -> bool:
        """Drop what is here; False if there is nothing."""
        dropped = self._here() > 0
        self.stream.truncate(0)
        self._etag.unlink(missing_ok=True)
        return dropped

    def _attempt(self) -> Message:
        request = urllib.request.Request(self.url, headers={"User-Agent": "voxshard", "Accept-Encoding": "identity"})
        if self._here() and self._etag.exists():
            request.add_header("Range", f"bytes={self._here()}-")
            request.add_header("If-Range", self._etag.read_text())
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        redirects = _Redirects()
        with urllib.request.build_opener(redirects).open(request, timeout=_TIMEOUT_S) as response:
            if response.status != 206:  # the whole file, from its beginning
                self._restart()
                if response.headers.get("ETag"):
                    self._etag.write_text(response.headers["ETag"])
            remaining = int(response.headers.get("Content-Length") or -1)
            if remaining >= 0:
                self.on_size(self._here() + remaining)
            self.on_bytes(self._here())
            arrived = 0
            while block := response.read(_BLOCK):
                self.stream.write(block)
                arrived += len(block)
                self.on_bytes(len(block))
            self.stream.flush()
            if arrived < remaining:
                raise http.client.HTTPException(f"cut off after {self._here():,} bytes")
            return redirects.first or response.headers


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Keeps the headers of the first answer, where the hub describes the file, and hands no token to other hosts."""

    first: Message | None = None

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        self.first = self.first or headers
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and _host(newurl) != _host(req.full_url):
            request.remove_header("Authorization")
        return request


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc


def _refusal(url: str, exc: urllib.error.HTTPError) -> MissingWeightsError:
    if exc.code in (401, 403):
        return MissingWeightsError(
            f"{url}: {exc.code} {exc.reason}: no such model, or one whose terms must be accepted first: do that on its"
            f" page, `export {TOKEN_VARIABLE}=...` (a read token of your account), and run the same command again"
        )
    if exc.code == 404:
        return NotThereError(f"{url}: 404 {exc.reason}: no such file; check the name of the model and the revision")
    return MissingWeightsError(f"{url}: {exc.code} {exc.reason}")
