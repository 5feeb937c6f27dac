"""Accounting of a merge: the state of every manifest row and of every shard, and the summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from voxshard.errors import CorruptFileError
from voxshard.progress import Progress, counted
from voxshard.store.hdf5 import BULK
from voxshard.store.inventory import NO_SPLIT, ShardInventory
from voxshard.store.layout import Identity
from voxshard.store.shard import Failure, ShardSummary
from voxshard.store.shard_checks import check_shard, ok_rows

STATES = ("ok", "failed", "pending", "missing")
"""What can become of an utterance: embedded; a verdict on its recording; its split or its shard not done yet."""


@dataclass(frozen=True)
class MergeLedger:
    """State of every manifest row and every shard; needs a few bytes per row."""

    inventory: ShardInventory
    pieces: Sequence[ShardSummary]
    ok: npt.NDArray[np.bool_]
    """(rows of the manifest,) whether the utterance was embedded."""
    failures: Sequence[tuple[int, Failure]]
    """Manifest row and reason of each failure, in manifest order."""
    offsets: npt.NDArray[np.int64] | None
    warnings: Mapping[str, str]
    """Warnings about decoded recordings, by utterance_id."""

    @property
    def datasets(self) -> list[str]:
        """Names of the set's large datasets, in the order of the file."""
        with_rows = [piece for piece in self.pieces if piece.num_rows] or list(self.pieces[:1])
        return [name for name in BULK.values() if any(name in piece.datasets for piece in with_rows)]

    def ids(self) -> Iterator[pa.Array]:
        """Yield the utterance_ids that were embedded, in order, one array per row group."""
        for start, ids in self.inventory.plan.groups():
            yield ids.filter(pa.array(self.ok[start : start + len(ids)]))

    @cached_property
    def num_id_bytes(self) -> int:
        """Number of bytes, in UTF-8, of the utterance_ids that were embedded."""
        return sum(pc.sum(pc.binary_length(ids)).as_py() or 0 for ids in self.ids())

    @classmethod
    def collect(cls, inventory: ShardInventory, progress: Progress, check: Callable[[], None]) -> MergeLedger:
        """Read the seal of every shard and validate it against the plan, without reading the shards' arrays.

        Raises
        ------
        StaleShardError, DuplicateIdError, IncompleteError, CorruptFileError : see `store.shard_checks.check_shard`.
        """
        plan, shards = inventory.plan, inventory.shards
        ok = np.zeros(len(plan), np.bool_)
        pieces, failures, lengths = [], [], []
        warnings: dict[str, str] = {}
        progress.begin("check shards", items=len(inventory.present))
        for index in inventory.present:
            check()
            start, stop = shards.rows(index)
            ids = plan.ids(start, stop)
            piece = check_shard(inventory.path(index), index=index, identity=inventory.identity, ids=ids)
            ok[start:stop] = True
            if piece.failures:
                ok[start:stop] = ok_rows(ids, piece.failures).to_numpy(zero_copy_only=False)
                row_of = {name: row for row, name in enumerate(ids.to_pylist(), start)}
                failures += [(row_of[failure.utterance_id], failure) for failure in piece.failures]
            warnings |= piece.warnings
            pieces.append(piece)
            if "offsets" in piece.datasets:
                lengths.append(piece.lengths())
            progress.advance()
        failures.sort(key=lambda item: item[0])
        offsets = None
        if lengths:
            offsets = np.zeros(sum(map(len, lengths)) + 1, np.int64)
            np.cumsum(np.concatenate(lengths), out=offsets[1:])
        ledger = cls(inventory, pieces, ok, failures, offsets, warnings)
        ledger._check_uniform()
        return ledger

    def _check_uniform(self) -> None:
        for name in self.datasets:
            kinds = {(piece.datasets[name][0][1:], piece.datasets[name][1]) if name in piece.datasets else None: piece
                     for piece in self.pieces if piece.num_rows}  # fmt: skip
            if len(kinds) > 1:
                one, other = list(kinds.values())[:2]
                raise CorruptFileError(f"{one.path} and {other.path} do not hold the same kind of /{name}; verify them")


