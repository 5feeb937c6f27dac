"""Training and test rows of one or several feature sets, joined by utterance_id and read piece by piece.

Letters: U utterances, N rows (utterances, or their frames or windows), D embedding size, L layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from voxshard.errors import ConfigError, EmptyCorpusError, FeatureMismatchError
from voxshard.learning.model import FeatureSource, Model
from voxshard.locations import origin
from voxshard.manifest import Manifest
from voxshard.store.features import FeatureSet
from voxshard.store.ingest import ENCODER

Ints = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

BLOCK_BYTES = 256 << 20
"""Rows are scored in pieces of about this size."""
_READ_BYTES = 32 << 20
_RUN_ROWS = 16
"""Rows that must be next to each other on average to be read run by run."""


@dataclass(frozen=True)
class _Part:
    """Rows of one of the joined feature sets."""

    rows: Any
    """(N, D) or (N, L, D), on disk: `voxshard.store.mapped.Rows`."""
    first: Ints
    """(U,) first row of each utterance."""
    layer: int | None

    @property
    def dim(self) -> int:
        shape = self.rows.shape[1:]
        return int(shape[-1] if self.layer is not None else np.prod(shape))

    def take(self, rows: Ints) -> Array:
        """Read rows. Neighbouring rows are read instead of mapped: mapped pages would count as memory of this process,
        in addition to the rows themselves."""
        borders = np.flatnonzero(np.diff(rows) != 1) + 1
        if isinstance(self.rows, np.ndarray) or (len(borders) + 1) * _RUN_ROWS > len(rows):
            return self._chosen(np.asarray(self.rows[rows]))
        taken = np.empty((len(rows), self.dim), np.float32 if self.rows.dtype == np.float16 else self.rows.dtype)
        size = max(1, _READ_BYTES // max(1, self.rows.dtype.itemsize * int(np.prod(self.rows.shape[1:]))))
        start = 0
        for run in np.split(rows, borders):
            for first in range(int(run[0]), int(run[-1]) + 1, size):
                piece = self._chosen(self.rows.read(first, min(first + size, int(run[-1]) + 1)))
                taken[start : start + len(piece)] = piece
                start += len(piece)
        return taken

    def _chosen(self, rows: Array) -> Array:
        """Return the rows as (B, D) of the selected layer, in the type for training."""
        if self.layer is not None:
            rows = rows[:, self.layer]
        rows = rows.reshape(len(rows), -1)
        return rows.astype(np.float32) if rows.dtype == np.float16 else rows


class ArrayRows:
    """Rows in memory, one per utterance, for `voxshard.learning.training.predict`.

    Parameters
    ----------
    rows : (N, D), or (N, L, D) for a model that was trained on several layers.
    layer : the layer the model uses; None: all of them, one after the other.
    """

    is_joined = False

    def __init__(self, rows: Array, *, layer: int | None) -> None:
        self._part = _Part(rows, np.arange(len(rows)), layer if rows.ndim == 3 else None)
        self.dim = self._part.dim

    def blocks(self, utterances: Ints) -> Iterator[tuple[Array, Ints, Ints]]:
        """Yield the rows block by block; see `Dataset.blocks`."""
        size = max(1, BLOCK_BYTES // (4 * self.dim))
        for start in range(0, len(utterances), size):
            positions = np.arange(start, min(start + size, len(utterances)))
            yield self._part.take(utterances[positions]), positions, np.arange(len(positions))


class ManifestColumns:
    """Access to the splits and columns of a manifest."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @cached_property
    def splits(self) -> list[str | None]:
        """Split of every utterance."""
        column = (
            self.table["split"] if "split" in self.table.column_names else pa.nulls(self.table.num_rows, pa.string())
        )
        return column.to_pylist()  # type: ignore[no-any-return]

    @property
    def split_names(self) -> list[str]:
        """Names of the splits, in order of first appearance."""
        return [name for name in dict.fromkeys(self.splits) if name is not None]

    @property
    def splits_text(self) -> str:
        """Names of the splits as text for messages."""
        return ", ".join(self.split_names) or "none"

    def in_split(self, split: str | None) -> npt.NDArray[np.bool_]:
        """Return whether each utterance has this split, (U,); None selects every utterance."""
        return np.array([split is None or found == split for found in self.splits], bool)

    def column(self, name: str, *, option: str) -> list[str | None]:
        """Return a column as text.

        Raises
        ------
        ConfigError : no such column; names the option that asked for it.
        """
        if name not in self.table.column_names:
            raise ConfigError(f"{option} {name}: no such column; columns here: {', '.join(self.table.column_names)}")
        return [None if value is None else str(value) for value in self.table[name].to_pylist()]


