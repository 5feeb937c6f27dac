"""Interface of a corpus adapter: what it receives, and what it returns.

An adapter is a function `(Request) -> Listing`. It lists utterances and what the corpus specifies of them (splits,
folds, labels); it opens no audio. Headers are probed afterwards, for all corpora alike.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from voxshard.corpora.remote_folder import CorpusPath, corpus_path
from voxshard.errors import ConfigError, EmptyCorpusError, ManifestError
from voxshard.manifest import COLUMNS

# What libsndfile opens, and what ffmpeg is asked for where it cannot (see voxshard.audio).
AUDIO_EXTENSIONS = frozenset(
    {
        *("wav", "wave", "bwf", "rf64", "w64", "aif", "aiff", "aifc", "au", "snd", "sph", "nist", "caf", "voc", "paf"),
        *("flac", "ogg", "oga", "opus", "spx", "mp2", "mp3", "m4a", "m4b", "mp4", "aac", "ac3", "amr", "awb", "wma"),
        *("webm", "mka", "mkv", "mov", "3gp", "ape", "wv", "tta", "svx", "iff", "avr", "sd2"),
    }
)

_LONGEST = 200
"""Letters of a name that errors and notes show completely."""
MEASURED = frozenset(COLUMNS) - {"split", "fold", "speaker"}
"""Columns that say which audio is meant, or that prepare finds; labels of a corpus that are called so are left out."""


@dataclass(frozen=True)
class Request:
    """The root of a corpus, and which part of it is wanted."""

    root: str
    """Folder (absolute), URL, or, for `table`, the table's file. Bytes that are not UTF-8 are surrogates."""
    part: str | None = None
    """Only files below this folder of the root are listed."""
    glob: str | None = None
    """Only paths that match this pattern are listed."""
    lists: Sequence[tuple[str, str]] = ()
    """Pairs (split, file), for corpora whose rows come from lists."""
    study: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings of this adapter."""

    @property
    def folder(self) -> CorpusPath:
        """Return the root as a path to list; a root in a bucket is listed once.

        Raises
        ------
        EmptyCorpusError : it is a file.
        """
        folder = corpus_path(self.root)
        if isinstance(folder, Path) and folder.is_file():
            raise EmptyCorpusError(f"{self.root}: a file; this format reads a folder")
        return folder

    def option(self, name: str, default: str | None = None) -> str | None:
        """Return one of the adapter's settings, as text."""
        value = self.options.get(name, default)
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"--set {name}: expected text, got {value!r}")
        return value

    def allow(self, *names: str) -> None:
        """Check that the adapter knows all settings."""
        unknown = sorted(set(self.options) - set(names))
        if unknown:
            raise ConfigError(
                f"--set {', '.join(unknown)}: no such setting of this corpus format; "
                f"valid: {', '.join(names) or 'none'}"
            )


@dataclass(frozen=True)
class Listing:
    """Result of a corpus adapter.

    `table` has `path` (text, or binary where a path is not UTF-8; relative to `root`, absolute, or a URL) and, as far
    as the corpus specifies, any other column of a manifest; without `utterance_id` the path is the id. An adapter that
    finds nothing raises EmptyCorpusError.
    """

    table: pa.Table
    root: str
    notes: Sequence[str] = ()
    """Notes for the user, one line each."""
    after_probe: Callable[[pa.Table], pa.Table] | None = None
    """Function that completes the table once probing has filled its columns."""


Adapter = Callable[[Request], Listing]


def path_array(paths: Sequence[str]) -> pa.Array:
    """Return paths as text, or as binary if one of them has bytes that are not UTF-8 (surrogates)."""
    try:
        return pa.array(paths, pa.string())
    except UnicodeEncodeError:
        return pa.array([os.fsencode(path) for path in paths], pa.binary())


def path_text(paths: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    r"""Paths as people and regular expressions see them: bytes that are not UTF-8 appear as `\xNN`."""
    if not pa.types.is_binary(paths.type):
        return paths
    return pa.array([path.decode("utf-8", "backslashreplace") for path in paths.to_pylist()], pa.string())


def extension_of(name: str) -> str:
    """Return the extension without its dot, in lower case; empty if there is none."""
    return os.path.splitext(name)[1][1:].lower()  # noqa: PTH122  called once per file of the corpus


def describe_extensions(seen: Counter[str]) -> str:
    """Describe the files of a folder for errors: `no files` or `12 .txt, 3 without extension`."""
    if not seen:
        return "no files"
    common = sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:8]
    named = (f"{count:,} {f'.{kind}' if kind else 'without extension'}" for kind, count in common)
    return ", ".join(named) + (f" and {len(seen) - 8} more kinds" if len(seen) > 8 else "")


def first_names(names: Sequence[str], count: int = 3) -> str:
    """Return the first few of many names, for errors."""
    shown = ", ".join(repr(name if len(name) <= _LONGEST else f"{name[:60]}...{name[-60:]}") for name in names[:count])
    return shown + (", ..." if len(names) > count else "")


def require_columns(table: pa.Table, names: Sequence[str], where: str) -> None:
    """Raise ManifestError, with the available columns, unless all of these columns exist."""
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise ManifestError(
            f"{where}: no column {', '.join(missing)}; it has {', '.join(table.column_names)}; "
            "expected the file as it was published"
        )
