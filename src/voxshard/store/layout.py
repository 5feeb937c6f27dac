"""Paths, identity and plan (which shard contains which utterance) of one feature set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pydantic

from voxshard import files
from voxshard.errors import ConfigError, CorruptFileError, FormatVersionError, IdentityError, IncompleteError
from voxshard.files import quoted
from voxshard.manifest import ROW_GROUP, parquet_options
from voxshard.no_table import NO_TABLE
from voxshard.store.output_spec import OutputSpec

_AT_ONCE = 1 << 16
PLAN_FOOTER = b"voxshard"
"""Key of the table of shards in the footer of plan.parquet."""

FORMAT_VERSION = 2
"""Format version of shards, merged files, plan and identity; see docs/decisions/format-2.md."""


def shard_name(index: int, count: int) -> str:
    """Return the file name of shard `index` of `count`."""
    return f"shard-{index:05d}-of-{count:05d}.h5"


def sets_below(path: Path) -> list[Path]:
    """Return the feature sets in a folder and in its `features`, which an experiment has."""
    below = [*sorted(path.glob("*")), *sorted((path / "features").glob("*"))]
    return [item for item in below if FeatureDir(item).identity.exists()]


@dataclass(frozen=True)
class FeatureDir:
    """The paths of a feature set (DIR in the documentation)."""

    path: Path

    @property
    def identity(self) -> Path:
        return self.path / "identity.json"

    @property
    def config(self) -> Path:
        """File with the resolved options of the last extraction; unlike the identity, these may change."""
        return self.path / "config.yaml"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.parquet"

    @property
    def plan(self) -> Path:
        return self.path / "plan.parquet"

    @property
    def shards(self) -> Path:
        return self.path / "shards"

    @property
    def progress(self) -> Path:
        return self.path / "progress"

    @property
    def features(self) -> Path:
        return self.path / "features.h5"

    @property
    def utterances(self) -> Path:
        return self.path / "utterances.parquet"

    @property
    def failures(self) -> Path:
        return self.path / "failures.csv"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    def shard(self, index: int, count: int) -> Path:
        """Return the path of shard `index` of `count`; the name contains both numbers."""
        return self.shards / shard_name(index, count)

    def check_is_feature_dir(self, *also: Path) -> None:
        """Raise ConfigError if writing a feature set here would replace files of something else.

        Parameters
        ----------
        also : further files of the set that the caller replaces.

        Raises
        ------
        ConfigError : the path is a file, or holds one of a feature set's files and no identity: a run or an experiment.
        """
        if self.path.is_file():
            raise ConfigError(f"--out {self.path}: a file; a feature set is a folder, give a new name")
        ours = (self.config, self.features, self.utterances, self.failures, self.summary, *also)
        there = [path.name for path in ours if path.exists()]
        if there and not self.identity.exists():  # looked at last: another task may publish it at this moment
            raise ConfigError(
                f"--out {self.path}: its {', '.join(there)} would be replaced, and it is no feature set; "
                "give a new name"
            )


@dataclass(frozen=True, kw_only=True)
class Identity(OutputSpec):
    """Inputs of a feature set; its first extraction freezes them, and every later command is compared with them."""

    encoder: str
    fingerprint: str
    provenance: Mapping[str, Any]
    manifest_hash: str
    """Result of `Manifest.content_digest()`."""
    plan_hash: str
    num_shards: int
    num_utterances: int
    weights_folder: str | None
    weight_files: Sequence[Mapping[str, Any]]
    """Entries with name, num_bytes, mtime_ns and sha256 of each weights file."""
    manifest_source: Mapping[str, Any] | None = None
    """num_bytes, mtime_ns and sha256 of the input manifest; None in format 1."""
    manifest_limit: int | None = None
    """Number of rows taken from the start of the input manifest; None: all rows."""
    shards_asked: int | None = None
    """Value of `--shards`; None: chosen by the amount of audio."""
    manifest_file: str | None = None
    """SHA-256 of DIR/manifest.parquet, which covers every column; None in format 1."""
    plan_file: str | None = None
    """SHA-256 of DIR/plan.parquet; None in format 1."""
    shard_table: str | None = None
    """SHA-256 of the table of shards in the plan's footer; None in format 1."""
    format_version: int = FORMAT_VERSION

    def write(self, path: Path) -> None:
        """Publish the identity. The first writer wins, so callers read it back."""
        files.publish_json(path, sealed(asdict(self)), first_wins=True)

    @classmethod
    def read(cls, path: Path) -> Identity:
        """Read `DIR/identity.json`.

        Raises
        ------
        IncompleteError : there is none: nothing was extracted here.
        FormatVersionError : written by a newer voxshard.
        CorruptFileError : not what voxshard writes.
        """
        try:
            content = read_sealed(path)
        except (FileNotFoundError, NotADirectoryError) as exc:
            if path.parent.is_file():
                raise IncompleteError(f"{path.parent}: a file; expected a feature set, which is a folder") from exc
            below = ", ".join(map(files.quoted, sets_below(path.parent)))
            remedy = f"give one of those in it: {below}" if below else "make one with `voxshard extract`"
            raise IncompleteError(f"{path.parent}: no feature set here (no {path.name}); {remedy}") from exc
        try:
            cls(**content)  # the names
            return pydantic.TypeAdapter(cls).validate_python(content)
        except (TypeError, pydantic.ValidationError) as exc:
            text = " ".join(str(exc).split())[:300]
            raise CorruptFileError(f"{path}: not an identity file of voxshard: {text}") from exc

    def check_files(self, folder: FeatureDir) -> None:
        """Compare manifest and plan with the digests that were recorded when the set was created.

        Raises
        ------
        CorruptFileError : a byte of one of them has changed.
        IncompleteError : one is missing.
        """
        for path, wanted in ((folder.manifest, self.manifest_file), (folder.plan, self.plan_file)):
            if wanted is None:
                continue
            try:
                matches = files.sha256_of(path) == wanted
            except FileNotFoundError as exc:
                raise IncompleteError(f"{path}: missing; restore it, or extract into another folder") from exc
            if not matches:
                raise CorruptFileError(
                    f"{path}: does not match its SHA-256 in {folder.identity.name}: damaged or replaced; restore it, "
                    "or extract into another folder"
                )

    def check_same(self, other: Identity, folder: Path) -> None:
        """Raise IdentityError if another identity has other inputs than this one.

        Raises
        ------
        IdentityError : names the difference.
        """
        differences = list(_differences("", dict(self.provenance), dict(other.provenance)))
        for name, what in (
            ("manifest_hash", "the manifest's utterances or spans"),
            ("plan_hash", "the plan of shards"),
        ):
            if getattr(self, name) != getattr(other, name):
                differences.append(what)
        if differences:
            raise IdentityError(
                f"{folder} was made with other inputs; different: {'; '.join(differences)}. "
                "Give the same ones, or another --out"
            )


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON content together with its own digest."""
    return {**content, "digest": files.digest_of(content)}


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a JSON file and compare it with the digest it contains; files of format 1 have none.

    Raises
    ------
    FileNotFoundError : there is none.
    FormatVersionError : written by a newer voxshard.
    CorruptFileError : not what voxshard writes, or changed since.
    """
    try:
        content = json.loads(files.read_bytes(path))
        found = content["format_version"]
        digest = content.pop("digest", None)
        if isinstance(found, bool) or not isinstance(found, int):
            raise TypeError(f"format_version is {found!r}")
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise CorruptFileError(f"{path}: not a file that voxshard wrote, or damaged: {exc}") from exc
    if found > FORMAT_VERSION:
        raise FormatVersionError(f"{path}: format {found}, this voxshard reads up to {FORMAT_VERSION}; update it")
    if (digest is not None or found > 1) and digest != files.digest_of(content):
        raise CorruptFileError(f"{path}: does not match its own digest: damaged, or edited by hand")
    return dict(content)