class Dataset(ManifestColumns):
    """Utterances with features and the columns of their manifest.

    Parameters
    ----------
    sets : one set of any granularity, or several with one vector per utterance.
    layer : position of the layer to use where sets have several (N, L, D); None takes all, one after the other.
    manifest : its rows and columns, as far as they have features, in place of those of the first set.

    Raises
    ------
    FeatureMismatchError : sets that cannot be joined, or that share no utterance.
    EmptyCorpusError : a set without utterances.
    ConfigError : a layer that does not exist.
    """

    def __init__(
        self, sets: Sequence[FeatureSet], *, layer: int | None = None, manifest: Manifest | None = None
    ) -> None:
        if len(sets) > 1 and any(item.granularity != "utterance" for item in sets):
            of = ", ".join(f"{item.path} has {item.granularity}" for item in sets if item.granularity != "utterance")
            raise FeatureMismatchError(
                f"only sets with one vector per utterance can be joined; {of}. Extract it with --set pooling=mean"
            )
        empty = next((item for item in sets if not len(item)), None)
        if empty is not None:
            raise EmptyCorpusError(
                f"{empty.path} has no utterance, only failures; {empty.path / 'failures.csv'} has the reasons"
            )
        table = manifest.table if manifest else sets[0].table
        found = [item.rows(table["utterance_id"].to_pylist()) for item in sets]
        shared = np.flatnonzero(np.all([rows >= 0 for rows in found], axis=0))
        if not len(shared):
            names = " and ".join(str(item.path) for item in sets)
            whose = f"{names} and the manifest" if manifest else names
            raise FeatureMismatchError(
                f"{whose} share no utterance_id; they are of other corpora, or ids were made otherwise"
            )
        self.num_missing = len(table) - len(shared)
        """Utterances of the first set, or of the manifest, that not every set has."""
        self.sources = [source_of(item) for item in sets]
        counts = np.ones(len(shared), np.int64)
        parts = []
        for item, rows in zip(sets, found, strict=True):
            first = rows[shared]
            if item.granularity == "utterance":
                parts.append(_Part(item.complete("embeddings"), first, _layer(item, layer)))
            else:
                assert item.offsets is not None
                counts = item.offsets[first + 1] - item.offsets[first]
                parts.append(_Part(item.complete("frames"), item.offsets[first], _layer(item, layer)))
        kept = np.flatnonzero(counts)
        self.num_without_rows = len(shared) - len(kept)
        """Utterances too short for a single frame or window; they are left out."""
        self.counts: Ints = counts[kept]
        """(U,) rows of each utterance."""
        self._parts = [_Part(part.rows, part.first[kept], part.layer) for part in parts]
        self.table: pa.Table = table.take(shared[kept])
        """U rows of the manifest."""
        self.is_joined = bool((self.counts != 1).any()) or sets[0].granularity != "utterance"
        """Decisions on several rows become one."""

    @classmethod
    def open(cls, paths: Sequence[Path], *, layer: int | None = None, manifest: Manifest | None = None) -> Dataset:
        """Open merged feature sets and join them."""
        return cls([FeatureSet(path) for path in paths], layer=layer, manifest=manifest)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def dim(self) -> int:
        """Number of values per row."""
        return sum(part.dim for part in self._parts)

    def num_rows(self, utterances: Ints) -> int:
        """Return the number of rows of some utterances."""
        return int(self.counts[utterances].sum())

    def rows_of(self, utterances: Ints) -> tuple[list[Ints], Ints]:
        """Return the positions of the rows of some utterances.

        Returns
        -------
        per feature set the (N,) rows in it, those of an utterance next to each other; and the (U,) position of each
        utterance's first row among the N.
        """
        counts = self.counts[utterances]
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
        within = np.arange(counts.sum()) - np.repeat(starts, counts)
        return [np.repeat(part.first[utterances], counts) + within for part in self._parts], starts

    def take(self, rows: Sequence[Ints]) -> Array:
        """Read rows, (N, D), in their stored type (float16 as float32); the rows of several sets are concatenated."""
        blocks = [part.take(which) for part, which in zip(self._parts, rows, strict=True)]
        return blocks[0] if len(blocks) == 1 else np.hstack(blocks)

    def blocks(self, utterances: Ints) -> Iterator[tuple[Array, Ints, Ints]]:
        """Yield the rows of some utterances in blocks of complete utterances.

        Yields
        ------
        rows (N, D), positions of their utterances in `utterances`, and the first row of each of these.
        """
        budget = max(1, BLOCK_BYTES // (4 * self.dim))
        ends = np.cumsum(self.counts[utterances])
        start = 0
        while start < len(utterances):
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + budget, side="right")))
            rows, starts = self.rows_of(utterances[start:stop])
            yield self.take(rows), np.arange(start, stop), starts
            start = stop

    def check_made_for(self, model: Model) -> None:
        """Raise FeatureMismatchError unless the features have the fingerprints that a model was trained on.

        Raises
        ------
        FeatureMismatchError : names both.
        """
        wanted, found = model.features, self.sources
        if len(wanted) != len(found):
            raise FeatureMismatchError(
                f"the model was trained on {len(wanted)} feature sets joined, here are {len(found)}"
            )
        for theirs, ours in zip(wanted, found, strict=True):
            if theirs.fingerprint != ours.fingerprint:
                advice = (
                    "Ingest the files together: `voxshard ingest train=FILE test=FILE`"
                    if ours.encoder == theirs.encoder == ENCODER
                    else "Extract with the same encoder, settings and weights, or train again"
                )
                raise FeatureMismatchError(
                    f"{ours.path}: {ours.encoder} with fingerprint {ours.fingerprint[:12]}; the model was trained on "
                    f"{theirs.encoder} with fingerprint {theirs.fingerprint[:12]} ({theirs.path}). {advice}"
                )


def _layer(features: FeatureSet, layer: int | None) -> int | None:
    if layer is None:
        return None
    if features.num_layers is None:
        raise ConfigError(f"layer={layer}: {features.path} has one layer only; leave the setting out")
    if layer >= features.num_layers:
        raise ConfigError(f"layer={layer}: {features.path} has {features.num_layers} layers, counted from 0")
    return layer


def source_of(features: FeatureSet) -> FeatureSource:
    """Describe a feature set for the config of a run."""
    path = origin(features.path.resolve())
    return FeatureSource(path=str(path), name=path.name, encoder=features.encoder, fingerprint=features.fingerprint)
