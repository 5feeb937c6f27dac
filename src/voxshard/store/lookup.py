"""From utterance_id to row without reading the ids: an open-addressing hash table in two arrays.

Slot i holds the 64-bit hash and the row of one utterance, or row -1 where it is free. An utterance's home is the top
bits of its hash; where that is taken, it sits in the next free slot. At most half of the slots are taken, so a look-up
reads two or three of them, and the table is built by one sort, without a loop.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
RowNumbers = npt.NDArray[np.int64]

FREE = -1

_ROWS_AT_ONCE = 1 << 20


def hash_ids(ids: Iterable[str]) -> Hashes:
    """(N,) 64-bit BLAKE2b hash of each id, little-endian."""
    return hash_texts([name.encode() for name in ids])


def hash_texts(texts: Iterable[bytes]) -> Hashes:
    """The same of ids in UTF-8."""
    blake2b = hashlib.blake2b
    return np.frombuffer(b"".join([blake2b(text, digest_size=8).digest() for text in texts]), "<u8")


def num_slots(hashes: Hashes) -> int:
    """Slots of the table for rows with these hashes: a little more than a power of two, the last one is free."""
    end = 0
    for start, _, rows in pieces(hashes):
        end = start + len(rows)
    return max(1 << _bits(len(hashes)), end) + 1


def pieces(hashes: Hashes) -> Iterator[tuple[int, Hashes, RowNumbers]]:
    """The table for rows 0 to N - 1 with these hashes, in pieces, so that building it takes little more than `hashes`.

    Yields
    ------
    first slot, hash of each slot, row of each slot; all slots behind the last piece are free.
    """
    bits = _bits(len(hashes))
    num_parts = max(1, len(hashes) // _ROWS_AT_ONCE)
    borders = [part * (1 << bits) // num_parts for part in range(num_parts + 1)]
    start = 0
    for low, high in itertools.pairwise(borders):
        rows = _rows_at_home(hashes, low, high)
        rows = rows[np.argsort(hashes[rows], kind="stable")]
        home = _home(hashes[rows], len(hashes))
        turn = np.arange(len(rows), dtype=np.int64)
        # The n-th in order of homes is at its home, or right behind the (n - 1)-th where that is further on.
        slot = turn + np.maximum(np.maximum.accumulate(home - turn), start) if len(rows) else turn
        size = max(high, int(slot[-1]) + 1 if len(slot) else 0) - start
        slot_hash, slot_row = np.zeros(size, np.uint64), np.full(size, FREE, np.int64)
        slot_hash[slot - start], slot_row[slot - start] = hashes[rows], rows
        yield start, slot_hash, slot_row
        start += size


def _rows_at_home(hashes: Hashes, low: int, high: int) -> RowNumbers:
    """Rows whose home is in `low` to `high`."""
    found = []
    for start in range(0, len(hashes), _ROWS_AT_ONCE):
        home = _home(hashes[start : start + _ROWS_AT_ONCE], len(hashes))
        found.append(np.flatnonzero((home >= low) & (home < high)) + start)
    return np.concatenate(found) if found else np.empty(0, np.int64)


def find(
    hashes: Hashes,
    slot_hash: Hashes,
    slot_row: RowNumbers,
    num_rows: int,
    is_same: Callable[[RowNumbers, RowNumbers], npt.NDArray[np.bool_]],
) -> RowNumbers:
    """Rows of many ids at once.

    Parameters
    ----------
    hashes : (Q,) of the ids asked for.
    num_rows : rows the table was built for.
    is_same : of (numbers of questions, rows with the same hash): whether the row's id is the one asked for.

    Returns
    -------
    (Q,) rows, -1 where there is none.
    """
    found = np.full(len(hashes), FREE, np.int64)
    open_questions = np.arange(len(hashes), dtype=np.int64)
    slot = _home(hashes, num_rows)
    while len(open_questions):
        row = np.asarray(slot_row[slot])
        hit = (row != FREE) & (slot_hash[slot] == hashes[open_questions])
        hit[hit] = is_same(open_questions[hit], row[hit])
        found[open_questions[hit]] = row[hit]
        going_on = ~hit & (row != FREE)
        open_questions, slot = open_questions[going_on], slot[going_on] + 1
    return found


def _bits(num_rows: int) -> int:
    return max(1, (2 * num_rows - 1).bit_length())


def _home(hashes: Hashes, num_rows: int) -> npt.NDArray[np.int64]:
    return (hashes >> np.uint64(64 - _bits(num_rows))).astype(np.int64)
