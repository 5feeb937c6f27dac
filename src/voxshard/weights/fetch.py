"""Weights into one folder, on a machine with internet, with a record of what they are; and the check of it later."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from voxshard import files
from voxshard.encoders.hf import read_json
from voxshard.encoders.weight_files import WEIGHTS_VARIABLE
from voxshard.errors import ConfigError, CorruptFileError
from voxshard.progress import Progress, Silent
from voxshard.weights.catalogue import Source, WeightSet, is_on_hub, known_sets
from voxshard.weights.download import TOKEN_VARIABLE, NotThereError, download

RECORD = "weights.json"
"""Written beside the files of every fetched set."""


@dataclass(frozen=True)
class Entry:
    """One file of the record."""

    name: str
    num_bytes: int
    sha256: str
    url: str
    checked_against: str
    """published: a digest in the catalogue or from the origin; nothing: recorded as it came."""
    revision: str | None = None


@dataclass(frozen=True)
class Finding:
    """What `verify` says of one file."""

    path: Path
    state: str
    """ok, changed, missing, or unknown (no digest to compare with)."""
    detail: str = ""


def weights_root(given: Path | None) -> Path:
    """The folder all weights lie in: as given, or $VOXSHARD_WEIGHTS.

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
    return found.expanduser()


def fetch(wanted: WeightSet, root: Path, *, progress: Progress | None = None, wait_s: float = 2.0) -> Path:
    """Bring every file of a set under `root`, checked, readable by the group, with a record beside them.

    Files that are here already and are what they should be are not fetched again.

    Returns
    -------
    The folder of the set.

    Raises
    ------
    MissingWeightsError, CorruptFileError, TransientFaultError : see `voxshard.weights.download.download`.
    """
    folder = root / wanted.name
    _make_shared(folder)
    earlier = {entry.name: entry for entry in read_record(folder)}
    fetcher = _Fetcher(folder, earlier, progress or Silent(), wait_s)
    entries = [entry for source in wanted.sources for entry in fetcher.bring(source)]
    if wanted.choices:
        entries += fetcher.bring_one_of(wanted)
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
    return folder


def read_record(folder: Path) -> list[Entry]:
    """The entries of a set's record; none where there is no record."""
    path = folder / RECORD
    if not path.exists():
        return []
    try:
        return [Entry(**item) for item in json.loads(path.read_text())["files"]]
    except (ValueError, KeyError, TypeError) as exc:
        raise CorruptFileError(f"{path}: not a record of weights ({exc}); delete it and fetch again") from exc


def verify(root: Path, names: list[str]) -> Iterator[Finding]:
    """Hash the files of the sets named (of every set under `root` if none is) and compare."""
    for folder in [root / name for name in names] or fetched_folders(root):
        entries = read_record(folder)
        for entry in entries:
            yield _compare(folder / entry.name, entry.sha256)
        if not entries:
            yield from _verify_unrecorded(folder, root)


def fetched_folders(root: Path) -> list[Path]:
    """Folders of sets under `root`: those with a record, and those of the catalogue that were put there by hand."""
    recorded = [path.parent for pattern in ("*", "hf/*/*") for path in root.glob(f"{pattern}/{RECORD}")]
    by_hand = [root / name for name in known_sets() if (root / name).is_dir()]
    by_hand += [path.parent for path in root.glob("hf/*/*/config.json")]
    return sorted({*recorded, *by_hand})


def _verify_unrecorded(folder: Path, root: Path) -> Iterator[Finding]:
    known = known_sets().get(folder.relative_to(root).as_posix())
    digests = {source.name: source.sha256 for source in known.sources} if known else {}
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    if not found:
        yield Finding(folder, "missing", "nothing here; `voxshard weights fetch` brings it")
    for path in found:
        digest = digests.get(path.relative_to(folder).as_posix())
        yield _compare(path, digest) if digest else Finding(path, "unknown", "no digest to compare with")


