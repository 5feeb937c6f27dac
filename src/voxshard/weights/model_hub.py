"""Models of the Hugging Face hub, through huggingface_hub: revisions, tokens, transfers and digests."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from voxshard import files
from voxshard.encoders.weight_files import hub_cache
from voxshard.errors import BackendUnavailableError, CorruptFileError, MissingWeightsError, TransientFaultError
from voxshard.weights.web import NotThereError, unreachable

TOKEN_VARIABLE = "HF_TOKEN"
HUB_VARIABLE = "HF_ENDPOINT"
_HUB = "https://huggingface.co"
_TRIES = 4
_TIMEOUT_S = 30.0
_COMMIT = re.compile(r"[0-9a-f]{40}")
Result = TypeVar("Result")


@dataclass(frozen=True)
class HubFile:
    """Facts that the hub publishes about one file."""

    num_bytes: int | None
    sha256: str | None
    """Published SHA-256 digest of a large file."""
    git_blob: str | None
    """SHA-1 (hex) of a small file, with git's header before its content."""


@dataclass(frozen=True)
class HubModel:
    """One revision of a model repository."""

    repository: str
    commit: str
    files: Mapping[str, HubFile]
    is_from_cache: bool = False
    """Whether the hub was not reached and the local cache of huggingface_hub describes the model."""


def endpoint() -> str:
    """Return the address of the hub, or of its mirror in $HF_ENDPOINT."""
    return os.environ.get(HUB_VARIABLE, _HUB).rstrip("/")


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a full commit, which never changes."""
    return bool(revision and _COMMIT.fullmatch(revision))


def model(repository: str, revision: str, *, wait_s: float) -> HubModel:
    """Look up the commit of a branch or tag, and its files.

    Where the hub cannot be reached, the hub's cache on this machine describes a model that is in it.

    Raises
    ------
    BackendUnavailableError : huggingface_hub is not installed.
    MissingWeightsError : no such model or revision, or one whose terms must be accepted first.
    TransientFaultError : the hub cannot be reached, and the cache has no such model.
    """
    api = _library().HfApi(endpoint=endpoint(), token=_token())
    where = f"{endpoint()}/{repository} at {revision}"

    def ask() -> Any:
        return api.model_info(repository, revision=revision, files_metadata=True, timeout=_TIMEOUT_S)

    known = _cached(repository, revision)
    try:
        about = _with_retries(where, ask, wait_s, 1 if known else _TRIES)
    except TransientFaultError:
        if known is None:
            raise
        return known
    found = {
        item.rfilename: HubFile(item.size, item.lfs.sha256 if item.lfs else None, None if item.lfs else item.blob_id)
        for item in about.siblings or ()
    }
    if not is_commit(about.sha):
        raise CorruptFileError(
            f"{where}: the hub names no commit but {about.sha!r}; is $HF_ENDPOINT a mirror of the hub?"
        )
    return HubModel(repository, about.sha, found)


def download(wanted: HubModel, name: str, folder: Path, *, wait_s: float) -> str:
    """Fetch one file into a folder, under its name: from the hub's local cache if it is intact there.

    huggingface_hub resumes a transfer that was cut off if it can.

    Returns
    -------
    Its SHA-256 (hex).

    Raises
    ------
    NotThereError : the revision has no such file.
    CorruptFileError : complete, but not the file that the hub describes; nothing is kept.
    TransientFaultError : cut off or unreachable, again and again.
    """
    cached = in_cache(wanted, name)
    if cached is not None:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.storage_errors(folder):
            shutil.copyfile(cached, target)
        found = files.sha256_of(target)
        if not _mismatch(target, found, wanted.files[name]):
            return found
        target.unlink()
    where = f"{endpoint()}/{wanted.repository}/resolve/{wanted.commit}/{name}"
    published = wanted.files.get(name)
    if published is None:
        owner = "the hub cannot be reached, its cache on this machine" if wanted.is_from_cache else "the model"
        raise NotThereError(f"{where}: no such file; {owner} has {', '.join(sorted(wanted.files)) or 'no files'}")
    library = _library()
    library.utils.disable_progress_bars()

    def get() -> Any:
        return library.hf_hub_download(
            wanted.repository,
            name,
            revision=wanted.commit,
            local_dir=folder,
            cache_dir=folder / ".cache" / "none",  # where the library's own cache has the file, it is damaged
            token=_token(),
            endpoint=endpoint(),
            etag_timeout=_TIMEOUT_S,
        )

    with files.storage_errors(folder):
        path = Path(_with_retries(where, get, wait_s))
    found = files.sha256_of(path)
    problem = _mismatch(path, found, published)
    if problem:
        path.unlink()
        raise CorruptFileError(f"{where}: {problem}; nothing was kept. Try again; if it stays so, the origin changed")
    return found


def in_cache(wanted: HubModel, name: str) -> Path | None:
    """Return a file of a model in the hub's local cache; None if it does not exist there."""
    path = _cache_folder(wanted.repository) / "snapshots" / wanted.commit / name
    return path if name in wanted.files and path.is_file() else None