def _differences(prefix: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key, "default"), now.get(key, "default")
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _differences(f"{prefix}{key}.", old, new)
        elif old != new:
            found.append(f"{prefix}{key} ({_short(old)} there, {_short(new)} here)")
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text


class Texts(Sequence[str]):
    """Sequence of texts in one Arrow array, which takes a fraction of the memory of Python strings."""

    def __init__(self, array: pa.Array) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, key: int) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> list[str]: ...
    def __getitem__(self, key: int | slice) -> str | list[str]:
        found = self.array[key]
        texts: str | list[str] = found.to_pylist() if isinstance(key, slice) else found.as_py()
        return texts

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self[start : start + _AT_ONCE]


def text_and_ends(ids: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the concatenated UTF-8 text of N ids, and the position in it where each id ends, (N,)."""
    if not len(ids):
        return np.empty(0, np.uint8), np.empty(0, np.int64)
    ids = ids.cast(pa.large_binary())
    _, ends, text = ids.buffers()
    offsets = np.frombuffer(ends, np.int64, len(ids) + 1, ids.offset * 8)
    size = int(offsets[-1] - offsets[0])
    return np.frombuffer(text or b"", np.uint8, size, int(offsets[0]) if size else 0), offsets[1:] - offsets[0]


@dataclass(frozen=True)
class Plan:
    """The shard of each utterance: contiguous ranges of the manifest, in its order."""

    utterance_ids: Sequence[str]
    shard: npt.NDArray[np.int32]
    """(N,) shard numbers, starting at 0 and never decreasing."""

    def __len__(self) -> int:
        return len(self.shard)

    @property
    def num_shards(self) -> int:
        return int(self.shard[-1]) + 1 if len(self.shard) else 0

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """First manifest row of each shard, and the number of rows, (num_shards + 1,)."""
        return np.searchsorted(self.shard, np.arange(self.num_shards + 1)).astype(np.int64)

    def rows(self, index: int) -> tuple[int, int]:
        """Return the first manifest row of shard `index`, and the one after its last."""
        start, stop = np.searchsorted(self.shard, [index, index + 1])
        return int(start), int(stop)

    def ids(self, index: int) -> list[str]:
        """Return the utterance_ids of shard `index`, in manifest order."""
        start, stop = self.rows(index)
        return list(self.utterance_ids[start:stop])

    def digest(self) -> str:
        """Return the SHA-256 of the assignment: `files.digest_of([ids, shards])`, computed piece by piece."""
        digest = hashlib.sha256()
        for before, values in (("[[", self.utterance_ids), ("],[", self.shard)):
            for start in range(0, len(self), _AT_ONCE):
                piece = values[start : start + _AT_ONCE]
                text = json.dumps(
                    piece.tolist() if isinstance(piece, np.ndarray) else list(piece), separators=(",", ":")
                )
                digest.update((before + text[1:-1]).encode())
                before = ","
            if not len(self):
                digest.update(before.encode())
        digest.update(b"]]")
        return digest.hexdigest()

    @property
    def ids_array(self) -> pa.Array:
        """All ids as one Arrow array."""
        ids = self.utterance_ids
        return ids.array if isinstance(ids, Texts) else pa.array(ids, pa.string())

    def write(self, path: Path, about: bytes = b"") -> None:
        """Publish the plan as Parquet; the first writer wins.

        Parameters
        ----------
        about : what goes into the footer, for readers who do not need the rows: see `store.shard_table`.
        """
        table = pa.table({"utterance_id": self.ids_array, "shard": pa.array(self.shard, pa.int32())})
        if about:
            table = table.replace_schema_metadata({PLAN_FOOTER: about})
        with files.publish(path, first_wins=True) as stream:
            pq.write_table(table, stream, row_group_size=ROW_GROUP, **parquet_options(table.schema))

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read `DIR/plan.parquet`."""

        def read() -> pa.Table:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                # Threads keep the memory they read with.
                return file.read(["utterance_id", "shard"], use_threads=False).replace_schema_metadata(None)

        with plan_errors(path):
            table = files.with_retries(path, read)
        return cls(Texts(table["utterance_id"].combine_chunks()), table["shard"].to_numpy().astype(np.int32))


@contextmanager
def plan_errors(path: Path) -> Iterator[None]:
    """Convert errors in the block into errors that name the plan: it is missing, or not a plan."""
    try:
        yield
    except FileNotFoundError as exc:
        raise IncompleteError(
            f"{path}: no plan; run `voxshard extract MANIFEST --out {quoted(path.parent)} --plan-only`"
        ) from exc
    except (OSError, *NO_TABLE) as exc:
        raise CorruptFileError(f"{path}: not a plan: {exc}") from exc
