"""Corpus formats by name; an adapter is imported when it is asked for."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from voxshard.corpora.base import Adapter
from voxshard.errors import ConfigError


@dataclass(frozen=True)
class Format:
    """A corpus format, as the command line offers it."""

    module: str
    """Module of this package with a function `list_corpus`."""
    summary: str
    from_lists: bool = False
    """Its rows come from lists, so `--split NAME=FILE` names those instead of assigning splits afterwards."""


FORMATS = {
    "folder": Format("folder", "every audio file below a folder or URL"),
    "table": Format("table", "a CSV, TSV or Parquet file with a column of paths"),
    "asvspoof5": Format("asvspoof5", "ASVspoof 5 Track 1: protocols and flac_T, flac_D, flac_E_eval"),
    "uid-folders": Format("uid_folders", "<uid>/waveform.<ext> and metadata.json; train.csv, test.csv, val.csv", True),
    "file-lists": Format("file_lists", "a list of paths per split, labels from folders (GTZAN)", True),
    "urbansound8k": Format("urbansound8k", "UrbanSound8K: metadata/UrbanSound8K.csv, audio/fold1 to fold10"),
    "tut-asc": Format("tut_asc", "TUT Acoustic Scenes 2016 or 2017: development and evaluation set"),
    "esc50": Format("esc50", "ESC-50: meta/esc50.csv, audio/"),
}


def adapter(name: str) -> Adapter:
    """The adapter of a corpus format.

    Raises
    ------
    ConfigError : no such format; names those there are.
    """
    if name not in FORMATS:
        raise ConfigError(f"no corpus format {name!r}; there are {', '.join(FORMATS)}")
    module = importlib.import_module(f"voxshard.corpora.{FORMATS[name].module}")
    list_corpus: Adapter = module.list_corpus
    return list_corpus