def totals_of(pieces: Sequence[ShardSummary]) -> dict[str, Any]:
    """Return sums over the shards' headers, and all versions of each software that they name."""
    headers = [piece.header for piece in pieces]
    deviations = [header.self_check for header in headers if header.self_check is not None]
    names = sorted({name for header in headers for name in header.software})
    return {
        "audio_s": sum(header.audio_s for header in headers),
        "seconds": {
            name: sum(getattr(header, f"{name}_s") for header in headers) for name in ("decode", "encode", "write")
        },
        "self_check": max(deviations, default=None),
        "software": {name: sorted({header.software.get(name, "none") for header in headers}) for name in names},
        "image_digests": sorted({header.image_digest for header in headers if header.image_digest}),
        "hosts": sorted({header.host for header in headers if header.host}),
    }


def summarise(ledger: MergeLedger, mode: str, labels: Path | None) -> dict[str, Any]:
    """Return the content of a merge's summary.json, except merge_id and checksums."""
    inventory, totals = ledger.inventory, totals_of(ledger.pieces)
    mixtures = {name: versions for name, versions in totals["software"].items() if len(versions) > 1}
    return summary_of(
        inventory.identity,
        mode=mode,
        labels=labels,
        splits=_states(ledger),
        failures=[failure for _, failure in ledger.failures],
        num_warnings=len(ledger.warnings),
        shards={
            "total": len(inventory.shards),
            "merged": len(inventory.present),
            "pending": len(inventory.pending),
            "missing": [inventory.path(index).name for index in inventory.missing],
        },
        totals=totals,
        warnings=[
            *(f"{name} in several versions: {', '.join(versions)}" for name, versions in mixtures.items()),
            *_odd_recordings(ledger.warnings),
            *_several_images({piece.header.image_digest for piece in ledger.pieces}),
        ],
    )


def summary_of(
    identity: Identity,
    *,
    mode: str,
    labels: Path | None,
    splits: Mapping[str, Mapping[str, int]],
    failures: Sequence[Failure],
    num_warnings: int,
    shards: Mapping[str, Any],
    totals: Mapping[str, Any],
    warnings: Sequence[str],
) -> dict[str, Any]:
    """Return the content of summary.json, for merged and for ingested sets.

    Parameters
    ----------
    splits : split -> state (see `STATES`) -> number of utterances.
    num_warnings : number of recordings that were decoded with a warning.
    totals : see `totals_of`.
    """
    total = sum((Counter(states) for states in splits.values()), Counter())
    return {
        "mode": mode,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "encoder": identity.encoder,
        "fingerprint": identity.fingerprint,
        "granularity": identity.granularity,
        "dim": identity.dim,
        "num_layers": identity.num_layers,
        "labels": str(labels) if labels else None,
        "utterances": _counts(total),
        "splits": {name: _counts(states) for name, states in splits.items()},
        "reasons": dict(Counter(failure.error for failure in failures).most_common()),
        "decoded_with_warning": num_warnings,
        "shards": {**shards, "deleted": False},
        "audio_hours": totals["audio_s"] / 3600,
        **totals,
        "warnings": list(warnings),
    }


def _odd_recordings(warnings: Mapping[str, str]) -> list[str]:
    if not warnings:
        return []
    name, text = next(iter(warnings.items()))
    return [
        f"{counted(len(warnings), 'recording')} decoded with a warning, such as {name!r}: {text}; see the column "
        "warning of utterances.parquet"
    ]


def _several_images(digests: Set[str | None]) -> list[str]:
    """Return a warning if the shards were computed in different images, or only some of them in an image."""
    if len(digests) < 2:
        return []
    return [f"shards of several images: {', '.join(sorted((digest or 'none')[:19] for digest in digests))}"]


def _states(ledger: MergeLedger) -> dict[str, Counter[str]]:
    """Count the utterances in each state, by split; a shard never crosses a split."""
    inventory = ledger.inventory
    counts: dict[str, Counter[str]] = {}
    state_of = dict.fromkeys(inventory.pending, "pending") | dict.fromkeys(inventory.missing, "missing")
    for index, split in enumerate(inventory.shards.splits):
        start, stop = inventory.shards.rows(index)
        states = counts.setdefault(NO_SPLIT if split is None else split, Counter())
        if index in state_of:
            states[state_of[index]] += stop - start
            continue
        num_ok = int(np.count_nonzero(ledger.ok[start:stop]))
        states.update(ok=num_ok, failed=stop - start - num_ok)
    return counts


def _counts(states: Mapping[str, int]) -> dict[str, int]:
    return {"total": sum(states.values()), **{state: states.get(state, 0) for state in STATES}}
