"""`folder`: every audio file below a folder or URL, at any depth.

    ROOT/part_003/e8/7b/e87b90c1.wav

The id is the path relative to ROOT, also with `--part part_003`.
"""

from __future__ import annotations

import pyarrow as pa

from voxshard.corpora.base import Listing, Request, path_array
from voxshard.corpora.walk import audio_files


def list_corpus(request: Request) -> Listing:
    """List audio files, sorted by path. Takes no settings."""
    request.allow()
    found = audio_files(request.root, part=request.part, glob=request.glob)
    return Listing(pa.table({"path": path_array(found.paths)}), request.root, notes=found.notes)
