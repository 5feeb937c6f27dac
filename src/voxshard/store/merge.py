"""From shards to one feature set: every shard checked, every row accounted for exactly once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from voxshard import files
from voxshard.config import Settings, parse_yaml
from voxshard.errors import (
    ConfigError,
    CorruptFileError,
    IncompleteError,
    ManifestError,
    TooManyFailuresError,
)
from voxshard.locations import LocalPath, Location, local_copy
from voxshard.manifest import Manifest
from voxshard.progress import Progress
from voxshard.store import hdf5, merged
from voxshard.store.hdf5 import PER_FRAME, USER_BLOCK_BYTES
from voxshard.store.inventory import ShardInventory
from voxshard.store.layout import FORMAT_VERSION, FeatureDir
from voxshard.store.merge_ledger import MergeLedger, Piece, summarise, totals_of
from voxshard.store.merged import Bulk, Content, OrderedHash

Mode = Literal["packed", "index"]

PACKED_UP_TO_BYTES = 64 << 30
"""Largest set that `auto` copies into one file."""
DEFAULT_MAX_FAILURE_FRACTION = 0.05
MIN_FAILURES_TO_JUDGE = 20
"""Fewer failures than this are never too many, whatever their share."""


class MergeConfig(Settings):
    """Settings of one merge."""

    features: LocalPath
    """Folder of the feature set (DIR)."""
    mode: Literal["auto", "packed", "index"] = "auto"
    """packed: one contiguous file; index: the arrays stay in the shards; auto: packed up to 64 GiB."""
    allow_missing: bool = False
    """Merge what is there, though shards are missing of splits that were begun."""
    labels: Location | None = None
    """Manifest whose columns describe the utterances; null: the one they were extracted with."""
    delete_shards: bool = False
    """Remove the shards once the packed file has verified."""
    max_failure_fraction: float | None = Field(None, ge=0, le=1)
    """Share of failed utterances that is still accepted; null: what the extraction was given (0.05)."""


def allowed_failures(config: MergeConfig) -> float:
    """The accepted share of failures: the merge's own, else the extraction's, else 0.05."""
    if config.max_failure_fraction is not None:
        return config.max_failure_fraction
    path = FeatureDir(config.features).config
    try:
        content = parse_yaml(path.read_text(), where=str(path))
    except FileNotFoundError:
        content = {}
    given = content.get("max_failure_fraction") if isinstance(content, dict) else None
    return DEFAULT_MAX_FAILURE_FRACTION if given is None else float(given)


def merge(config: MergeConfig, progress: Progress, check: Callable[[], None]) -> dict[str, Any]:
    """Check every shard and publish features.h5, utterances.parquet, failures.csv and summary.json.

    A merge that was killed is run again from its start: it leaves nothing behind but temporary files, which the next
    one removes. A set that is merged already and intact is left as it is.

    Parameters
    ----------
    check : called now and then; raises if somebody asked to stop.

    Returns
    -------
    What stands in summary.json.

    Raises
    ------
    IncompleteError : shards are missing; names them and the command that makes them.
    StaleShardError, DuplicateIdError, CorruptFileError, IdentityError : a shard or file that does not belong here.
    TooManyFailuresError : everything was published, but more utterances failed than is allowed.
    StorageFullError : nothing was changed.
    """
    folder = FeatureDir(config.features)
    before = merged.read_summary(folder)
    if before and before["shards"]["deleted"] and not any(folder.shards.glob("shard-*.h5")):
        return _merged_and_deleted(folder, before, config)
    inventory = ShardInventory.scan(folder)
    inventory.check_no_foreign()
    if not config.allow_missing or not inventory.present:
        inventory.check_complete()
    ledger = MergeLedger.collect(inventory, progress, check)
    mode = _mode(ledger, config)
    labels = local_copy(config.labels) if config.labels else folder.manifest
    merge_id = _merge_id(ledger, mode, labels)
    if before and before["merge_id"] == merge_id and not before["stale"] and _is_intact(folder, before):
        progress.note(f"{folder.path}: merged already, and intact")
        summary = before
    else:
        utterances = _utterances(ledger, labels)
        summary = merged.publish_set(
            folder,
            _content(ledger, mode, merge_id, progress, check),
            utterances,
            _failure_rows(ledger),
            summarise(ledger, mode, labels if config.labels else None),
        )
    if config.delete_shards:
        summary = _delete_shards(ledger, summary)
    for place in (folder.path, folder.shards):
        files.sweep_temporaries(place, everything=inventory.is_complete)
    _judge(folder, summary, allowed_failures(config))
    return summary


def _mode(ledger: MergeLedger, config: MergeConfig) -> Mode:
    num_bytes = ledger.num_bytes()
    mode: Mode = "packed" if config.mode == "packed" or num_bytes <= PACKED_UP_TO_BYTES else "index"
    if config.mode == "index":
        mode = "index"
    if config.delete_shards and mode == "index":
        size = f"{num_bytes / 2**30:.0f} GiB" + (" (over 64 GiB, auto chooses index)" if config.mode == "auto" else "")
        raise ConfigError(f"--delete-shards: an index of {size} reads from its shards; add --mode packed, or keep them")
    if config.delete_shards and not ledger.inventory.is_complete:
        inventory = ledger.inventory
        raise ConfigError(
            f"--delete-shards: {len(inventory.missing) + len(inventory.pending)} of {inventory.plan.num_shards} shards "
            "are still to come, and they could not be merged with deleted ones; finish them first"
        )
    return mode


def _merge_id(ledger: MergeLedger, mode: str, labels: Path) -> str:
    if not labels.exists():
        raise ManifestError(f"{labels}: no such manifest; --labels wants one that `voxshard prepare` wrote")
    return files.digest_of(
        {
            "format_version": FORMAT_VERSION,
            "fingerprint": ledger.inventory.identity.fingerprint,
            "plan_hash": ledger.inventory.identity.plan_hash,
            "mode": mode,
            "labels": files.sha256_of(labels),
            "shards": [[piece.index, piece.digest] for piece in ledger.pieces],
        }
    )


def _is_intact(folder: FeatureDir, summary: Mapping[str, Any]) -> bool:
    try:
        hdf5.check_seal(folder.features, "features")
        small = (folder.utterances, folder.failures)
        return all(files.sha256_of(path) == summary["files"][path.name]["sha256"] for path in small)
    except (CorruptFileError, FileNotFoundError):
        return False


def _utterances(ledger: MergeLedger, labels: Path) -> pa.Table:
    """The rows of the labels' manifest that belong to the rows of the arrays, in their order."""
    inventory = ledger.inventory
    table = inventory.manifest.table if labels == inventory.folder.manifest else Manifest.read(labels).table
    ids = inventory.plan.ids_array.filter(pa.array(ledger.ok))
    rows = pc.index_in(ids, table["utterance_id"].combine_chunks())
    if rows.null_count:
        first = ids.filter(pc.is_null(rows))[0].as_py()
        raise ManifestError(
            f"{labels}: {rows.null_count} of the {len(ids)} utterances of {inventory.folder.path} "
            f"are not in it, first {first!r}; --labels wants a manifest with every one of them"
        )
    table = table.take(rows).drop_columns([name for name in merged.FRAME_COLUMNS if name in table.column_names])
    if ledger.offsets is not None:
        values = (ledger.offsets[:-1], np.diff(ledger.offsets))
        for name, column in zip(merged.FRAME_COLUMNS, values, strict=True):
            table = table.append_column(name, pa.array(column))
    return table


