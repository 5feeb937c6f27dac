from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from support.shards import lookup_table
from voxshard.store import lookup


def find(ids: list[str], table_ids: list[str], hashes: np.ndarray | None = None) -> list[int]:
    hashes = lookup.hash_ids(table_ids) if hashes is None else hashes
    of = dict(zip(table_ids, hashes.tolist(), strict=True))
    asked = np.array([of.get(name, lookup.hash_ids([name])[0]) for name in ids], np.uint64)

    def is_same(questions: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return np.array([ids[q] == table_ids[r] for q, r in zip(questions, rows, strict=True)], np.bool_)

    return lookup.find(asked, *lookup_table(hashes), len(table_ids), is_same).tolist()


@given(st.lists(st.text(), unique=True, max_size=60))
def test_every_id_is_found_at_its_row_and_no_other(ids: list[str]) -> None:
    assert find([*ids, "\0 never an id"], ids) == [*range(len(ids)), -1]


@settings(max_examples=200)
@given(st.lists(st.sampled_from([0, 1, 2**63, 2**64 - 1, 2**64 - 2]), min_size=1, max_size=30))
def test_ids_whose_hashes_collide_or_crowd_the_end_are_told_apart(hashes: list[int]) -> None:
    ids = [f"u{n}" for n in range(len(hashes))]
    assert find(ids, ids, np.array(hashes, np.uint64)) == list(range(len(ids)))


def test_at_most_half_of_the_table_is_taken_and_its_last_slot_is_free() -> None:
    for count in (0, 1, 2, 3, 1000):
        slot_hash, slot_row = lookup_table(lookup.hash_ids(f"u{n}" for n in range(count)))
        assert len(slot_hash) == len(slot_row) > 2 * count
        assert slot_row[-1] == lookup.FREE
        assert sorted(slot_row[slot_row != lookup.FREE]) == list(range(count))


def test_hashes_are_the_first_eight_bytes_of_blake2b() -> None:
    """A value computed by another tool: `printf abc | b2sum -l 64`."""
    assert f"{int(lookup.hash_ids(['abc'])[0]):016x}" == bytes.fromhex("d8bb14d833d59559")[::-1].hex()


@given(st.lists(st.sampled_from([0, 1, 2**63, 2**64 - 1, 2**64 - 2]), min_size=1, max_size=30), st.data())
def test_a_table_with_a_changed_slot_does_not_lead_to_its_rows(hashes: list[int], data: st.DataObject) -> None:
    known = np.array(hashes, np.uint64)
    slot_hash, slot_row = lookup_table(known)
    cut = data.draw(st.integers(0, len(slot_row)))

    def leads() -> bool:
        return lookup.leads_to_rows(known, [(slot_hash[:cut], slot_row[:cut]), (slot_hash[cut:], slot_row[cut:])])

    assert leads()
    taken = np.flatnonzero(slot_row != lookup.FREE)
    slot = data.draw(st.sampled_from(taken.tolist()))
    if data.draw(st.booleans()):
        slot_row[slot] = data.draw(st.sampled_from([lookup.FREE, -2, len(known), slot_row[taken[0]] + len(known)]))
    else:
        slot_hash[slot] ^= np.uint64(4)
    assert not leads()
