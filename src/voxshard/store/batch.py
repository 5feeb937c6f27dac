"""Several utterances of a feature set in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Batch(NamedTuple):
    """Several utterances in memory."""

    rows: npt.NDArray[np.int64]
    """(B,) row numbers in the feature set."""
    ids: list[str]
    embeddings: npt.NDArray[Any] | None
    """(B, D) or (B, L, D)."""
    frames: npt.NDArray[Any] | None
    """(sum of T, D) or (sum of T, L, D), one utterance after the other."""
    codes: npt.NDArray[np.int32] | None
    """(sum of T,), or (sum of T, K) for several codebooks."""
    offsets: npt.NDArray[np.int64] | None
    """(B + 1,): the frames and codes of utterance i are the rows `offsets[i]` to `offsets[i + 1]`."""

    def divided(self, size: int) -> Iterator[Batch]:
        """Divide it into batches of `size` utterances; arrays are views."""
        for start in range(0, len(self.rows), size):
            stop = min(start + size, len(self.rows))
            offsets = self.offsets
            if offsets is None:
                first, last = start, stop
            else:
                first, last = int(offsets[start]), int(offsets[stop])
                offsets = offsets[start : stop + 1] - first
            yield Batch(
                self.rows[start:stop],
                self.ids[start:stop],
                None if self.embeddings is None else self.embeddings[start:stop],
                None if self.frames is None else self.frames[first:last],
                None if self.codes is None else self.codes[first:last],
                offsets,
            )