def _failure_rows(ledger: MergeLedger) -> Iterator[dict[str, Any]]:
    table = ledger.inventory.manifest.table.select(["path", "split"]).take(
        pa.array([row for row, _ in ledger.failures], pa.int64())
    )
    for (_, failure), about in zip(ledger.failures, table.to_pylist(), strict=True):
        path = about["path"]
        yield {
            "utterance_id": failure.utterance_id,
            "path": os.fsdecode(path) if isinstance(path, bytes) else path,
            "split": about["split"],
            "error": failure.error,
            "message": failure.message,
        }


def _content(ledger: MergeLedger, mode: Mode, merge_id: str, progress: Progress, check: Callable[[], None]) -> Content:
    pieces, identity = ledger.pieces, ledger.inventory.identity
    rows = np.cumsum([0, *(piece.num_rows for piece in pieces)])
    frames = np.cumsum([0, *(piece.num_frames for piece in pieces)])
    shards: dict[str, npt.NDArray[Any]] = {
        "name": np.array([piece.path.name for piece in pieces], object),
        "sha256": np.array([piece.digest for piece in pieces], object),
        "first_row": rows[:-1],
        "num_rows": np.diff(rows),
        "first_frame": frames[:-1],
        "num_frames": np.diff(frames),
    }
    bulk: dict[str, Bulk] = {}
    dtypes: dict[str, str] = {}
    num_codebooks: int | None = None
    progress.begin("merge", items=len(pieces))
    for number, name in enumerate(ledger.datasets):
        shape, dtype, _ = next(
            piece.datasets[name]
            for piece in sorted(pieces, key=lambda piece: -piece.num_rows)
            if name in piece.datasets
        )
        if mode == "packed":
            total = int(frames[-1] if name in PER_FRAME else rows[-1])
            bulk[name] = Bulk((total, *shape[1:]), dtype, _Copy(pieces, name, number == 0, progress, check))
        else:
            shards[f"{name}_at"] = np.array(
                [piece.datasets[name][2] if name in piece.datasets else 0 for piece in pieces], np.int64
            )
            dtypes[f"{name}_dtype"] = dtype.str
            if name == "codes" and len(shape) > 1:
                num_codebooks = shape[1]
    if mode == "index" or not any(item.num_bytes for item in bulk.values()):
        for piece in pieces:
            check()
            hdf5.check_seal(piece.path, "shard")
            progress.advance()
    totals = totals_of(pieces)
    attributes = {
        "format_version": FORMAT_VERSION,
        "merge_id": merge_id,
        "mode": mode,
        "encoder": identity.encoder,
        "fingerprint": identity.fingerprint,
        "plan_hash": identity.plan_hash,
        "granularity": identity.granularity,
        "sample_rate": identity.sample_rate,
        "dim": identity.dim,
        "num_layers": identity.num_layers,
        "num_codebooks": num_codebooks,
        "frame_rate_hz": identity.frame_rate_hz,
        "window_s": identity.window_s,
        "hop_s": identity.hop_s,
        "software": json.dumps(totals["software"], sort_keys=True),
        "image_digest": ", ".join(totals["image_digests"]) or None,
        "audio_s": totals["audio_s"],
        **{f"{name}_s": seconds for name, seconds in totals["seconds"].items()},
        "self_check": totals["self_check"],
        **dtypes,
    }
    ids = ledger.inventory.plan.ids_array.filter(pa.array(ledger.ok))
    failures = [failure for _, failure in ledger.failures]
    return Content(attributes=attributes, ids=ids, failures=failures, offsets=ledger.offsets, shards=shards, bulk=bulk)


