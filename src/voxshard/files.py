"""Publishing files so that a reader sees a complete file or none, whoever is killed when.

A file is written under a unique temporary name next to its target, fsynced, and then linked (the first writer wins)
or renamed (the last one wins). Temporary names carry host, boot and pid, so that what a dead process left behind can
be distinguished from what a living one is writing.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import math
import os
import re
import shlex
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from voxshard.errors import ReadOnlyError, StorageFaultError, StorageFullError, VoxshardError

T = TypeVar("T")

_TEMPORARY = re.compile(r"\.(?P<host>[A-Za-z0-9-]+)\.(?P<boot>[0-9a-f]{8})\.(?P<pid>\d+)\.[0-9a-f]{12}\.tmp$")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_READ_ONLY = (errno.EROFS, errno.EACCES)
_IMAGE_LABELS = Path("/.singularity.d/labels.json")
_NO_FAULTS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP)
RETRY_DELAYS_S = (0.5, 1.0, 2.0, 4.0)
"""Waits between attempts to read a file of ours whose storage fails."""
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES)


_FIRST_PID_NAMESPACE = "pid:[4026531836]"
"""Inode of the first PID namespace, the one outside containers, on every Linux (PROC_PID_INIT_INO in the kernel's
proc_ns.h)."""


@functools.cache
def host_name() -> str:
    """Return this host's name, with characters that file names cannot have replaced by `-`.

    In a container with its own processes (`--containall`) its number is added: a pid means nothing in another.
    """
    name = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()) or "host"
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return name
    return name if space == _FIRST_PID_NAMESPACE else f"{name}-{re.sub(r'[^0-9]', '', space)}"


@functools.cache
def boot_id() -> str:
    """Return the first characters of this boot's id: a pid is only valid until the next boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return "00000000"


def temp_path_for(target: Path) -> Path:
    """Return a name in the target's folder that no other attempt uses, and that names its owner."""
    return target.with_name(f"{target.name}.{host_name()}.{boot_id()}.{os.getpid()}.{uuid.uuid4().hex[:12]}.tmp")


def without_temporary(name: str) -> str:
    """Return the final name of a temporary file or folder; any other name is returned unchanged."""
    return _TEMPORARY.sub("", name)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or quota, or a folder that is not writable, into an error with the place and the remedy."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL:
            raise StorageFullError(
                f"{path}: no space left (disk or quota, bytes or files); free some and run the same command again, "
                "what is finished is kept"
            ) from exc
        if exc.errno in _READ_ONLY:
            raise ReadOnlyError(
                f"{path}: cannot be written: {exc.strerror}; name a folder that you may write to{_bound()}"
            ) from exc
        raise


def existing_part(path: Path) -> Path:
    """Return a path if it exists, otherwise the nearest of its parents that does."""
    while not path.exists():
        path = path.parent
    return path


def check_writable(path: Path) -> None:
    """Check that a file or folder can be made at a path; its parents may not exist yet.

    Raises
    ------
    ReadOnlyError : it cannot, for lack of permissions.
    NotADirectoryError : one of its parents is a file.
    """
    with storage_errors(path):
        place = existing_part(path.absolute() if path.is_dir() else path.absolute().parent)
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
        if not os.access(place, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, f"no permission to write to {place}")


def image_labels() -> dict[str, str] | None:
    """Return the labels of the image that this process runs in; None outside an image."""
    try:
        labels: dict[str, str] = json.loads(_IMAGE_LABELS.read_text())
    except (OSError, ValueError):
        return None
    return labels


def _bound() -> str:
    return "" if image_labels() is None else ", and that the image sees (BINDS, container.binds)"


@contextmanager
def publish(target: Path, *, first_wins: bool = False) -> Iterator[IO[bytes]]:
    """Open a binary file that appears as `target`, complete and on disk, when the block ends without an error.

    Parameters
    ----------
    target : the file to publish; its folder must exist.
    first_wins : if another process has published `target` meanwhile, keep theirs and drop ours; else replace it.

    Raises
    ------
    StorageFullError : disk or quota is full; nothing is published, nothing is left behind.
    """
    temporary = temp_path_for(target)
    with storage_errors(target):
        try:
            with open(
                temporary, "xb", buffering=1 << 16
            ) as stream:  # given, so that no call asks whether it is a terminal
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            commit(temporary, target, first_wins=first_wins)
        finally:
            temporary.unlink(missing_ok=True)


def commit(temporary: Path, target: Path, *, first_wins: bool = False) -> None:
    """Publish a finished, fsynced temporary file as `target`, durably."""
    if first_wins:
        link(temporary, target)
    else:
        os.replace(temporary, target)
    fsync_folder(target.parent)