def _cache_folder(repository: str) -> Path:
    return hub_cache() / f"models--{repository.replace('/', '--')}"


def _cached(repository: str, revision: str) -> HubModel | None:
    """Return a revision of a model from the hub's local cache; its files are named after their digests."""
    folder = _cache_folder(repository)
    ref = folder / "refs" / revision
    commit = revision if is_commit(revision) else ref.read_text().strip() if ref.is_file() else ""
    snapshot = folder / "snapshots" / commit
    if not commit or not snapshot.is_dir():
        return None
    found = {}
    for path in snapshot.rglob("*"):
        if path.is_file():
            blob = path.resolve().name
            sha256, git_blob = (blob if re.fullmatch(rf"[0-9a-f]{{{length}}}", blob) else None for length in (64, 40))
            found[path.relative_to(snapshot).as_posix()] = HubFile(path.stat().st_size, sha256, git_blob)
    return HubModel(repository, commit, found, is_from_cache=True)


def _mismatch(path: Path, sha256: str, published: HubFile) -> str | None:
    num_bytes = path.stat().st_size
    if published.num_bytes is not None and num_bytes != published.num_bytes:
        return f"{num_bytes:,} bytes, expected {published.num_bytes:,}"
    if published.sha256 is not None and sha256 != published.sha256:
        return f"SHA-256 is {sha256}, expected {published.sha256}"
    if published.git_blob is not None:
        digest = hashlib.sha1(f"blob {num_bytes}\0".encode(), usedforsecurity=False)
        digest.update(path.read_bytes())
        if digest.hexdigest() != published.git_blob:
            return f"its git digest is {digest.hexdigest()}, expected {published.git_blob}"
    return None


def _token() -> str | bool:
    """Return the user's token, for the hub alone; False: send none, whatever a login stored."""
    return os.environ.get(TOKEN_VARIABLE) or False


def _library() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as exc:
        raise BackendUnavailableError(
            f"models of the Hugging Face hub are fetched by huggingface_hub, and `import {exc.name}` fails ({exc}); "
            "`pip install 'voxshard[weights]'`"
        ) from exc
    return huggingface_hub  # type: ignore[no-any-return]


def _with_retries(where: str, call: Callable[[], Result], wait_s: float, num_tries: int = _TRIES) -> Result:
    for attempt in range(1, num_tries + 1):
        try:
            with _errors_named(where):
                return call()
        except TransientFaultError:
            if attempt == num_tries:
                raise
            time.sleep(wait_s * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


@contextmanager
def _errors_named(where: str) -> Iterator[None]:
    """Convert the errors of huggingface_hub and of its HTTP client to ours."""
    from huggingface_hub import errors

    try:
        yield
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as exc:
        raise MissingWeightsError(
            f"{where}: no such model, or one whose terms must be accepted first: do that on its page, "
            f"`export {TOKEN_VARIABLE}=...` (a read token of your account), and run the same command again"
        ) from exc
    except errors.RevisionNotFoundError as exc:
        raise MissingWeightsError(f"{where}: no such revision; name a branch, a tag or a commit of the model") from exc
    except errors.HFValidationError as exc:
        raise MissingWeightsError(f"{where}: not a name the hub knows: {_one_line(exc)}") from exc
    except errors.LocalEntryNotFoundError as exc:  # before the next: it means that the hub was not reached
        raise unreachable(where, _one_line(exc.__cause__ or exc)) from exc
    except errors.EntryNotFoundError as exc:
        raise NotThereError(f"{where}: no such file") from exc
    except errors.HfHubHTTPError as exc:
        status = getattr(exc.response, "status_code", 0)
        if status in (401, 403):
            raise MissingWeightsError(f"{where}: {status}: refused; check ${TOKEN_VARIABLE}: {_one_line(exc)}") from exc
        if status == 404:
            raise MissingWeightsError(
                f"{where}: 404: nothing like that is here; if ${HUB_VARIABLE} names a mirror, it must speak the hub's "
                "protocol, /api/models included"
            ) from exc
        raise unreachable(where, _one_line(exc)) from exc
    except MemoryError:
        raise
    except OSError as exc:
        if exc.errno is not None and exc.filename is not None:  # the disk, not the network
            raise
        raise unreachable(where, _one_line(exc)) from exc
    except Exception as exc:  # the HTTP client's own errors, and what odd headers make the library trip over
        raise unreachable(where, f"{type(exc).__name__}: {_one_line(exc)}") from exc


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
