"""Reuse of rows of an earlier feature set, for a corpus that grew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from voxshard.encoders.base import EncoderInfo, Output
from voxshard.errors import ConfigError, IdentityError
from voxshard.manifest import Utterance
from voxshard.store.features import FeatureSet
from voxshard.store.hdf5 import BULK, PER_FRAME

_FACTS = ("path", "start_s", "end_s", "num_bytes")
"""Columns of a recording that must be the same, in addition to its utterance_id."""


@dataclass(frozen=True)
class ReusedRows:
    """Rows of a merged set for some utterances."""

    outputs: Mapping[str, Output] = field(default_factory=dict)
    """Stored outputs by utterance_id."""
    warnings: Mapping[str, str] = field(default_factory=dict)
    """Warnings of decoding by utterance_id."""


class ReusableRows:
    """Rows of a merged set that belong to the same recordings."""

    def __init__(self, features: FeatureSet) -> None:
        self._features = features
        self._table = features.table.select(_FACTS)

    @classmethod
    def open(cls, path: Path, info: EncoderInfo) -> ReusableRows:
        """Open a merged set that the same encoder made.

        Raises
        ------
        IdentityError : of another fingerprint.
        ConfigError : merged with the labels of another manifest, so that it does not describe its recordings.
        DataError : it cannot be opened; see `FeatureSet`.
        """
        features = FeatureSet(path)
        if features.fingerprint != info.fingerprint:
            raise IdentityError(
                f"--reuse {path}: {features.encoder} with fingerprint {features.fingerprint[:12]}, this extraction is "
                f"{info.name} with {info.fingerprint[:12]}; its numbers would be others. Use the same encoder, "
                "settings and weights, or omit --reuse"
            )
        missing = [name for name in _FACTS if name not in features.table.column_names]
        if features.summary["labels"] is not None or missing:
            raise ConfigError(
                f"--reuse {path}: its utterances.parquet has the columns of another manifest; merge it again without "
                "--labels"
            )
        return cls(features)

    def read(self, utterances: Sequence[Utterance]) -> ReusedRows:
        """Return the row of each utterance with the same path, size and span.

        Utterances whose size in bytes is unknown are left out: nothing shows that the recording is the same.

        Raises
        ------
        CorruptFileError : a byte of the set has changed.
        """
        rows = self._features.rows([utterance.utterance_id for utterance in utterances])
        known = np.flatnonzero(rows >= 0)
        facts = self._table.take(rows[known]).to_pylist()
        same = [
            position
            for position, fact in zip(known.tolist(), facts, strict=True)
            if fact["num_bytes"] is not None
            and all(fact[name] == getattr(utterances[position], name) for name in _FACTS)
        ]
        if not same:
            return ReusedRows()
        batch = self._features.read(rows[same])
        found: dict[str, Output] = {}
        for index, name in enumerate(batch.ids):
            output: Output = {}
            for key, dataset in BULK.items():
                values = getattr(batch, dataset)
                if values is None:
                    continue
                if key in PER_FRAME:
                    assert batch.offsets is not None
                    output[key] = values[batch.offsets[index] : batch.offsets[index + 1]]
                else:
                    output[key] = values[index]
            found[name] = output
        warnings = self._features.decoding_warnings
        return ReusedRows(found, {name: warnings[name] for name in found if name in warnings})
