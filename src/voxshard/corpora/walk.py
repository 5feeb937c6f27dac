"""Find files below a folder or a URL: any depth, in a fixed order, no more work per file than it takes."""

# Paths are plain strings here: a Path object per file would cost more than all the rest.
# ruff: noqa: PTH112, PTH113, PTH116, PTH118

from __future__ import annotations

import errno
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from voxshard.audio import is_url
from voxshard.corpora.base import AUDIO_EXTENSIONS, describe_extensions, extension_of, first_names
from voxshard.corpora.remote_folder import CorpusPath, objects_below
from voxshard.errors import EmptyCorpusError, TransientFaultError
from voxshard.progress import counted

# Answers that listing again does not change: they are the folder's or the link's, not the storage's. A folder that is
# gone was removed while the corpus was listed.
_REFUSALS = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ENOENT)


@dataclass
class Found:
    """Paths relative to the root, sorted by code point (as `LC_ALL=C sort`); and what was passed over."""

    paths: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    """Number of files of other kinds, by extension."""
    closed: list[str] = field(default_factory=list)
    """Folders that may not be listed."""
    endless: list[str] = field(default_factory=list)
    """Links that lead back to themselves."""

    @property
    def notes(self) -> list[str]:
        notes = []
        if self.closed:
            notes.append(
                f"left out, since they may not be listed: {len(self.closed)} of the folders, {first_names(self.closed)}"
            )
        if self.endless:
            notes.append(
                f"left out, because they lead back to themselves or cannot be followed: "
                f"{counted(len(self.endless), 'link')}, "
                f"{first_names(self.endless)}"
            )
        return notes


def audio_files(root: str, *, part: str | None = None, glob: str | None = None) -> Found:
    """Find the audio files below `root`, or below its folder `part`; with a glob, all files that match it instead.

    Hidden files and folders (a leading dot) are left out, links are followed.

    Raises
    ------
    EmptyCorpusError : nothing found, or no such folder; reports where, and what exists instead.
    """
    wanted = _matcher(glob)
    found = _walk_url(root, part or "", wanted) if is_url(root) else _walk(root, part or "", wanted)
    if not found.paths:
        where = f"{root}/{part}" if part else root
        what = f"no file matches --glob {glob}" if glob else "no audio file"
        raise EmptyCorpusError(
            f"{where}: {what}; found {describe_extensions(found.others)}"
            + ("; check the pattern: it is matched against the path relative to the root" if glob else "")
        )
    found.paths.sort()
    found.endless.sort()
    return found


def folders_in(root: CorpusPath) -> list[str]:
    """Return the names of the folders directly below a root, without hidden ones."""
    if isinstance(root, Path):
        return sorted(entry.name for entry in os.scandir(root) if not entry.name.startswith(".") and _is_folder(entry))
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def contents(root: str) -> str:
    """Describe what is in a folder, for errors."""
    walk = _walk_url if is_url(root) else _walk
    return describe_extensions(walk(root, "", lambda path: False).others)


def glob_pattern(glob: str) -> re.Pattern[str]:
    """Translate a glob to a regular expression for relative paths.

    `*` and `?` stay within one folder, `**` is any number of folders; a pattern without `/` is matched against the
    file's name, in any folder.
    """
    expression = ""
    for piece in re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|.", glob if "/" in glob else f"**/{glob}", re.DOTALL):
        if piece == "**/":
            expression += "(?:.*/)?"
        elif piece == "**":
            expression += ".*"
        elif piece == "*":
            expression += "[^/]*"
        elif piece == "?":
            expression += "[^/]"
        elif len(piece) > 1:
            expression += "[^" + piece[2:] if piece[1] == "!" else piece
        else:
            expression += re.escape(piece)
    return re.compile(expression, re.DOTALL)


def _matcher(glob: str | None) -> Callable[[str], bool]:
    if glob is None:
        return lambda path: extension_of(path) in AUDIO_EXTENSIONS
    pattern = glob_pattern(glob)
    return lambda path: pattern.fullmatch(path) is not None


def _walk(root: str, part: str, wanted: Callable[[str], bool]) -> Found:
    top = os.path.join(root, part)
    if os.path.isfile(root):
        raise EmptyCorpusError(f"{root}: a file; this format reads a folder (a list of files is read by `table`)")
    if not os.path.isdir(top):
        raise EmptyCorpusError(f"{top}: no such folder; {root} has {first_names(folders_in(Path(root)), 8) or 'none'}")
    found = Found()
    folders = [part.strip("/")]
    while folders:
        folder = folders.pop()
        prefix = f"{folder}/" if folder else ""
        try:
            with os.scandir(f"{root}/{folder}" if folder else root) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith("."):
                        continue
                    path = prefix + name
                    is_folder = _is_folder(entry)
                    if is_folder is None:
                        found.endless.append(path)
                    elif is_folder:
                        if entry.is_symlink() and _leads_back(root, folder, entry.path):
                            found.endless.append(path)
                        else:
                            folders.append(path)
                    elif wanted(path):
                        found.paths.append(path)
                    else:
                        found.others[extension_of(name)] += 1
        except OSError as exc:
            if exc.errno in _REFUSALS and folder:
                found.closed.append(folder)
                continue
            if isinstance(exc, PermissionError):
                raise EmptyCorpusError(f"{root}: this folder may not be listed; check its permissions") from exc
            raise TransientFaultError(
                f"{root}/{folder}: cannot be listed: {exc.strerror or exc}; run the same command again"
            ) from exc
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool | None:
    """Whether a name, or the target of a link, is a folder; None for a link that cannot be followed."""
    try:
        return entry.is_dir()
    except OSError as exc:
        if exc.errno in _REFUSALS:
            return None
        raise


def _leads_back(root: str, folder: str, link: str) -> bool:
    """Whether a link leads to one of the folders that contain it, or that contain the root: following it would list
    files twice, or never end."""
    target = os.stat(link)
    while True:
        if os.path.samestat(target, os.stat(f"{root}/{folder}")):
            return True
        if not folder:
            break
        folder = folder.rpartition("/")[0]
    return any(os.path.samestat(target, os.stat(above)) for above in Path(os.path.realpath(root)).parents)


def _walk_url(root: str, part: str, wanted: Callable[[str], bool]) -> Found:
    found = Found()
    below = f"{part.strip('/')}/" if part else ""
    for path in objects_below(root):
        if not path.startswith(below) or any(piece.startswith(".") for piece in path.split("/")):
            continue
        if wanted(path):
            found.paths.append(path)
        else:
            found.others[extension_of(path)] += 1
    return found
