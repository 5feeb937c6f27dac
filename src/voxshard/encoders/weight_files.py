"""Weights on disk: where they are searched, and what identifies them. Compute nodes receive only a path."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from voxshard import files
from voxshard.encoders.base import KnownHashes, WeightFile
from voxshard.errors import CorruptFileError, MissingObjectError, MissingWeightsError
from voxshard.locations import Url, local_copy, parse

WEIGHTS_VARIABLE = "VOXSHARD_WEIGHTS"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_MODELS_IN = ("checkpoint-*", "models--*")
"""Folders of models in an output folder of a Trainer, and in the hub's cache."""
_LFS = b"version https://git-lfs"


def find(encoder: str, given: str | None, *, fetch_name: str | None = None) -> Path:
    """Locate a weights folder under its own name, which may be a link or be behind links.

    Raises
    ------
    MissingWeightsError : reports where it was looked for, and the command that brings it.
    """
    if given and isinstance(url := parse(given), Url):
        try:
            return local_copy(url)
        except MissingObjectError as exc:
            raise MissingWeightsError(f"weights of {encoder} not found: {exc}") from exc
    store = os.environ.get(WEIGHTS_VARIABLE)
    candidates = []
    if given:
        candidates.append(files.expanded(given))
    if store:
        candidates.append(Path(store, encoder, given) if given else Path(store, encoder))
    if given and _HUB_NAME.fullmatch(given):
        candidates.append(hub_cache() / f"models--{given.replace('/', '--')}")
    found = next((path for path in candidates if _exists(path, encoder)), None)
    if found is None:
        looked = ", ".join(map(_with_target, candidates)) or f"nowhere: ${WEIGHTS_VARIABLE} is not set"
        raise MissingWeightsError(
            f"weights of {encoder} not found (looked in {looked}); {_remedy(encoder, fetch_name)}"
        )
    return snapshot_of(found)


NOT_FETCHED = {
    "onnx": "give an export with its encoder.json by `--set weights=FOLDER`; `voxshard weights list` has some",
    "hear": "give what the module's load_model takes by `--set weights=FOLDER_OR_FILE`",
}
"""Encoder that has no weights of its own name -> how to give it some."""


def _remedy(encoder: str, fetch_name: str | None) -> str:
    fetch = f"voxshard weights fetch {fetch_name or encoder}"
    otherwise = f"on a machine with internet run `{fetch}`, or give the folder with `--set weights=FOLDER`"
    return NOT_FETCHED.get(encoder, otherwise)


def hub_cache() -> Path:
    """Return the cache of huggingface_hub on this machine, as its variables state it."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    chosen = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return files.expanded(chosen or Path(home, "hub"))


def snapshot_of(folder: Path) -> Path:
    """Return the model in a folder of the hub's cache (`models--org--name`, or its `snapshots`); any other folder
    unchanged.

    Raises
    ------
    MissingWeightsError : no snapshot, or several of which none is that of `main`.
    """
    if folder.name == "snapshots" and folder.parent.name.startswith("models--"):
        folder = folder.parent
    if not folder.name.startswith("models--") or not (folder / "snapshots").is_dir():
        return folder
    main = folder / "refs" / "main"
    chosen = main.read_text(errors="replace").strip() if main.is_file() else None
    found = sorted(path for path in (folder / "snapshots").iterdir() if path.is_dir())
    for path in found:
        if path.name == chosen or len(found) == 1:
            return path
    shown = ", ".join(path.name for path in found) or "none"
    raise MissingWeightsError(
        f"{folder}: a folder of the hub's cache without a snapshot of main; snapshots: {shown}; give one of these "
        "folders with `--set weights=FOLDER`, or fetch the model again"
    )


def check_no_pointer(path: Path) -> None:
    """Check that a file is no pointer of Git LFS, which a clone without LFS leaves.

    Raises
    ------
    MissingWeightsError : it is one.
    """
    with open(path, "rb") as stream:
        is_pointer = stream.read(len(_LFS)) == _LFS
    if is_pointer:
        raise MissingWeightsError(
            f"{path}: a Git LFS pointer, not the file itself; run `git lfs pull` in {path.parent}, or fetch the model"
        )


def check_links(folder: Path, names: Sequence[str]) -> None:
    """Check that none of these files is a link to nothing, as in a hub's cache that was cleaned or copied in part.

    Raises
    ------
    MissingWeightsError : one is; says where it leads.
    """
    for name in names:
        if (folder / name).is_symlink() and not (folder / name).exists():
            raise MissingWeightsError(
                f"{folder / name}: a link to {os.path.realpath(folder / name)}, which does not exist: the cache was "
                "cleaned, or copied in part; fetch the model again"
            )


def refused_pickle(path: Path) -> CorruptFileError:
    """Return the error for a checkpoint that contains more than tensors: unpickling it could run any program."""
    return CorruptFileError(
        f"{path}: refused: its checkpoint is a pickle that holds other objects than tensors, which is never unpickled; "
        "use a model.safetensors of the model, or convert it: https://huggingface.co/docs/safetensors/convert-weights"
    )


def _exists(path: Path, encoder: str) -> bool:
    try:
        return path.exists()
    except PermissionError as exc:
        raise MissingWeightsError(f"weights of {encoder}: {path} cannot be read: {exc.strerror}") from exc


def _with_target(path: Path) -> str:
    """A path and where its links lead, which need not exist: an image sees what it is shown."""
    real = os.path.realpath(path)
    return str(path) if real == os.path.abspath(path) else f"{path} -> {real}"  # noqa: PTH100


def locate(encoder: str, given: str | None, *, required: Sequence[str] = (), fetch_name: str | None = None) -> Path:
    """Return the folder (or file) of an encoder's weights, with links resolved.

    Parameters
    ----------
    given : the `weights` setting: a path; for a name that is no path, `$VOXSHARD_WEIGHTS/<encoder>/<name>`; None:
        `$VOXSHARD_WEIGHTS/<encoder>`.
    required : files, relative to it, that must be there.
    fetch_name : what `voxshard weights fetch` calls it, where that is not the encoder's name.

    Raises
    ------
    MissingWeightsError : describes what is missing, where it was looked for, and the command that brings it.
    """
    found = find(encoder, given, fetch_name=fetch_name)
    missing = [name for name in required if not _exists(found / name, encoder)]
    if missing and found.is_file():
        raise MissingWeightsError(f"{found}: a file; {encoder} expects the folder that has {', '.join(required)} in it")
    if missing:
        check_links(found, missing)
        if inside := [path.name for pattern in _MODELS_IN for path in sorted(found.glob(pattern))]:
            raise MissingWeightsError(f"{found}: no model but a folder of them: give {' or '.join(inside[:5])} in it")
        raise MissingWeightsError(
            f"{found}: no {', '.join(missing)} in this folder; {encoder} expects {', '.join(required)}; is it the"
            f" folder of another model, or half a download? {_remedy(encoder, fetch_name)}"
        )
    return found.resolve()


def hash_files(folder: Path, names: Sequence[str], known: KnownHashes) -> tuple[WeightFile, ...]:
    """Identify weight files by SHA-256, once: a file whose size and time are known is not read again."""
    earlier = {item.name: item for item in known.get(folder, ())}
    found = []
    for name in sorted(names):
        status = (folder / name).stat()
        item = earlier.get(name)
        files.check_readable(folder / name)
        if item is None or (item.num_bytes, item.mtime_ns) != (status.st_size, status.st_mtime_ns):
            item = WeightFile(name, status.st_size, status.st_mtime_ns, files.sha256_of(folder / name))
        found.append(item)
    return tuple(found)
