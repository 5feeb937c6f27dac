"""Every row of the manifest and every shard, as merge found them, and the summary of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from voxshard.errors import CorruptFileError
from voxshard.progress import Progress
from voxshard.store import hdf5
from voxshard.store.hdf5 import BULK, PER_FRAME
from voxshard.store.inventory import NO_SPLIT, ShardInventory
from voxshard.store.shard import Failure, Shard, ShardHeader, check_shard

STATES = ("ok", "failed", "pending", "missing")
"""What can become of an utterance: embedded; a verdict on its recording; its split or its shard not done yet."""


@dataclass(frozen=True)
class Piece:
    """What merge keeps in memory of one shard."""

    index: int
    path: Path
    digest: str
    header: ShardHeader
    num_rows: int
    num_frames: int
    datasets: Mapping[str, tuple[tuple[int, ...], np.dtype[Any], int]]

    @classmethod
    def of(cls, index: int, shard: Shard) -> Piece:
        frames = [shape[0] for name, (shape, _, _) in shard.datasets.items() if name in PER_FRAME]
        digest = hdf5.read_seal(shard.path, "shard")
        return cls(index, shard.path, digest, shard.header, len(shard.ids), frames[0] if frames else 0, shard.datasets)

    def num_bytes(self, dataset: str) -> int:
        if dataset not in self.datasets:
            return 0
        shape, dtype, _ = self.datasets[dataset]
        return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


@dataclass(frozen=True)
class MergeLedger:
    """Every row of the manifest, and every shard, as found."""

    inventory: ShardInventory
    pieces: Sequence[Piece]
    ok: npt.NDArray[np.bool_]
    """(rows of the manifest,)"""
    failures: Sequence[tuple[int, Failure]]
    """Row of the manifest, and why it failed; in order."""
    offsets: npt.NDArray[np.int64] | None

    @property
    def datasets(self) -> list[str]:
        """Large datasets of the set, in the order of the file."""
        with_rows = [piece for piece in self.pieces if piece.num_rows] or list(self.pieces[:1])
        return [name for name in BULK.values() if any(name in piece.datasets for piece in with_rows)]

    def num_bytes(self) -> int:
        return sum(piece.num_bytes(name) for piece in self.pieces for name in self.datasets)

    @classmethod
    def collect(cls, inventory: ShardInventory, progress: Progress, check: Callable[[], None]) -> MergeLedger:
        """Open every shard and hold it against the plan (all but its SHA-256).

        Raises
        ------
        StaleShardError, DuplicateIdError, IncompleteError, CorruptFileError : see `store.shard.check_shard`.
        """
        plan = inventory.plan
        ok = np.zeros(len(inventory.manifest), np.bool_)
        pieces, failures, lengths = [], [], []
        progress.begin("check shards", items=len(inventory.present))
        for index in inventory.present:
            check()
            shard = check_shard(inventory.path(index), index=index, identity=inventory.identity, plan=plan)
            start, stop = plan.rows(index)
            ok[start:stop] = True
            if shard.failures:
                row_of = {name: row for row, name in enumerate(plan.ids(index), start)}
                failures += [(row_of[failure.utterance_id], failure) for failure in shard.failures]
                ok[[row_of[failure.utterance_id] for failure in shard.failures]] = False
            pieces.append(Piece.of(index, shard))
            if "offsets" in shard.datasets:
                lengths.append(np.diff(shard.read("offsets")))
            progress.advance()
        failures.sort(key=lambda item: item[0])
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64) if lengths else None
        ledger = cls(inventory, pieces, ok, failures, offsets)
        ledger._check_uniform()
        return ledger

    def _check_uniform(self) -> None:
        for name in self.datasets:
            kinds = {(piece.datasets[name][0][1:], piece.datasets[name][1]) if name in piece.datasets else None: piece
                     for piece in self.pieces if piece.num_rows}  # fmt: skip
            if len(kinds) > 1:
                one, other = list(kinds.values())[:2]
                raise CorruptFileError(f"{one.path} and {other.path} do not hold the same kind of /{name}; verify them")


def totals_of(pieces: Sequence[Piece]) -> dict[str, Any]:
    """Sums over the shards' headers, and the software they name: name -> versions."""
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
    """What summary.json says of a merge, but for merge_id and checksums."""
    inventory, totals = ledger.inventory, totals_of(ledger.pieces)
    total, splits = _count(ledger)
    mixtures = {name: versions for name, versions in totals["software"].items() if len(versions) > 1}
    identity = inventory.identity
    return {
        "mode": mode,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "encoder": identity.encoder,
        "fingerprint": identity.fingerprint,
        "granularity": identity.granularity,
        "dim": identity.dim,
        "num_layers": identity.num_layers,
        "labels": str(labels) if labels else None,
        "utterances": total,
        "splits": splits,
        "reasons": dict(Counter(failure.error for _, failure in ledger.failures).most_common()),
        "shards": {
            "total": inventory.plan.num_shards,
            "merged": len(inventory.present),
            "pending": len(inventory.pending),
            "missing": [inventory.path(index).name for index in inventory.missing],
            "deleted": False,
        },
        "audio_hours": totals["audio_s"] / 3600,
        **totals,
        "warnings": [
            *(f"{name} in several versions: {', '.join(versions)}" for name, versions in mixtures.items()),
            *_several_images({piece.header.image_digest for piece in ledger.pieces}),
        ],
    }


def _several_images(digests: Set[str | None]) -> list[str]:
    """A warning where shards were made in different images, or some in one and some outside."""
    if len(digests) < 2:
        return []
    return [f"shards of several images: {', '.join(sorted((digest or 'none')[:19] for digest in digests))}"]


def _count(ledger: MergeLedger) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Utterances in each state, of the whole manifest and of each split."""
    inventory = ledger.inventory
    state = np.where(ledger.ok, STATES.index("ok"), STATES.index("failed")).astype(np.int8)
    for name, indices in (("pending", inventory.pending), ("missing", inventory.missing)):
        for index in indices:
            state[slice(*inventory.plan.rows(index))] = STATES.index(name)
    column = pc.fill_null(inventory.manifest.table["split"], NO_SPLIT).combine_chunks().dictionary_encode()
    code = column.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    counts = np.bincount(code * len(STATES) + state, minlength=len(column.dictionary) * len(STATES))
    table = counts.reshape(-1, len(STATES))
    splits = {name: _named(row) for name, row in zip(column.dictionary.to_pylist(), table, strict=True)}
    return _named(table.sum(axis=0)), splits


def _named(counts: npt.NDArray[np.int64]) -> dict[str, int]:
    return {"total": int(counts.sum()), **dict(zip(STATES, counts.tolist(), strict=True))}