def _compare(path: Path, sha256: str) -> Finding:
    if not path.exists():
        return Finding(path, "missing")
    found = files.sha256_of(path)
    return Finding(path, "ok") if found == sha256 else Finding(path, "changed", f"SHA-256 {found}, recorded {sha256}")


class _Fetcher:
    def __init__(self, folder: Path, earlier: dict[str, Entry], progress: Progress, wait_s: float) -> None:
        self.folder = folder
        self.earlier = earlier
        self.progress = progress
        self.wait_s = wait_s

    def bring(self, source: Source) -> list[Entry]:
        if source.is_archive:
            unpacked = [entry for entry in self.earlier.values() if entry.url == source.url]
            if unpacked and all(self._is_here(entry) for entry in unpacked):
                return unpacked
            return self._unpack(source)
        earlier = self.earlier.get(source.name)
        if earlier and earlier.sha256 == (source.sha256 or earlier.sha256) and self._is_here(earlier):
            return [earlier]
        return [self._download(source)]

    def bring_one_of(self, wanted: WeightSet) -> list[Entry]:
        for source in wanted.choices:
            try:
                entries = self.bring(source)
            except NotThereError:
                if source is wanted.choices[-1]:
                    raise
                continue
            if source.name.endswith(".index.json"):
                index: dict[str, Any] = read_json(self.folder / source.name)
                for name in sorted(set(index.get("weight_map", {}).values())):
                    _check_inside(name, source.url)
                    entries += self.bring(Source(name, source.url.removesuffix(source.name) + name))
            return entries
        raise AssertionError("a set has choices or none")

    def _is_here(self, entry: Entry) -> bool:
        path = self.folder / entry.name
        return path.exists() and path.stat().st_size == entry.num_bytes and files.sha256_of(path) == entry.sha256

    def _download(self, source: Source) -> Entry:
        target = self.folder / source.name
        _make_shared(target.parent)
        megabytes = _Megabytes(self.progress, source.name)
        received = download(
            source.url,
            target,
            sha256=source.sha256,
            num_bytes=source.num_bytes,
            token=os.environ.get(TOKEN_VARIABLE) if is_on_hub(source.url) else None,
            on_size=megabytes.size,
            on_bytes=megabytes.add,
            wait_s=self.wait_s,
        )
        checked = "published" if source.sha256 or received.published_sha256 else "nothing"
        return Entry(source.name, received.num_bytes, received.sha256, source.url, checked, received.revision)

    def _unpack(self, source: Source) -> list[Entry]:
        archive = self.folder / source.name
        self._download(source)
        staging = files.temp_path_for(archive)
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(staging, filter="data")  # refuses paths and links that lead outside
            names = sorted(path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file())
            for name in names:
                target = self.folder / name
                _make_shared(target.parent)
                (staging / name).chmod(0o640)
                os.replace(staging / name, target)
        except tarfile.TarError as exc:
            raise CorruptFileError(f"{source.url}: not a tar archive that can be unpacked: {exc}") from exc
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            archive.unlink(missing_ok=True)
        return [self._entry(name, source) for name in names]

    def _entry(self, name: str, source: Source) -> Entry:
        path = self.folder / name
        return Entry(name, path.stat().st_size, files.sha256_of(path), source.url, "nothing")


class _Megabytes:
    """Bytes as progress in megabytes."""

    def __init__(self, progress: Progress, name: str) -> None:
        self.progress = progress
        self.name = name
        self.bytes = 0
        self.shown = 0

    def size(self, num_bytes: int) -> None:
        self.progress.begin(f"{self.name}, MB", items=max(1, num_bytes // 1_000_000))
        self.bytes = self.shown = 0

    def add(self, count: int) -> None:
        self.bytes += count
        whole = self.bytes // 1_000_000
        if whole > self.shown:
            self.progress.advance(whole - self.shown)
            self.shown = whole


def _check_inside(name: str, where: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise CorruptFileError(f"{where}: names the file {name!r}, which lies outside the model's folder")


def _make_shared(folder: Path) -> None:
    """Make a folder, and those above it, that the group can read, whatever the umask; others stay as they are."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        path.chmod(path.stat().st_mode | 0o050)
