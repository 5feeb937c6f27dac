"""Merging of shards into one feature set: every shard is checked, and every row is counted exactly once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    StaleShardError,
    TooManyFailuresError,
)
from voxshard.files import quoted
from voxshard.locations import LocalPath, Location, local_copy
from voxshard.manifest import Manifest, ManifestFile
from voxshard.progress import Progress
from voxshard.store import merged, seal
from voxshard.store.copying import copy_shards
from voxshard.store.hdf5 import PER_FRAME
from voxshard.store.inventory import ShardInventory, shard_names
from voxshard.store.layout import FORMAT_VERSION, FeatureDir
from voxshard.store.merge_ledger import MergeLedger, summarise, totals_of
from voxshard.store.merged import Content

Mode = Literal["packed", "index"]

PACKED_UP_TO_BYTES = 64 << 30
"""Largest set that `auto` copies into one file."""
DEFAULT_MAX_FAILURE_FRACTION = 0.05
MIN_FAILURES_TO_JUDGE = 20
"""Fewer failures than this are never too many, whatever their share."""


_OTHER_MERGE_S = 3600.0
"""Temporary files in DIR that were written to more recently may be those of another merge."""


class MergeConfig(Settings):
    """Settings of one merge."""

    features: LocalPath
    """Folder of the feature set (DIR)."""
    mode: Literal["auto", "packed", "index"] = "auto"
    """`packed` writes one contiguous file, `index` leaves the arrays in the shards, `auto` packs sets of up to 64
    GiB."""
    allow_missing: bool = False
    """Merge the available shards even if shards of a split that was started are missing."""
    labels: Location | None = None
    """Manifest whose columns describe the utterances; null: the manifest of the extraction."""
    delete_shards: bool = False
    """Delete the shards after the packed file has been verified."""
    max_failure_fraction: float | None = Field(None, ge=0, le=1)
    """Maximum accepted fraction of failed utterances, 0 to 1; null: as in the extraction (0.05 by default)."""


def allowed_failures(config: MergeConfig) -> float:
    """Return the accepted fraction of failures: that of the merge, else that of the extraction, else 0.05."""
    if config.max_failure_fraction is not None:
        return config.max_failure_fraction
    path = FeatureDir(config.features).config
    try:
        content = parse_yaml(files.read_text(path), where=str(path))
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
    check : called now and then; raises if a stop was requested.

    Returns
    -------
    What is in summary.json.

    Raises
    ------
    IncompleteError : shards are missing; names them and the command that makes them.
    StaleShardError, DuplicateIdError, CorruptFileError, IdentityError : a shard or file that does not belong here.
    TooManyFailuresError : everything was published, but more utterances failed than is allowed.
    StorageFullError : nothing was changed.
    """
    folder = FeatureDir(config.features)
    before = _summary_before(folder)
    if before and before["shards"]["deleted"] and not shard_names(folder):
        return _merged_and_deleted(folder, before, config)
    inventory = ShardInventory.scan(folder)
    inventory.check_no_foreign()
    if not config.allow_missing or not inventory.present:
        inventory.check_complete()
    inventory.identity.check_files(folder)
    labels = local_copy(config.labels) if config.labels else folder.manifest
    inputs = _MergeInputs.of(inventory, labels)
    mode = _mode(inventory, config)
    merge_id = inputs.merge_id(mode)
    if before and before["merge_id"] == merge_id and not before["stale"] and is_intact(folder, before):
        progress.note(f"{folder.path}: merged already, and intact")
        summary = before
    else:
        ledger = MergeLedger.collect(inventory, progress, check)
        inputs.check_same([(piece.header.shard_index, piece.seal.digest) for piece in ledger.pieces])
        summary = merged.publish_set(
            folder,
            _content(ledger, mode, merge_id, progress, check),
            _utterances(ledger, labels),
            _failure_rows(ledger),
            summarise(ledger, mode, labels if config.labels else None),
        )
    if config.delete_shards:
        summary = _delete_shards(inventory, summary)
    files.sweep_temporaries(folder.shards, everything=inventory.is_complete)
    files.sweep_temporaries(folder.path, everything=inventory.is_complete, spare_s=_OTHER_MERGE_S)
    _judge(folder, summary, allowed_failures(config))
    return summary


def _summary_before(folder: FeatureDir) -> dict[str, Any] | None:
    """Return the summary of an earlier merge; None if there is none, or if this merge will replace a damaged one."""
    try:
        return merged.read_summary(folder)
    except CorruptFileError:
        if not shard_names(folder):
            raise
        return None


