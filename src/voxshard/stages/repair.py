"""Repeated extraction of the missing shards of a feature set, or of its failed utterances."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from voxshard import audio
from voxshard.audio.members import file_of
from voxshard.config import load_yaml, merged, validated
from voxshard.errors import IncompleteError, MissingRecordingError
from voxshard.extraction.heartbeat import read_progress
from voxshard.extraction.pipeline import ShardResult, ShardWork
from voxshard.manifest import Utterance
from voxshard.stages import extract
from voxshard.stages.base import Task
from voxshard.stages.extract import ExtractConfig, Extraction, ExtractResult
from voxshard.store.layout import FeatureDir, Identity
from voxshard.store.merged import mark_stale
from voxshard.store.shard import Shard, read_shard, write_shard


@dataclass(frozen=True)
class Repaired:
    """Result of a repeated extraction of failed utterances."""

    num_tried: int
    num_ok: int
    """Number of the tried utterances that are embedded now."""


def last_config(folder: FeatureDir, overrides: dict[str, object] | None = None) -> ExtractConfig:
    """Return the options of the last extraction into a folder, for the folder's own copy of the manifest.

    Raises
    ------
    IncompleteError : nothing was extracted there.
    """
    Identity.read(folder.identity)  # raises if there is none
    if not folder.config.exists():
        raise IncompleteError(f"{folder.path}: no {folder.config.name}; it was not made by `voxshard extract`")
    content = load_yaml(folder.config)
    content |= {
        "manifest": folder.manifest,
        "out": folder.path,
        "limit": None,
        "shards": None,
        "split": None,
        "reuse": None,
    }
    return validated(ExtractConfig, merged(content, overrides or {}), where=str(folder.config))


def missing(config: ExtractConfig, task: Task | None = None) -> list[ExtractResult]:
    """Extract the missing shards of every split that was started."""
    folder = FeatureDir(config.out)
    splits = begun_splits(folder)
    if None in splits:
        return [extract.run(config, task)]
    return [extract.run(config.model_copy(update={"split": split}), task) for split in sorted(filter(None, splits))]


def begun_splits(folder: FeatureDir) -> set[str | None]:
    """Return the splits whose extraction was started; None stands for all of them."""
    return {state.split for state in read_progress(folder.progress)} or {None}


def failed(config: ExtractConfig, task: Task | None = None) -> Repaired:
    """Encode the failed utterances of published shards again, and replace the shards that gain embeddings.

    The merged files are stale afterwards: merge again.
    """
    extraction = Extraction.open(config, task or Task())
    with_failures: dict[int, Shard] = {}
    for index in extraction.shards_of(None):
        path = extraction.folder.shard(index, len(extraction.shards))
        if path.exists() and (shard := read_shard(path)).failures:
            with_failures[index] = shard
    num_tried = sum(len(shard.failures) for shard in with_failures.values())
    if not with_failures:
        return Repaired(0, 0)
    extraction.encode(
        _failed_works(extraction, with_failures),
        lambda result: _put_back(extraction, with_failures[result.index], result),
        num_shards=len(with_failures),
        num_utterances=num_tried,
        audio_s=None,
    )
    return Repaired(num_tried, extraction.num_ok)


def _failed_works(extraction: Extraction, shards: dict[int, Shard]) -> Iterator[ShardWork]:
    for index, shard in shards.items():
        names = {failure.utterance_id for failure in shard.failures}
        utterances = extraction.utterances_of(index)
        yield ShardWork(index, [_as_it_is_now(extraction, item) for item in utterances if item.utterance_id in names])


def _as_it_is_now(extraction: Extraction, utterance: Utterance) -> Utterance:
    """Return a failed utterance without what prepare found, which may have been fixed since.

    Only a file that was missing and still is keeps its problem. Its folder may be missing too, as for a link to
    nowhere, and that would be taken for storage that is lost.
    """
    place = audio.resolve(extraction.root, utterance.path)
    was_missing = (utterance.problem or "").startswith(MissingRecordingError.__name__)
    if was_missing and not audio.is_url(place) and not os.path.exists(file_of(place)):  # noqa: PTH110  bytes, or text
        return utterance
    return replace(utterance, problem=None)


def _put_back(extraction: Extraction, shard: Shard, result: ShardResult) -> None:
    if not result.outputs:
        return
    mark_stale(extraction.folder)
    found = dict(shard.outputs()) | dict(result.outputs)
    order = [utterance.utterance_id for utterance in extraction.utterances_of(result.index)]
    header = extraction.header(result)
    before = shard.header
    header = replace(
        header,
        audio_s=before.audio_s + header.audio_s,
        decode_s=before.decode_s + header.decode_s,
        encode_s=before.encode_s + header.encode_s,
        write_s=before.write_s + header.write_s,
    )
    write_shard(
        Path(shard.path),
        header,
        [(name, found[name]) for name in order if name in found],
        result.failures,
        store_dtype=extraction.settings.store_dtype,
        replace=True,
        warnings={**shard.warnings, **result.warnings},
    )