def link(temporary: Path, target: Path) -> bool:
    """Give a finished temporary file its name unless that is taken; return whether this process was the first."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    except OSError as exc:
        if exc.errno not in _NO_LINKS:
            raise
        if target.exists():
            return False
        os.replace(temporary, target)
    return True


def expanded(path: str | os.PathLike[str]) -> Path:
    """Replace `~` at the start by a home folder; like in a shell, it stays where there is no such user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  Path.expanduser raises RuntimeError instead


def quoted(path: str | os.PathLike[str]) -> str:
    """Quote a path as a shell needs it, for command lines that are printed to be copied."""
    return shlex.quote(os.fspath(path))


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as exc:  # some network file systems refuse to sync a folder
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def publish_bytes(target: Path, content: bytes, *, first_wins: bool = False) -> None:
    """Publish `content` as one file."""
    with publish(target, first_wins=first_wins) as stream:
        stream.write(content)


def publish_json(target: Path, content: Any, *, first_wins: bool = False) -> None:
    """Publish `content` as indented JSON."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    publish_bytes(target, text.encode(), first_wins=first_wins)


def with_retries(path: Path, read: Callable[[], T]) -> T:
    """Read one of our own files, and retry if the storage fails for a moment.

    A stale handle after an NFS server failed over (ESTALE), an I/O error or a time-out say nothing about the content
    of a file: it is read again, for seven seconds.

    Raises
    ------
    StorageFaultError : the storage still fails.
    OSError : what is no fault of the storage: no such file, or (without an errno) what a library finds in it.
    """
    for delay_s in (*RETRY_DELAYS_S, None):
        try:
            return read()
        except OSError as exc:
            if exc.errno is None or exc.errno in _NO_FAULTS or isinstance(exc, VoxshardError):
                raise
            if delay_s is None or exc.errno in (errno.EACCES, errno.EPERM):
                raise StorageFaultError(
                    f"{path}: cannot be read on {os.uname().nodename}: {os.strerror(exc.errno)}; its content is not in "
                    "question. Check the storage and the permissions, then run the same command again"
                ) from exc
            time.sleep(delay_s)
    raise AssertionError("unreachable")


def read_bytes(path: Path) -> bytes:
    """Read the content of one of our own files; raises what `with_retries` raises."""
    return with_retries(path, path.read_bytes)


def read_text(path: Path, *, errors: str = "strict") -> str:
    """Read the UTF-8 text of one of our own files; raises what `with_retries` raises, and UnicodeDecodeError."""
    return with_retries(path, lambda: path.read_text(encoding="utf-8", errors=errors))


def open_to_read(path: Path) -> int:
    """Return a descriptor of one of our own files, which the caller closes; raises what `with_retries` raises."""
    return with_retries(path, lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC))


def check_readable(path: Path) -> None:
    """Check that the storage returns a file, for libraries that report every failure as damage.

    Raises
    ------
    StorageFaultError, OSError : see `with_retries`.
    """

    def read() -> None:
        with open(path, "rb") as stream:
            stream.read(1)

    with_retries(path, read)


def sweep_temporaries(folder: Path, *, everything: bool = False, spare_s: float = 0.0) -> list[Path]:
    """Remove the files and folders that interrupted writers left in a folder (not below it).

    Parameters
    ----------
    everything : remove every temporary file, whoever owns it (only once no process can be writing any more); otherwise
        only those of dead processes of this host.
    spare_s : with `everything`, keep those written to within N seconds, unless their process is known to be dead.

    Returns
    -------
    The paths removed.
    """
    removed = []
    for path in folder.glob("*.tmp"):
        owner = _TEMPORARY.search(path.name)
        if not owner:
            continue
        is_left = is_dead(owner["host"], owner["boot"], int(owner["pid"]))
        if is_left or (everything and age_s(path) >= spare_s):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def age_s(path: Path) -> float:
    """Return the seconds since a file was last written, infinite if it does not exist.

    Measured against a file that is written now in the same folder: clocks of the machines that share it may differ by
    minutes. Where this process may not write, against its own clock.
    """
    try:
        written = path.stat().st_mtime
    except FileNotFoundError:
        return math.inf
    probe = temp_path_for(path.with_name("clock"))
    try:
        probe.touch()
        now = probe.stat().st_mtime
    except OSError:
        now = time.time()
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return now - written


def is_dead(host: str, boot: str, pid: int) -> bool:
    """Whether a process is known to have ended; processes of other hosts are never known to."""
    if host != host_name():
        return False
    if boot != boot_id():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def sha256_of(path: Path, *, start: int = 0, on_bytes: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 (hex) of a file from byte `start` on, in constant memory."""
    digest = hashlib.sha256()
    with open(open_to_read(path), "rb") as stream:
        stream.seek(start)
        while block := stream.read(8 << 20):
            digest.update(block)
            if on_bytes:
                on_bytes(len(block))
    return digest.hexdigest()


def digest_of(content: Any) -> str:
    """Return the SHA-256 (hex) of a JSON-able value; the order of its keys does not matter."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