@dataclass(frozen=True)
class _MergeInputs:
    """Content of what is merged; the same inputs give the same files."""

    inventory: ShardInventory
    labels: str
    """SHA-256 of the manifest that provides the labels."""
    shards: Sequence[tuple[int, str]]
    """Index and digest of each shard."""

    @classmethod
    def of(cls, inventory: ShardInventory, labels: Path) -> _MergeInputs:
        if not labels.exists():
            raise ManifestError(f"{labels}: no such manifest; --labels wants one that `voxshard prepare` wrote")
        shards = [(index, seal.read_digest(inventory.path(index), "shard")) for index in inventory.present]
        return cls(inventory, files.sha256_of(labels), shards)

    def merge_id(self, mode: str) -> str:
        identity = self.inventory.identity
        return files.digest_of(
            {
                "format_version": FORMAT_VERSION,
                "fingerprint": identity.fingerprint,
                "plan_hash": identity.plan_hash,
                "mode": mode,
                "labels": self.labels,
                "shards": [list(shard) for shard in self.shards],
            }
        )

    def check_same(self, shards: Sequence[tuple[int, str]]) -> None:
        """Raise StaleShardError if a shard was replaced since the digests were read."""
        if list(shards) != list(self.shards):
            raise StaleShardError(f"{self.inventory.folder.path}: a shard was replaced during the merge; merge again")


def _mode(inventory: ShardInventory, config: MergeConfig) -> Mode:
    mode: Mode = "index" if config.mode == "index" else "packed"
    num_bytes = 0
    if config.mode == "auto":
        num_bytes = sum(inventory.path(index).stat().st_size for index in inventory.present)
        mode = "packed" if num_bytes <= PACKED_UP_TO_BYTES else "index"
    if config.delete_shards and mode == "index":
        size = f" of {num_bytes / 2**30:.0f} GiB (over 64 GiB, auto chooses index)" if config.mode == "auto" else ""
        raise ConfigError(f"--delete-shards: an index{size} reads from its shards; add --mode packed, or keep them")
    if config.delete_shards and not inventory.is_complete:
        raise ConfigError(
            f"--delete-shards: {len(inventory.missing) + len(inventory.pending)} of {len(inventory.shards)} shards "
            "are still to come, and they could not be merged with deleted ones; finish them first"
        )
    return mode


def is_intact(folder: FeatureDir, summary: Mapping[str, Any]) -> bool:
    """Whether the merged files are those that a summary describes, byte for byte."""
    try:
        found = seal.check_seal(folder.features, "features")
        is_same = found.version == 1 or found.digest == summary["files"][folder.features.name]["digest"]
        return is_same and not merged.differs_from_summary(folder, summary)
    except (CorruptFileError, FileNotFoundError):
        return False


def _utterances(ledger: MergeLedger, labels: Path) -> Iterator[pa.Table]:
    """Yield tables of the manifest rows that belong to the rows of the arrays, in the order of the arrays."""
    row = 0
    for table in _rows_ok(ledger, labels):
        table = table.drop_columns([name for name in merged.FRAME_COLUMNS if name in table.column_names])
        if ledger.offsets is not None:
            offsets = ledger.offsets[row : row + len(table) + 1]
            for name, column in zip(merged.FRAME_COLUMNS, (offsets[:-1], np.diff(offsets)), strict=True):
                table = table.append_column(name, pa.array(column))
        row += len(table)
        yield _with_warnings(table, ledger.warnings)


def _with_warnings(table: pa.Table, warnings: Mapping[str, str]) -> pa.Table:
    """Append the warnings of the extraction to the column `warning` of a table."""
    if not warnings:
        return table
    ids = table["utterance_id"].to_pylist()
    before = table["warning"].to_pylist() if "warning" in table.column_names else [None] * len(ids)
    texts = [_joined(earlier, warnings.get(name)) for name, earlier in zip(ids, before, strict=True)]
    column = pa.array(texts, pa.string())
    if "warning" in table.column_names:
        return table.set_column(table.column_names.index("warning"), "warning", column)
    return table.append_column("warning", column)


def _joined(earlier: Any, found: str | None) -> str | None:
    texts = [str(text) for text in (earlier, found) if text is not None]
    return "; ".join(texts if len(texts) < 2 or texts[1] not in texts[0] else texts[:1]) or None


def _rows_ok(ledger: MergeLedger, labels: Path) -> Iterator[pa.Table]:
    folder = ledger.inventory.folder
    if labels == folder.manifest:
        for start, table in ManifestFile(labels).groups():
            yield table.filter(pa.array(ledger.ok[start : start + len(table)]))
        return
    table = Manifest.read(labels).table
    ids = pa.chunked_array(ledger.ids(), pa.string()).combine_chunks()
    rows = pc.index_in(ids, table["utterance_id"].combine_chunks())
    if rows.null_count:
        first = ids.filter(pc.is_null(rows))[0].as_py()
        raise ManifestError(
            f"{labels}: {rows.null_count} of the {len(ids)} utterances of {folder.path} "
            f"are not in it, first {first!r}; --labels wants a manifest with every one of them"
        )
    yield table.take(rows)


