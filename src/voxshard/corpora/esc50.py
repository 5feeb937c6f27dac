"""`esc50`: ESC-50, 2,000 environmental recordings of 5 s in 50 classes and 5 folds.

    ROOT/meta/esc50.csv     filename,fold,target,category,esc10,src_file,take
    ROOT/audio/1-100032-A-0.wav

Layout and columns: README of https://github.com/karolpiczak/ESC-50, sections "Repository content" and
"meta/esc50.csv". The folds are the official ones: clips of one source recording (`src_file`) share a fold.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from voxshard.corpora.base import Listing, Request
from voxshard.corpora.metadata_file import read_metadata

COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file", "take")


def list_corpus(request: Request) -> Listing:
    """List one row per line of meta/esc50.csv, with its columns, and `label` = `category`."""
    request.allow()
    notes: list[str] = []
    table = read_metadata(request, "meta/esc50.csv", COLUMNS, notes)
    paths = pc.binary_join_element_wise("audio/", table["filename"], "")
    columns = {"path": paths, "label": table["category"]} | {name: table[name] for name in table.column_names}
    return Listing(pa.table(columns), request.root, notes=notes)
