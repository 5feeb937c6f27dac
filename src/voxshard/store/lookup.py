"""Look-up of rows by utterance_id without reading the ids: an open-addressing hash table in two arrays.

Slot i holds the 64-bit hash and the row of one utterance, or row -1 where it is free. An utterance's home is the top
bits of its hash; where that is taken, it sits in the next free slot. At most half of the slots are taken, so a look-up
reads two or three of them, and the table is built by one sort, without a loop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
RowNumbers = npt.NDArray[np.int64]

FREE = -1

_ROWS_AT_ONCE = 1 << 16


def hash_ids(ids: Iterable[str]) -> Hashes:
    """Return the 64-bit BLAKE2b hash of each id, little-endian, (N,)."""
    return hash_texts([name.encode() for name in ids])


def hash_texts(texts: Iterable[bytes]) -> Hashes:
    """Return the hashes of ids that are UTF-8 already; see `hash_ids`."""
    blake2b = hashlib.blake2b
    return np.frombuffer(b"".join([blake2b(text, digest_size=8).digest() for text in texts]), "<u8")


def order_of(hashes: Hashes) -> RowNumbers:
    """Return the rows sorted by their home slots, (N,)."""
    return np.argsort(hashes, kind="stable")


def num_slots(hashes: Hashes, order: RowNumbers) -> int:
    """Return the number of slots of the table: a little more than a power of two. The last slot is always free."""
    end = 0
    for _, slot in _slots(hashes, order):
        end = int(slot[-1]) + 1
    return max(1 << _bits(len(hashes)), end) + 1


def pieces(hashes: Hashes, order: RowNumbers) -> Iterator[tuple[Hashes, RowNumbers]]:
    """Yield the table for rows 0 to N - 1 piece by piece, so that building it needs little additional memory.

    Parameters
    ----------
    order : see `order_of`.

    Yields
    ------
    hash of each slot, row of each slot, one piece after the other.
    """
    start = 0
    for rows, slot in _slots(hashes, order):
        slot_hash, slot_row = _free(int(slot[-1]) + 1 - start)
        slot_hash[slot - start], slot_row[slot - start] = hashes[rows], rows
        yield slot_hash, slot_row
        start += len(slot_row)
    size = num_slots(hashes, order)
    for first in range(start, size, _ROWS_AT_ONCE):
        yield _free(min(_ROWS_AT_ONCE, size - first))


def _free(count: int) -> tuple[Hashes, RowNumbers]:
    return np.zeros(count, np.uint64), np.full(count, FREE, np.int64)


def _slots(hashes: Hashes, order: RowNumbers) -> Iterator[tuple[RowNumbers, npt.NDArray[np.int64]]]:
    """Yield blocks of rows in order, with the slot of each row."""
    start = 0
    for first in range(0, len(order), _ROWS_AT_ONCE):
        rows = order[first : first + _ROWS_AT_ONCE]
        turn = np.arange(len(rows), dtype=np.int64)
        # The n-th in order of homes is at its home, or right after the (n - 1)-th where that is further on.
        home = _home(hashes[rows], len(hashes))
        slot = turn + np.maximum(np.maximum.accumulate(home - turn), start)
        yield rows, slot
        start = int(slot[-1]) + 1


def leads_to_rows(hashes: Hashes, tables: Iterable[tuple[Hashes, RowNumbers]]) -> bool:
    """Whether a table leads from the hash of each of rows 0 to N - 1 to that row.

    Parameters
    ----------
    hashes : (N,) of the rows.
    tables : hash and row of each slot, a piece at a time, in order.
    """
    start, last_free = 0, -1
    is_found = np.zeros(len(hashes), np.bool_)
    for slot_hash, slot_row in tables:
        slot = np.arange(start, start + len(slot_row), dtype=np.int64)
        is_free = slot_row == FREE
        frees = np.maximum.accumulate(np.where(is_free, slot, last_free))
        slot, rows, found = slot[~is_free], slot_row[~is_free], slot_hash[~is_free]
        if len(rows) and not ((rows >= 0) & (rows < len(hashes))).all():
            return False
        home = _home(found, len(hashes))
        if (found != hashes[rows]).any() or (home > slot).any() or (home <= frees[~is_free]).any():
            return False
        if is_found[rows].any():
            return False
        is_found[rows] = True
        start, last_free = start + len(is_free), int(frees[-1]) if len(frees) else last_free
    return bool(is_found.all()) and last_free == start - 1


def find(
    hashes: Hashes,
    slot_hash: Hashes,
    slot_row: RowNumbers,
    num_rows: int,
    is_same: Callable[[RowNumbers, RowNumbers], npt.NDArray[np.bool_]],
) -> RowNumbers:
    """Return the rows of many ids at once.

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
