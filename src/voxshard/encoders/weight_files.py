"""Weights on disk: where they are looked for, and what identifies them. Compute nodes only ever get a path."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from voxshard import files
from voxshard.encoders.base import KnownHashes, WeightFile
from voxshard.errors import MissingObjectError, MissingWeightsError
from voxshard.locations import Url, local_copy, parse

WEIGHTS_VARIABLE = "VOXSHARD_WEIGHTS"


def find(encoder: str, given: str | None, *, fetch_name: str | None = None) -> Path:
    """As `locate`, by the name it was found under: it may be a link, or lie behind some.

    Raises
    ------
    MissingWeightsError : says where it was looked for, and the command that brings it.
    """
    if given and isinstance(url := parse(given), Url):
        try:
            return local_copy(url)
        except MissingObjectError as exc:
            raise MissingWeightsError(f"weights of {encoder} not found: {exc}") from exc
    store = os.environ.get(WEIGHTS_VARIABLE)
    candidates = []
    if given:
        candidates.append(Path(given).expanduser())
    if store:
        candidates.append(Path(store, encoder, given) if given else Path(store, encoder))
    found = next((path for path in candidates if _exists(path, encoder)), None)
    if found is None:
        looked = ", ".join(map(_with_target, candidates)) or f"nowhere: ${WEIGHTS_VARIABLE} is not set"
        raise MissingWeightsError(
            f"weights of {encoder} not found (looked in {looked}); on a machine with internet run "
            f"`voxshard weights fetch {fetch_name or encoder}`, or give the folder with `--set weights=FOLDER`"
        )
    return found


def _exists(path: Path, encoder: str) -> bool:
    try:
        return path.exists()
    except PermissionError as exc:
        raise MissingWeightsError(f"weights of {encoder}: {path} cannot be read: {exc.strerror}") from exc


def _with_target(path: Path) -> str:
    """A path and where its links lead, which need not be there: an image sees what it is shown."""
    real = os.path.realpath(path)
    return str(path) if real == os.path.abspath(path) else f"{path} -> {real}"  # noqa: PTH100


def locate(encoder: str, given: str | None, *, required: Sequence[str] = (), fetch_name: str | None = None) -> Path:
    """The folder (or file) an encoder's weights lie in; links are resolved.

    Parameters
    ----------
    given : the `weights` setting: a path; for a name that is no path, `$VOXSHARD_WEIGHTS/<encoder>/<name>`; None:
        `$VOXSHARD_WEIGHTS/<encoder>`.
    required : files, relative to it, that must be there.
    fetch_name : what `voxshard weights fetch` calls it, where that is not the encoder's name.

    Raises
    ------
    MissingWeightsError : says what is missing, where it was looked for, and the command that brings it.
    """
    found = find(encoder, given, fetch_name=fetch_name)
    missing = [name for name in required if not _exists(found / name, encoder)]
    if missing:
        raise MissingWeightsError(
            f"{found}: no {', '.join(missing)} in this folder; {encoder} expects {', '.join(required)}; is it the"
            " folder of another model, or half a download? "
            f"`voxshard weights fetch {fetch_name or encoder}` brings it whole"
        )
    return found.resolve()


def hash_files(folder: Path, names: Sequence[str], known: KnownHashes) -> tuple[WeightFile, ...]:
    """Identify weight files by SHA-256, once: a file whose size and time are known is not read again."""
    earlier = {item.name: item for item in known.get(folder, ())}
    found = []
    for name in sorted(names):
        status = (folder / name).stat()
        item = earlier.get(name)
        if item is None or (item.num_bytes, item.mtime_ns) != (status.st_size, status.st_mtime_ns):
            item = WeightFile(name, status.st_size, status.st_mtime_ns, files.sha256_of(folder / name))
        found.append(item)
    return tuple(found)
