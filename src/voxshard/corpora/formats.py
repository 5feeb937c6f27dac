"""Corpus formats by name; an adapter is imported when it is asked for."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

from voxshard.config import did_you_mean
from voxshard.corpora.base import Adapter, Listing, Request
from voxshard.errors import ConfigError, VoxshardError
from voxshard.plugins import broken, load, package_of, registered

ENTRY_POINT_GROUP = "voxshard.corpora"


@dataclass(frozen=True)
class CorpusFormat:
    """A corpus format, as the command line offers it."""

    module: str | None
    """Module of this package with a function `list_corpus`; None: another package's."""
    summary: str
    from_lists: bool = False
    """Whether its rows come from lists, so that `--split NAME=FILE` names those instead of assigning splits
    afterwards."""


FORMATS = {
    "folder": CorpusFormat("folder", "every audio file below a folder or URL"),
    "table": CorpusFormat("table", "a CSV, TSV, Parquet or JSON lines file with a column of paths (NeMo)"),
    "asvspoof5": CorpusFormat("asvspoof5", "ASVspoof 5 Track 1: protocols and flac_T, flac_D, flac_E_eval"),
    "uid-folders": CorpusFormat(
        "uid_folders", "<uid>/waveform.<ext> and metadata.json; train.csv, test.csv, val.csv", True
    ),
    "file-lists": CorpusFormat("file_lists", "a list of paths per split, labels from folders (GTZAN)", True),
    "urbansound8k": CorpusFormat("urbansound8k", "UrbanSound8K: metadata/UrbanSound8K.csv, audio/fold1 to fold10"),
    "tut-asc": CorpusFormat("tut_asc", "TUT Acoustic Scenes 2016 or 2017: development and evaluation set"),
    "esc50": CorpusFormat("esc50", "ESC-50: meta/esc50.csv, audio/"),
    "kaldi": CorpusFormat("kaldi", "Kaldi data directories: wav.scp, segments, utt2spk, text"),
    "lhotse": CorpusFormat("lhotse", "lhotse's manifests of recordings and supervisions (jsonl, jsonl.gz)"),
    "tar": CorpusFormat("tar", "tar archives (WebDataset), read in place; .json, .cls and .txt become columns"),
}


def available() -> dict[str, CorpusFormat]:
    """Return every format by name: our own, then those that other packages register."""
    others = registered(ENTRY_POINT_GROUP, FORMATS)
    return FORMATS | {name: CorpusFormat(None, f"from {package_of(point)}") for name, point in others.items()}


def check_known(name: str) -> None:
    """Make sure that a corpus format exists.

    Raises
    ------
    ConfigError : no such format; the message lists the formats.
    """
    if name not in FORMATS and name not in available():
        formats = available()
        hint = f"; of a folder of recordings: `voxshard prepare folder {name}`" if Path(name).is_dir() else ""
        raise ConfigError(f"no such corpus format; formats: {', '.join(formats)}{did_you_mean(name, formats)}{hint}")


def is_from_lists(name: str) -> bool:
    """Whether the rows of a format come from lists of files; adapters of other packages set `from_lists`."""
    if name in FORMATS:
        return FORMATS[name].from_lists
    return bool(getattr(adapter(name), "from_lists", False))


def adapter(name: str) -> Adapter:
    """Return the function that lists a corpus of a format.

    Raises
    ------
    ConfigError : no such format.
    BrokenPluginError : another package's adapter is no function.
    """
    check_known(name)
    if name in FORMATS:
        list_corpus: Adapter = importlib.import_module(f"voxshard.corpora.{FORMATS[name].module}").list_corpus
        return list_corpus
    point = registered(ENTRY_POINT_GROUP, FORMATS)[name]
    found = load(point)
    if not callable(found):
        raise broken(point, f"expected a function (Request) -> Listing, found {type(found).__name__}")
    return _checked(point, found)


def _checked(point: EntryPoint, list_corpus: Adapter) -> Adapter:
    """Check what an adapter of another package returns before it is used."""

    @functools.wraps(list_corpus)
    def call(request: Request) -> Listing:
        try:
            listing = list_corpus(request)
        except (VoxshardError, OSError):
            raise
        except Exception as exc:  # another package's code: anything can go wrong in it
            raise broken(point, f"{type(exc).__name__}: {exc}") from exc
        if not isinstance(listing, Listing) or "path" not in listing.table.column_names:
            raise broken(point, f"expected a Listing whose table has a column `path`, found {type(listing).__name__}")
        return listing

    return call
