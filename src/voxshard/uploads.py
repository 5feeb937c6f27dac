"""Upload files and folders to buckets, so that a reader finds a complete result or none."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from voxshard import files, remote
from voxshard.errors import MissingObjectError, ObjectExistsError, TransientFaultError
from voxshard.locations import BEGUN, MARKER, AnyLocation, Url, cache_root, check_output_name, locked
from voxshard.progress import Progress, Silent, counted
from voxshard.remote import Digests, RemoteObject

_UPLOADS = 16
_LAST = ("SHA256SUMS", "metrics.json", "summary.json", "report.html")
"""Files whose presence means that the other files of their folder are complete."""
_STATE = {"progress": "identity.json", "jobs": "config.yaml"}
"""Folder that only the machine needs that works on a feature set or experiment -> the file next to it."""


@dataclass(frozen=True)
class Published:
    """Summary of an upload."""

    num_uploaded: int
    num_present: int
    """Objects that had the right content already."""
    num_bytes: int
    """Number of bytes that were uploaded."""


def publish(
    source: Path,
    url: Url,
    *,
    replace: bool = False,
    on_accepted: Callable[[], None] = lambda: None,
    progress: Progress | None = None,
    check: Callable[[], None] = lambda: None,
) -> Published:
    """Upload a file, or a folder with everything in it; objects that exist already are not uploaded again.

    The digest of every object is compared with the local file's. Of a folder, `published.json` is written last; it has
    the name, size and SHA-256 of every other object. Until then there is an object `publishing.json`, so that no reader
    takes the folder for complete.

    Parameters
    ----------
    replace : replace objects that have another content.
    on_accepted : called before the first upload, once it is known that nothing is in the way.
    check : called before every upload; raises to stop.

    Raises
    ------
    ObjectExistsError : without `replace`, there are objects with another content; nothing is uploaded.
    TransientFaultError : the store keeps failing, or an object does not have the content that was uploaded.
    NoSuchBucketError, AccessDeniedError, BackendUnavailableError.
    """
    check_output_name(url)
    progress = progress or Silent()
    if source.is_file():
        return _publish({"": source}, url, replace, on_accepted, progress, check)
    return _publish(_files_of(source), url, replace, on_accepted, progress, check)


@contextmanager
def output(out: AnyLocation, *, also: Sequence[str] = (), resumes: bool = False) -> Iterator[Path]:
    """Yield a local path to write `out` to; if `out` is a URL, it is uploaded when the block ends.

    A folder in the cache serves a URL, always the same one; it is removed after the upload, and after a failure unless
    the block can continue what is in it. Objects are replaced, as local files are.

    Parameters
    ----------
    also : names of files that are written next to the path; they are uploaded next to the URL, first.
    resumes : whether the block continues what an interrupted one has left in the folder; else it finds nothing there.
    """
    if isinstance(out, Path):
        yield out
        return
    folder = cache_root() / "outputs" / hashlib.sha256(out.rstrip("/").encode()).hexdigest()[:20]
    with files.storage_errors(folder), locked(folder.with_suffix(".lock")):
        if not resumes:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / out.name
        is_done = False
        try:
            yield path
            above = Url(out.rstrip("/").rpartition("/")[0])
            for name in (*also, out.name):
                if (folder / name).exists():
                    publish(folder / name, above / name, replace=True)
            is_done = True
        finally:
            if is_done or not resumes:
                shutil.rmtree(folder, ignore_errors=True)
                folder.with_suffix(".lock").unlink(missing_ok=True)


def _files_of(folder: Path) -> dict[str, Path]:
    """Return the files below a folder by name, without temporary files and the state of running work."""
    found: dict[str, Path] = {}
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place)
        folders[:] = sorted(
            name
            for name in folders
            if files.without_temporary(name) == name and not (name in _STATE and _STATE[name] in names)
        )
        for name in sorted(names):
            if files.without_temporary(name) == name and not name.endswith((".lock", ".corrupt")):
                found[(here / name).relative_to(folder).as_posix()] = here / name
    for name in (MARKER, BEGUN):
        found.pop(name, None)
    if not found:
        raise MissingObjectError(f"{folder}: nothing to publish, the folder is empty")
    return found


def _publish(
    sources: Mapping[str, Path],
    url: Url,
    replace: bool,
    on_accepted: Callable[[], None],
    progress: Progress,
    check: Callable[[], None],
) -> Published:
    is_folder = "" not in sources
    progress.begin("comparing", items=len(sources))

    def digests_of(path: Path) -> Digests:
        check()
        found = remote.file_digests(path)
        progress.advance()
        return found

    present = _present(url, is_folder)
    with ThreadPoolExecutor(_UPLOADS) as pool:
        digests = dict(zip(sources, pool.map(digests_of, sources.values()), strict=True))
        same = dict(
            zip(
                present,
                pool.map(lambda name: name in digests and remote.has_content(present[name], digests[name]), present),
                strict=True,
            )
        )
        different = [name for name in sources if name in present and not same[name]]
        left_over = [name for name in _published_before(url, present) if name not in sources]
        if (different or left_over) and not replace:
            first = (different or left_over)[0]
            count = counted(len(different) + len(left_over), "object")
            raise ObjectExistsError(
                f"{url}: {count} there with another content, such as "
                f"{url / first if first else url}; give another URL, or replace them with --replace"
            )
        todo = [name for name in sources if name not in present or not same[name]]
        on_accepted()
        is_complete = not is_folder or (MARKER in present and not todo and not left_over)
        if not is_complete:
            _put_text(url / BEGUN, json.dumps({"format_version": 1}))
            if MARKER in present:
                remote.delete(url / MARKER)
        progress.begin("uploading", items=len(todo))

        def upload(name: str) -> None:
            check()
            _upload(sources[name], url / name if name else url, digests[name], replace=name in present)
            progress.advance()

        ranks = {name: _LAST.index(base) + 1 if (base := name.rpartition("/")[2]) in _LAST else 0 for name in todo}
        for rank in sorted(set(ranks.values())):
            list(pool.map(upload, [name for name in todo if ranks[name] == rank]))
        list(pool.map(lambda name: remote.delete(url / name), left_over))
    if not is_complete:
        _write_marker(url, digests)
    if not is_complete or BEGUN in present:
        remote.delete(url / BEGUN)
    return Published(len(todo), len(sources) - len(todo), sum(digests[name].num_bytes for name in todo))


def _present(url: Url, is_folder: bool) -> dict[str, RemoteObject]:
    """Return the objects at a URL by name; an object and a folder of one name are refused: readers see the object."""
    try:
        single = remote.stat(url)
    except MissingObjectError:
        single = None
    if single is not None and not is_folder:
        return {"": single}
    top = len(url.rstrip("/")) + 1
    below = {item.url[top:]: item for item in remote.listing(url)}
    if single is not None or (below and not is_folder):
        there, given = ("an object", "a folder") if is_folder else ("a folder", "a file")
        raise ObjectExistsError(
            f"{url}: {there} has this name already, and {given} cannot have it too; give another URL"
        )
    return below


def _published_before(url: Url, present: Mapping[str, RemoteObject]) -> list[str]:
    """Return the objects of an earlier publication of a folder that still exist."""
    if MARKER not in present:
        return []
    try:
        names = json.loads(remote.read(url / MARKER))["files"]
    except (ValueError, KeyError, TypeError):
        return []
    return [name for name in names if name in present]


def _upload(source: Path, url: Url, content: Digests, *, replace: bool) -> None:
    try:
        remote.upload(source, url, if_absent=not replace)
    except FileExistsError as exc:
        if not remote.has_content(remote.stat(url), content):
            raise ObjectExistsError(
                f"{url}: another process has written another content there meanwhile; give another URL, or replace it "
                "with --replace"
            ) from exc
    if not remote.has_content(remote.stat(url), content):
        raise TransientFaultError(
            f"{url}: does not have the content of {source} after its upload; run the same command again"
        )


def _write_marker(url: Url, digests: Mapping[str, Digests]) -> None:
    described = {
        name: {"num_bytes": content.num_bytes, "sha256": content.sha256} for name, content in sorted(digests.items())
    }
    _put_text(url / MARKER, json.dumps({"format_version": 1, "files": described}, indent=1) + "\n")


def _put_text(url: Url, text: str) -> None:
    place = files.temp_path_for(cache_root() / url.name)
    with files.storage_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            place.write_text(text)
            _upload(place, url, remote.file_digests(place), replace=True)
        finally:
            place.unlink(missing_ok=True)