def _failure_rows(ledger: MergeLedger) -> Iterator[dict[str, Any]]:
    failures = iter(ledger.failures)
    row, failure = next(failures, (-1, None))
    if failure is None:
        return
    for start, table in ManifestFile(ledger.inventory.folder.manifest).groups(["path", "split"]):
        while failure is not None and row < start + len(table):
            about = table.slice(row - start, 1).to_pylist()[0]
            path = about["path"]
            yield {
                "utterance_id": failure.utterance_id,
                "path": os.fsdecode(path) if isinstance(path, bytes) else path,
                "split": about["split"],
                "error": failure.error,
                "message": failure.message,
            }
            row, failure = next(failures, (-1, None))


def _content(ledger: MergeLedger, mode: Mode, merge_id: str, progress: Progress, check: Callable[[], None]) -> Content:
    pieces, identity = ledger.pieces, ledger.inventory.identity
    rows = np.cumsum([0, *(piece.num_rows for piece in pieces)])
    frames = np.cumsum([0, *(piece.num_frames for piece in pieces)])
    shards: dict[str, npt.NDArray[Any]] = {
        "name": np.array([piece.path.name for piece in pieces], np.bytes_),
        "digest": np.array([piece.seal.digest for piece in pieces], np.bytes_),
        "first_row": rows[:-1],
        "num_rows": np.diff(rows),
        "first_frame": frames[:-1],
        "num_frames": np.diff(frames),
    }
    bulk: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    dtypes: dict[str, str] = {}
    num_codebooks: int | None = None
    for name in ledger.datasets:
        shape, dtype, _ = next(
            piece.datasets[name]
            for piece in sorted(pieces, key=lambda piece: -piece.num_rows)
            if name in piece.datasets
        )
        if mode == "packed":
            bulk[name] = ((int(frames[-1] if name in PER_FRAME else rows[-1]), *shape[1:]), dtype)
        else:
            shards[f"{name}_at"] = np.array(
                [piece.datasets[name][2] if name in piece.datasets else 0 for piece in pieces], np.int64
            )
            dtypes[f"{name}_dtype"] = dtype.str
            if name == "codes" and len(shape) > 1:
                num_codebooks = shape[1]
    totals = totals_of(pieces)
    attributes = {
        "format_version": FORMAT_VERSION,
        "merge_id": merge_id,
        "mode": mode,
        "encoder": identity.encoder,
        "fingerprint": identity.fingerprint,
        "plan_hash": identity.plan_hash,
        **identity.facts(),
        "num_codebooks": num_codebooks,
        "software": json.dumps(totals["software"], sort_keys=True),
        "image_digest": ", ".join(totals["image_digests"]) or None,
        "audio_s": totals["audio_s"],
        **{f"{name}_s": seconds for name, seconds in totals["seconds"].items()},
        "self_check": totals["self_check"],
        **dtypes,
    }

    def fill(descriptor: int, places: Mapping[str, int]) -> Mapping[str, merged.Blocks]:
        progress.begin("merge", items=len(pieces))
        return copy_shards(pieces, descriptor, places, progress, check)

    return Content(
        attributes=attributes,
        num_rows=int(rows[-1]),
        num_id_bytes=ledger.num_id_bytes,
        ids=ledger.ids,
        failures=[failure for _, failure in ledger.failures],
        warnings=ledger.warnings,
        offsets=ledger.offsets,
        shards=shards,
        bulk=bulk,
        fill=fill,
    )


def _delete_shards(inventory: ShardInventory, summary: dict[str, Any]) -> dict[str, Any]:
    folder = inventory.folder
    with merged.exclusive(folder):
        now = merged.read_summary(folder)
        if now is None or now["merge_id"] != summary["merge_id"] or not is_intact(folder, now):
            raise StaleShardError(
                f"{folder.path}: another merge replaced this one before its shards were deleted; none was, merge again"
            )
        summary = {**now, "shards": {**now["shards"], "deleted": True}}
        merged.write_summary(folder, summary)
    for index in inventory.present:
        inventory.path(index).unlink()
    return summary


def _merged_and_deleted(folder: FeatureDir, summary: dict[str, Any], config: MergeConfig) -> dict[str, Any]:
    if config.labels or config.mode == "index" or not is_intact(folder, summary):
        raise IncompleteError(
            f"{folder.path}: its shards were deleted after an earlier merge, so it cannot be merged again; "
            "what exists stays, or extract it again into another --out"
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
        f"Fix the recordings and run `voxshard retry {quoted(folder.path)} --failed`, "
        f"or accept it with `voxshard merge {quoted(folder.path)} --max-failure-fraction {enough:g}`"
    )