@dataclass(frozen=True)
class _Copy:
    """The bytes of one dataset, shard after shard; the first dataset of a set checks the shards' SHA-256 on the way."""

    pieces: Sequence[Piece]
    dataset: str
    checks: bool
    progress: Progress
    check: Callable[[], None]

    def __call__(self) -> Iterator[memoryview]:
        with ThreadPoolExecutor(1) as pool:
            for piece in self.pieces:
                self.check()
                yield from self._checked(piece, pool) if self.checks else self._plain(piece)
                if self.checks:
                    self.progress.advance()

    def _range(self, piece: Piece) -> tuple[int, int]:
        start = piece.datasets[self.dataset][2] if self.dataset in piece.datasets else 0
        return start, start + piece.num_bytes(self.dataset)

    def _plain(self, piece: Piece) -> Iterator[memoryview]:
        with open(piece.path, "rb") as stream:
            for block in merged.read_range(stream.fileno(), *self._range(piece)):
                yield memoryview(block)

    def _checked(self, piece: Piece, pool: ThreadPoolExecutor) -> Iterator[memoryview]:
        start, stop = self._range(piece)
        digest = OrderedHash(pool)
        with open(piece.path, "rb") as stream:
            position = USER_BLOCK_BYTES
            for block in merged.read_range(stream.fileno(), position, os.fstat(stream.fileno()).st_size):
                digest.update(block)
                wanted = memoryview(block)[max(start - position, 0) : max(stop - position, 0)]
                if wanted:
                    yield wanted
                position += len(block)
        if digest.hexdigest() != piece.digest:
            raise hdf5.broken_seal(piece.path)


def _delete_shards(ledger: MergeLedger, summary: dict[str, Any]) -> dict[str, Any]:
    folder = ledger.inventory.folder
    hdf5.check_seal(folder.features, "features")
    summary = {**summary, "shards": {**summary["shards"], "deleted": True}}
    files.publish_json(folder.summary, summary)
    for piece in ledger.pieces:
        piece.path.unlink()
    return summary


def _merged_and_deleted(folder: FeatureDir, summary: dict[str, Any], config: MergeConfig) -> dict[str, Any]:
    if config.labels or config.mode == "index" or not _is_intact(folder, summary):
        raise IncompleteError(
            f"{folder.path}: its shards were deleted after an earlier merge, so it cannot be merged again; "
            "what is there stays, or extract it anew into another --out"
        )
    _judge(folder, summary, allowed_failures(config))
    return summary


def _judge(folder: FeatureDir, summary: Mapping[str, Any], allowed: float) -> None:
    failed = summary["utterances"]["failed"]
    total = failed + summary["utterances"]["ok"]
    if failed < MIN_FAILURES_TO_JUDGE or failed <= allowed * total:
        return
    reasons = ", ".join(f"{count} {name}" for name, count in list(summary["reasons"].items())[:5])
    enough = np.ceil(failed / total * 100) / 100
    raise TooManyFailuresError(
        f"{folder.path}: {failed} of {total} utterances failed ({failed / total:.1%}, allowed are {allowed:.1%}): "
        f"{reasons}; see {folder.failures}. What is good was merged. "
        f"Mend the recordings and run `voxshard retry {folder.path} --failed`, "
        f"or accept it with `voxshard merge {folder.path} --max-failure-fraction {enough:g}`"
    )
