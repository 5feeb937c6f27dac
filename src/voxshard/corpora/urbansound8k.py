"""`urbansound8k`: UrbanSound8K, 8,732 excerpts of up to 4 s in 10 classes and 10 folds.

    ROOT/metadata/UrbanSound8K.csv   slice_file_name,fsID,start,end,salience,fold,classID,class
    ROOT/audio/fold5/100032-3-0-0.wav

Layout and columns: UrbanSound8K_README.txt of the corpus, https://urbansounddataset.weebly.com/urbansound8k.html.
`start` and `end` there are places in the Freesound original, not in the excerpt, and so stay plain columns. The
README asks to keep the ten folds as they are and to report the average over them.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from voxshard.corpora.base import Listing, Request
from voxshard.corpora.metadata_file import read_metadata

COLUMNS = ("slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class")


def list_corpus(request: Request) -> Listing:
    """List one row per line of metadata/UrbanSound8K.csv, with its columns, and `label` = `class`."""
    request.allow()
    notes: list[str] = []
    table = read_metadata(request, "metadata/UrbanSound8K.csv", COLUMNS, notes)
    paths = pc.binary_join_element_wise("audio/fold", table["fold"], "/", table["slice_file_name"], "")
    columns = {"path": paths, "label": table["class"]} | {name: table[name] for name in table.column_names}
    return Listing(pa.table(columns), request.root, notes=notes)
